"""The graph of a workspace, and which of its stages are stale, as DVC tells."""

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.repository.dvc_worker import DvcWorker

Graph = dict[str, set[str]]  # each stage, after those it depends on, with them


@dataclass(frozen=True)
class WorkspaceStatus:
    """What DVC says of a workspace as it is now."""

    graph: Graph
    stale: dict[str, list[Any]]  # of each such stage, what changed
    cache: Path


def read_status(dvc: DvcWorker) -> WorkspaceStatus:
    """Raise PipelineError where there is no graph, or DVC refuses it."""
    if not (dvc.root / "dvc.yaml").is_file():
        raise PipelineError(f"{dvc.root} holds no dvc.yaml; run from the folder that does")
    graph, stale = parse_dot(dvc.run("dag", "--dot")), json.loads(dvc.run("status", "--json"))
    return WorkspaceStatus(graph, stale, Path(dvc.run("cache", "dir").strip()))


def parse_dot(dot: str) -> Graph:
    before: Graph = {}
    for stage, after in re.findall(r'^"(.+?)"(?: -> "(.+?)")?;$', dot, re.MULTILINE):
        before.setdefault(stage, set())
        if after:
            before.setdefault(after, set()).add(stage)
    return {stage: before[stage] for stage in TopologicalSorter(before).static_order()}


def upstream(graph: Graph, targets: Iterable[str]) -> Graph:
    """Return the part of `graph` that makes `targets`; raise PipelineError where it has no such
    stage.
    """
    wanted = set(targets)
    if unknown := sorted(wanted - graph.keys()):
        raise PipelineError(
            f"dvc.yaml has no stage {', '.join(unknown)}; it has {', '.join(graph)}"
        )
    for stage in reversed(graph):
        if stage in wanted:
            wanted |= graph[stage]
    return {stage: before for stage, before in graph.items() if stage in wanted}


def chain_up(graph: Graph, stages: Collection[str]) -> list[list[str]]:
    """Split `stages` into rows: each but the first of a row needs the one before it, and none of
    another row.
    """
    rows: list[list[str]] = []
    for stage in filter(stages.__contains__, graph):
        needed = graph[stage].intersection(stages)
        row = next((row for row in rows if row[-1] in needed and needed.issubset(row)), None)
        if row:
            row.append(stage)
        else:
            rows.append([stage])
    return rows
