"""What a commit gives with some parameters changed: its graph run as tasks, in a worktree that is gone afterwards.

What is left of it is the Candidate, its data in DVC's cache and its stages in the run cache.
"""

import csv
import functools
import io
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline import check
from pipeline.errors import ParamsError
from pipeline.files import atomic_write
from pipeline.flow import Workspace, carry_out, conclude, publish_plan
from pipeline.gate import GateParams, read_gate
from pipeline.git import git
from pipeline.graph import LOCK, Step, dvc_in, environment, flatten, look, plan, read, read_yaml, upstream
from pipeline.publish import PREDICTIONS
from pipeline.registry import METRICS, read_metrics
from pipeline.supervisor import Lifeline
from pipeline.worktree import link_source, share_cache, share_checkpoints, worktree

PARAMS_FILE = "params.yaml"
HISTORY = "reports/history.csv"
RECEIPTS = "receipts"


@dataclass(frozen=True)
class Candidate:
    commit: str  # whose code, data and, but for the changes, parameters these are
    changes: dict[str, Any]
    steps: list[Step]
    states: dict[str, State[Any]]  # of the stages' tasks
    state: State[Any]  # the worst of them; what follows is empty unless it is COMPLETED
    lock: bytes
    files: dict[str, bytes]  # what differs from the commit and belongs into Git, dvc.lock and params.yaml among them
    metrics: dict[str, float]
    validation_accuracy: float | None  # of the epoch that was kept
    predictions: bytes
    gate: GateParams  # that the commit, with the changes, asks to be judged by


def parse_changes(texts: Iterable[str]) -> dict[str, Any]:
    """['train.seed=2'] → {'train.seed': 2}, values read as YAML; raise ParamsError."""
    changes: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[^\s.]+(\.[^\s.]+)+", name):
            raise ParamsError(f"--set {text}: must be SECTION.NAME=VALUE, such as train.learning_rate=0.002")
        if name in changes:
            raise ParamsError(f"--set {text}: {name} is set twice; set it once")
        try:
            changes[name] = YAML(typ="safe").load(value)
        except YAMLError as error:
            raise ParamsError(f"--set {text}: {value} is not valid YAML: {' '.join(str(error).split())}") from error
    return changes


def change_params(path: Path, changes: Mapping[str, Any]) -> None:
    """Set values in params.yaml and leave all else of it as it is; raise ParamsError for what it has not."""
    if not changes:
        return
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # no line is broken
    content = yaml.load(path.read_text(encoding="utf-8"))
    known = flatten(content)
    for name, value in changes.items():
        if name not in known:
            alike = [other for other in known if other.startswith(name.partition(".")[0] + ".")]
            raise ParamsError(
                f"--set {name}={value}: {path.name} has no parameter {name}; it has {', '.join(alike or content)}"
            )
        *sections, last = name.split(".")
        functools.reduce(dict.__getitem__, sections, content)[last] = value
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yaml.dump(content, file)


def run_isolated(
    root: Path, commit: str, changes: Mapping[str, Any], lifeline: Lifeline, stages: list[str] | None = None
) -> Candidate:
    """Bring `stages` of `commit` with what they need (all where none is named) up to date, with `changes` to params.

    To be called in a flow run.
    Raises ParamsError before anything runs where a parameter is not what its stage allows.
    """
    with worktree(root, commit, "retrain") as (tree, beside):
        share_cache(root, tree, beside)
        share_checkpoints(root, tree, beside)
        change_params(tree / PARAMS_FILE, changes)
        gate = read_gate(read_yaml(tree / PARAMS_FILE))
        link_source(root, tree)
        with dvc_in(tree) as dvc:
            dvc.ask("checkout", "--quiet", "--allow-missing")
            view = look(dvc)
            graph = upstream(view.graph, stages or view.graph)
            check_params(tree, view.stale.keys() & graph.keys())
            steps = plan(dvc, graph, view)
        publish_plan(steps)
        states = carry_out(Workspace(tree, lifeline, "wait", 0), graph, steps, force=False)
        share_receipts(root, tree)
        return collect(tree, commit, changes, steps, states, gate)


def check_params(tree: Path, stages: Collection[str]) -> None:
    """Let the stages' own models judge params.yaml; what is up to date has run with it before."""
    ours = sorted(stage for stage in stages if (tree / "pipeline" / "stages" / f"{stage}.py").is_file())
    if not ours:
        return
    command = [sys.executable, "-P", check.__file__, *ours]  # -P and PYTHONPATH: the code of `tree`, not of this folder
    variables = environment() | {"PYTHONPATH": str(tree)}
    result = subprocess.run(command, cwd=tree, env=variables, capture_output=True, text=True)
    if result.returncode:
        last = result.stderr.strip().rpartition("\n")[2]
        raise ParamsError(result.stderr.strip().removeprefix("error: ") if result.returncode == 2 else last)


def share_receipts(root: Path, tree: Path) -> None:
    """Keep what tells of a model's making for when the model is only restored, and fetch it then."""
    kept = root / ".dvc" / "tmp" / RECEIPTS
    for receipt in (tree / RECEIPTS).glob("*.json"):
        with atomic_write(kept / receipt.name) as temporary:
            temporary.write_bytes(receipt.read_bytes())
    for stage in read_yaml(tree / LOCK).get("stages", {}).values():
        for out in stage.get("outs", []):
            name = f"{out.get('md5')}.json"
            found = next((folder / name for folder in (root / RECEIPTS, kept) if (folder / name).is_file()), None)
            if found and not (tree / RECEIPTS / name).exists():
                (tree / RECEIPTS).mkdir(exist_ok=True)
                (tree / RECEIPTS / name).write_bytes(found.read_bytes())


def collect(
    tree: Path,
    commit: str,
    changes: Mapping[str, Any],
    steps: list[Step],
    states: dict[str, State[Any]],
    gate: GateParams,
) -> Candidate:
    state = conclude(states)
    if not state.is_completed():
        return Candidate(commit, dict(changes), steps, states, state, b"", {}, {}, None, b"", gate)
    changed = git(tree, "diff", "-z", "--name-only", "--relative", "HEAD").split("\0")
    # whoever has lost the .gitignore that DVC makes in .dvc shall not publish passwords
    excluded = ("--exclude-standard", "--exclude=.dvc/")
    added = git(tree, "ls-files", "-z", "--others", *excluded).split("\0")
    kept = [
        tree / name for name in changed + added if name and (tree / name).is_file() and not (tree / name).is_symlink()
    ]
    return Candidate(
        commit,
        dict(changes),
        steps,
        states,
        state,
        lock=read(tree / LOCK),
        files={str(path.relative_to(tree)): path.read_bytes() for path in kept},
        metrics=read_metrics(read(tree / METRICS)),
        validation_accuracy=read_validation_accuracy(read(tree / HISTORY), read_yaml(tree / PARAMS_FILE)),
        predictions=read(tree / PREDICTIONS),
        gate=gate,
    )


def read_validation_accuracy(history: bytes, params: Mapping[str, Any]) -> float | None:
    """Of the epoch whose weights train keeps, the best or the last."""
    rows = [float(row["validation_accuracy"]) for row in csv.DictReader(io.StringIO(history.decode()))]
    if not rows:
        return None
    return max(rows) if params.get("train", {}).get("keep") == "best" else rows[-1]
