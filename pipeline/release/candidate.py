"""What a commit gives with some parameters changed: its graph run as tasks, in a worktree that is
gone afterwards.

What is left of it is the Candidate, its data in DVC's cache and its stages in the run cache.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State

from pipeline.orchestration.artifacts import publish_plan
from pipeline.orchestration.flow import carry_out, conclude
from pipeline.orchestration.lifecycle import Workspace
from pipeline.release.champion import PREDICTIONS
from pipeline.release.gate import GateParams, read_gate
from pipeline.release.overrides import PARAMS_FILE, change_params, check_params, link_source
from pipeline.release.receipts import share_receipts
from pipeline.release.versions import METRICS, read_metrics
from pipeline.repository.dvc_files import LOCK, read, read_yaml, share_cache
from pipeline.repository.dvc_worker import dvc_in
from pipeline.repository.git import git
from pipeline.repository.graph import look, upstream
from pipeline.repository.plan import Step, plan
from pipeline.repository.processes import Lifeline
from pipeline.repository.worktree import share_checkpoints, worktree

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
    files: dict[
        str, bytes
    ]  # what differs from the commit and belongs into Git, dvc.lock and params.yaml among them
    metrics: dict[str, float]
    validation_accuracy: float | None  # of the epoch that was kept
    predictions: bytes
    gate: GateParams  # that the commit, with the changes, asks to be judged by


def run_isolated(
    root: Path,
    commit: str,
    changes: Mapping[str, Any],
    lifeline: Lifeline,
    stages: list[str] | None = None,
) -> Candidate:
    """Bring `stages` of `commit` with what they need (all where none is named) up to date, with
    `changes` to params.

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
        tree / name
        for name in changed + added
        if name and (tree / name).is_file() and not (tree / name).is_symlink()
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
        validation_accuracy=read_validation_accuracy(
            read(tree / HISTORY), read_yaml(tree / PARAMS_FILE)
        ),
        predictions=read(tree / PREDICTIONS),
        gate=gate,
    )


def read_validation_accuracy(history: bytes, params: Mapping[str, Any]) -> float | None:
    """Of the epoch whose weights train keeps, the best or the last."""
    rows = [
        float(row["validation_accuracy"]) for row in csv.DictReader(io.StringIO(history.decode()))
    ]
    if not rows:
        return None
    return max(rows) if params.get("train", {}).get("keep") == "best" else rows[-1]
