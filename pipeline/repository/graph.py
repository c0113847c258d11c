"""The graph of a workspace, and what has changed for each of its stages, as DVC tells."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pydantic import TypeAdapter

from pipeline.errors import PipelineError
from pipeline.repository.dvc_files import DVC_FILE, LOCK, StageSettings, read_settings
from pipeline.repository.dvc_worker import DvcWorker

Values = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A node of the graph: a stage of a dvc.yaml, or data that a .dvc file tracks."""

    name: str  # as DVC addresses it: train, sub/dvc.yaml:train, data.dvc
    needs: tuple[str, ...]  # the stages that come before it; none if it is frozen
    file: str  # the dvc.yaml or .dvc file that declares it
    runs: bool  # a command; data and frozen stages run nothing
    is_frozen: bool  # by hand; an import, which always is, does not count
    is_locked: bool  # DVC has recorded it before
    meta: dict[str, Any]  # of its declaration; DVC leaves it alone
    has_metrics: bool
    outs: dict[str, str | None]  # each output's path, and its md5 as recorded
    changes: list[Any]  # what `dvc status` says of it
    params: dict[str, tuple[Values, Values]]  # recorded and present values of those changed
    missing: dict[
        str, str
    ]  # where the data is of outputs that no command makes: see dvc_describe.py

    @property
    def lock(self) -> str:
        """The file in which DVC records it: the dvc.lock beside its dvc.yaml, or its .dvc."""
        path = PurePosixPath(self.file)
        return str(path.with_name(LOCK) if path.name == DVC_FILE.name else path)

    @property
    def settings(self) -> StageSettings:
        """How it is run, from its meta; raise ParamsError with every fault found."""
        return read_settings(self.meta, self.file, self.name.rpartition(":")[2])


STAGES = TypeAdapter(list[Stage])
Graph = dict[str, Stage]  # in the order of `dvc repro`, what a stage needs before it


@dataclass(frozen=True)
class Targets:
    """What `dvc repro` is asked for; without stages, those of the folder's dvc.yaml."""

    stages: tuple[str, ...] = ()
    all_pipelines: bool = False  # every dvc.yaml and .dvc file of the repository

    def arguments(self) -> list[str]:
        stages = ["--", *self.stages] if self.stages else []
        return [*["--all-pipelines"] * self.all_pipelines, *stages]


def read_graph(dvc: DvcWorker, targets: Targets) -> Graph:
    """Ask for the stages that `dvc repro` goes through: the targets and what they need.

    Raises PipelineError if DVC refuses the graph or a target.
    """
    if not (targets.stages or targets.all_pipelines or (dvc.root / DVC_FILE).is_file()):
        raise PipelineError(f"{dvc.root} holds no {DVC_FILE}; run from the folder that does")
    described = dvc.run("describe", *targets.arguments())
    return {stage.name: stage for stage in STAGES.validate_json(described)}


def is_stale(graph: Graph) -> bool:
    return any(stage.changes for stage in graph.values())
