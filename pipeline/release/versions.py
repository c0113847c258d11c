"""The versions of the model: a list for people, and one for programs."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import PipelineError
from pipeline.params import parse_yaml
from pipeline.paths import METRICS
from pipeline.release.tags import BRANCH_TRAILER, read_trailer
from pipeline.repository.dvc_files import DVC_FILE, flatten
from pipeline.repository.git import read_file


@dataclass(frozen=True)
class Version:
    """A version of the model, such as v1.2.0."""

    name: str
    commit: str
    created: str  # date and time, to the minute
    stages: tuple[str, ...]  # of GTO, such as prod, by name
    metrics: dict[str, float]  # of its commit
    branch: str = ""  # where it was published, if its commit says so


class Model(NamedTuple):
    """The model that dvc.yaml declares."""

    name: str
    path: Path


def read_model(root: Path, commit: str) -> Model:
    """Return the model that dvc.yaml declares; raise PipelineError unless it is one."""
    content = parse_yaml(read_file(root, commit, DVC_FILE), str(DVC_FILE)) or {}
    declared = content.get("artifacts") or {}
    models = [
        Model(name, Path(artifact["path"]))
        for name, artifact in declared.items()
        if artifact.get("type") == "model"
    ]
    if len(models) != 1:
        found = ", ".join(model.name for model in models) or "none"
        raise PipelineError(
            "dvc.yaml: artifacts must hold one entry of type model, the one to publish; found"
            f" {found}"
        )
    return models[0]


def read_model_name(root: Path, commit: str) -> str:
    """Return its name; raise PipelineError unless there is one such model."""
    return read_model(root, commit).name


def read_metrics(content: str | bytes) -> dict[str, float]:
    """{'per_class': {'3': {'f1': 0.99}}} as JSON → {'per_class.3.f1': 0.99}; empty if empty."""
    return flatten(json.loads(content)) if content else {}


def list_versions(root: Path, artifact: str) -> list[Version]:
    """Return every version, the latest first."""
    from gto.constants import VersionSort  # only now: it takes half a second
    from gto.registry import GitRegistry

    with GitRegistry.from_url(str(root)) as registry:
        state = registry.get_state().get_artifacts().get(artifact)
        if not state:
            return []
        assigned = state.get_vstages(sort=VersionSort.Timestamp)
        stages = sorted((stage, found[0].version) for stage, found in assigned.items() if found)
        return [
            Version(
                name=version.version,
                commit=version.commit_hexsha,
                created=version.created_at.isoformat(" ", "minutes"),
                stages=tuple(stage for stage, name in stages if name == version.version),
                metrics=read_metrics(read_file(root, version.commit_hexsha, METRICS)),
                branch=read_trailer(root, version.commit_hexsha, BRANCH_TRAILER),
            )
            for version in state.get_versions()
        ]


def describe(versions: list[Version]) -> str:
    """A table of the versions, with the metrics that are no count and not of a single class."""
    if not versions:
        return "no versions yet"
    hidden = re.compile(r"(^|\.)(per_class|images)(\.|$)")
    metrics = dict.fromkeys(
        name for version in versions for name in version.metrics if not hidden.search(name)
    )
    rows = [["version", "stage", "branch", "commit", "created", *metrics]]
    for version in versions:
        values = [
            f"{version.metrics[name]:.4g}" if name in version.metrics else "-" for name in metrics
        ]
        stages = ", ".join(version.stages) or "-"
        branch = version.branch or "-"
        rows.append([version.name, stages, branch, version.commit[:7], version.created, *values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def to_json(versions: list[Version]) -> str:
    return json.dumps([asdict(version) for version in versions], indent=2)
