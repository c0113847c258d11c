"""The graph of a workspace, and which of its stages are stale, as DVC tells."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

from pipeline.errors import PipelineError
from pipeline.repository.dvc_worker import DvcWorker

Graph = dict[str, set[str]]  # each stage with those it depends on, which come before it


@dataclass(frozen=True)
class WorkspaceStatus:
    """What DVC says of a workspace as it is now."""

    graph: Graph
    stale: dict[str, list[Any]]  # what changed for each stage that is stale


def read_status(dvc: DvcWorker) -> WorkspaceStatus:
    """Ask for the graph and for what is stale; raise PipelineError if DVC refuses the graph."""
    if not (dvc.root / "dvc.yaml").is_file():
        raise PipelineError(f"{dvc.root} holds no dvc.yaml; run from the folder that does")
    graph, stale = dvc.run("dag", "--dot"), dvc.run("status", "--json")
    return WorkspaceStatus(parse_dot(graph), json.loads(stale))


def parse_dot(dot: str) -> Graph:
    """Read what `dvc dag --dot` prints, in topological order."""
    before: Graph = {}
    for stage, after in re.findall(r'^"(.+?)"(?: -> "(.+?)")?;$', dot, re.MULTILINE):
        before.setdefault(stage, set())
        if after:
            before.setdefault(after, set()).add(stage)
    return {stage: before[stage] for stage in TopologicalSorter(before).static_order()}


def upstream(graph: Graph, targets: Iterable[str]) -> Graph:
    """Return `targets` with all that they need; raise PipelineError for an unknown stage."""
    wanted = set(targets)
    if unknown := sorted(wanted - graph.keys()):
        raise PipelineError(
            f"dvc.yaml has no stage {', '.join(unknown)}; it has {', '.join(graph)}"
        )
    for stage in reversed(graph):
        if stage in wanted:
            wanted |= graph[stage]
    return {stage: before for stage, before in graph.items() if stage in wanted}
