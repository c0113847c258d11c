"""Versions of the model, as GTO keeps them: annotated tags of Git.

`mnist-cnn@v1.2.0` is a version. `mnist-cnn#prod#3`, the third of its kind, says which version is in
production. `dvc artifacts get` and `gto show` read both.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.params import parse_yaml
from pipeline.paths import METRICS
from pipeline.repository.dvc_files import DVC_FILE, flatten
from pipeline.repository.git import git, read_file
from pipeline.repository.refs import Refs

PRODUCTION = "prod"
TRAILER = "Model-version"  # of a commit's message: the version that it makes the champion


@dataclass(frozen=True)
class Version:
    """A version of the model, such as v1.2.0."""

    name: str
    commit: str
    created: str  # date and time, to the minute
    stages: tuple[str, ...]  # of GTO, such as prod
    metrics: dict[str, float]  # of its commit


def read_model_name(root: Path, commit: str) -> str:
    """Return the name of the model that dvc.yaml declares; raise PipelineError unless it is one."""
    content = parse_yaml(read_file(root, commit, DVC_FILE), str(DVC_FILE)) or {}
    declared = content.get("artifacts") or {}
    models = [name for name, artifact in declared.items() if artifact.get("type") == "model"]
    if len(models) != 1:
        found = ", ".join(models) or "none"
        raise PipelineError(
            "dvc.yaml: artifacts must hold one entry of type model, the one to publish; found"
            f" {found}"
        )
    return str(models[0])


def annotated_tags(root: Path, pattern: str) -> dict[str, str]:
    """Return the commit of each annotated tag whose name matches."""
    template = "--format=%(refname:strip=2) %(*objectname)"  # no commit if it is not annotated
    lines = git(root, "for-each-ref", template, f"refs/tags/{pattern}").splitlines()
    commits = {name: commit for name, _, commit in (line.partition(" ") for line in lines)}
    return {name: commit for name, commit in commits.items() if commit}


def next_version(root: Path, artifact: str) -> str:
    """Return the version after the latest.

    Its minor number grows, since the network's input and output stay what they are.
    """
    names = annotated_tags(root, f"{artifact}@*")
    matches = [re.fullmatch(r".+@v(\d+)\.(\d+)\.\d+", name) for name in names]
    numbers = [(int(match[1]), int(match[2])) for match in matches if match]
    if not numbers:
        return f"{artifact}@v1.0.0"
    major, minor = max(numbers)
    return f"{artifact}@v{major}.{minor + 1}.0"


def champion_version(root: Path, commit: str) -> str:
    """Return the version that the commit makes the champion; empty if its message names none."""
    return git(root, "log", "-1", f"--format=%(trailers:key={TRAILER},valueonly)", commit).strip()


def missing_tags(root: Path, artifact: str, tip: str) -> Refs:
    """Make the tags that the champion at `tip` should have and has not.

    Returns each as a ref and its new tag object; the refs themselves are not set. They are the
    version's tag, and one that says that this version is in production.
    """
    version = champion_version(root, tip)
    if not version:
        return {}
    missing = {}
    commit = annotated_tags(root, version).get(version)
    if not commit:
        commit = tip
        missing[f"refs/tags/{version}"] = make_tag(root, version, commit, tip)
    last_number, production = read_assignments(root, artifact)
    if production != commit:
        name = f"{artifact}#{PRODUCTION}#{last_number + 1}"
        missing[f"refs/tags/{name}"] = make_tag(root, name, commit, tip)
    return missing


def read_assignments(root: Path, artifact: str) -> tuple[int, str | None]:
    """Return the highest number of the model's stage tags, and the commit that is in production."""
    assigned: dict[int, tuple[str, str]] = {}  # a tag's stage and commit, by its number
    for name, commit in annotated_tags(root, f"{artifact}#*").items():
        if match := re.fullmatch(r".+#(.+)#(\d+)", name):
            assigned[int(match[2])] = (match[1], commit)
    in_production = [number for number, (stage, _) in assigned.items() if stage == PRODUCTION]
    production = assigned[max(in_production)][1] if in_production else None
    return max(assigned, default=0), production


def make_tag(root: Path, name: str, commit: str, tip: str) -> str:
    """Make a tag object and return its hash.

    It is the same whoever makes it: its tagger, date and message are those of the commit `tip`.
    """
    header, _, message = git(root, "cat-file", "commit", tip).partition("\n\n")
    committer = next(line for line in header.splitlines() if line.startswith("committer "))
    tagger = committer.removeprefix("committer ")
    subject = message.partition("\n")[0]
    content = f"object {commit}\ntype commit\ntag {name}\ntagger {tagger}\n\n{subject}\n"
    return git(root, "mktag", content=content.encode())


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
        stages = {stage: found[0].version for stage, found in assigned.items() if found}
        return [
            Version(
                name=version.version,
                commit=version.commit_hexsha,
                created=version.created_at.isoformat(" ", "minutes"),
                stages=tuple(stage for stage, name in stages.items() if name == version.version),
                metrics=read_metrics(read_file(root, version.commit_hexsha, METRICS)),
            )
            for version in state.get_versions()
        ]


def describe(versions: list[Version]) -> str:
    """A table of the versions, with the metrics that are not of a single class."""
    if not versions:
        return "no versions yet"
    metrics = dict.fromkeys(
        name for version in versions for name in version.metrics if "." not in name
    )
    rows = [["version", "stage", "commit", "created", *metrics]]
    for version in versions:
        values = [
            f"{version.metrics[name]:.4g}" if name in version.metrics else "-" for name in metrics
        ]
        stages = ", ".join(version.stages) or "-"
        rows.append([version.name, stages, version.commit[:7], version.created, *values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def to_json(versions: list[Version]) -> str:
    return json.dumps([asdict(version) for version in versions], indent=2)
