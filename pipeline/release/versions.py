"""Versions of the model, as GTO keeps them: annotated tags of Git.

`mnist-cnn@v1.2.0` is a version; `mnist-cnn#prod#3`, the third assignment, says which version is in
production. So `dvc artifacts get` finds them, and `gto show` lists them.
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

PRODUCTION = "prod"
TRAILER = "Model-version"  # of a commit's message: the version that it makes the champion


@dataclass(frozen=True)
class Version:
    name: str
    commit: str
    created: str
    stages: tuple[str, ...]
    metrics: dict[str, float]


def read_model_name(root: Path, commit: str) -> str:
    """The name of the one model that dvc.yaml declares; raise PipelineError where there is another
    number of them.
    """
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
    """The annotated tags of that pattern, and the commit that each is of."""
    lines = git(
        root, "for-each-ref", "--format=%(refname:strip=2) %(*objectname)", f"refs/tags/{pattern}"
    ).splitlines()
    return {name: commit for name, _, commit in (line.partition(" ") for line in lines) if commit}


def next_version(root: Path, artifact: str) -> str:
    """The version after the latest, by its minor number: the network's input and output stay what
    they are.
    """
    found = [
        re.fullmatch(r".+@v(\d+)\.(\d+)\.\d+", name)
        for name in annotated_tags(root, f"{artifact}@*")
    ]
    latest = max(((int(match[1]), int(match[2])) for match in found if match), default=None)
    return f"{artifact}@v{latest[0]}.{latest[1] + 1}.0" if latest else f"{artifact}@v1.0.0"


def champion_version(root: Path, commit: str) -> str:
    """The version that the commit makes the champion, `mnist-cnn@v1.2.0`; empty where its message
    names none.
    """
    return git(root, "log", "-1", f"--format=%(trailers:key={TRAILER},valueonly)", commit).strip()


def missing_tags(root: Path, artifact: str, tip: str) -> dict[str, str]:
    """The tags that should tell of the champion at `tip` and are not there, as refs to tag objects
    made for them.
    """
    version = champion_version(root, tip)
    if not version:
        return {}
    missing = {}
    made = annotated_tags(root, version).get(version)
    if not made:
        made = tip
        missing[f"refs/tags/{version}"] = make_tag(root, version, made, tip)
    assigned = {
        int(name.rpartition("#")[2]): name
        for name in annotated_tags(root, f"{artifact}#*")
        if name[-1].isdigit()
    }
    latest = max(
        (n for n, name in assigned.items() if name.startswith(f"{artifact}#{PRODUCTION}#")),
        default=None,
    )
    if latest is None or annotated_tags(root, assigned[latest])[assigned[latest]] != made:
        name = f"{artifact}#{PRODUCTION}#{max(assigned, default=0) + 1}"
        missing[f"refs/tags/{name}"] = make_tag(root, name, made, tip)
    return missing


def make_tag(root: Path, name: str, commit: str, tip: str) -> str:
    """A tag object, the same whoever makes it: its tagger is who made `tip`, and when."""
    header, _, message = git(root, "cat-file", "commit", tip).partition("\n\n")
    tagger = next(line for line in header.splitlines() if line.startswith("committer ")).partition(
        " "
    )[2]
    subject = message.partition("\n")[0]
    content = f"object {commit}\ntype commit\ntag {name}\ntagger {tagger}\n\n{subject}\n"
    return git(root, "mktag", content=content.encode())


def read_metrics(content: str | bytes) -> dict[str, float]:
    """{'per_class': {'3': {'f1': 0.99}}} as JSON → {'per_class.3.f1': 0.99}; of nothing,
    nothing.
    """
    return flatten(json.loads(content)) if content else {}


def list_versions(root: Path, artifact: str) -> list[Version]:
    """Every version, the latest first, with its stages and the metrics of its commit."""
    from gto.constants import VersionSort  # only now: it takes half a second
    from gto.registry import GitRegistry

    with GitRegistry.from_url(str(root)) as registry:
        state = registry.get_state().get_artifacts().get(artifact)
        if not state:
            return []
        stages = {
            stage: found[0].version
            for stage, found in state.get_vstages(sort=VersionSort.Timestamp).items()
            if found
        }
        return [
            Version(
                version.version,
                version.commit_hexsha,
                version.created_at.isoformat(" ", "minutes"),
                tuple(stage for stage, name in stages.items() if name == version.version),
                read_metrics(read_file(root, version.commit_hexsha, METRICS)),
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
