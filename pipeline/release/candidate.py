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
from pipeline.orchestration.flow import run_tasks, summarize_states
from pipeline.orchestration.lifecycle import RunContext
from pipeline.paths import HISTORY, METRICS, PREDICTIONS
from pipeline.release.gate import GateParams, read_gate
from pipeline.release.overrides import (
    PARAMS_FILE,
    apply_overrides,
    link_data_source,
    validate_params,
)
from pipeline.release.receipts import copy_receipts
from pipeline.release.versions import read_metrics
from pipeline.repository.dvc_files import LOCK, configure_dvc, read_if_present, read_yaml
from pipeline.repository.dvc_worker import DvcWorkerPool
from pipeline.repository.git import git
from pipeline.repository.graph import read_status, upstream
from pipeline.repository.plan import PlannedStage, plan
from pipeline.repository.worktree import share_checkpoints, worktree


@dataclass(frozen=True)
class Candidate:
    commit: str  # whose code, data and, but for the changes, parameters these are
    changes: dict[str, Any]
    steps: list[PlannedStage]
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
    stages: list[str] | None = None,
) -> Candidate:
    """Bring `stages` of `commit` with what they need (all where none is named) up to date, with
    `changes` to params.

    To be called in a flow run.
    Raises ParamsError before anything runs where a parameter is not what its stage allows.
    """
    with worktree(root, commit, "retrain") as (tree, scratch):
        configure_dvc(tree, scratch, inherit=root)
        share_checkpoints(root, tree, scratch)
        apply_overrides(tree / PARAMS_FILE, changes)
        gate = read_gate(read_yaml(tree / PARAMS_FILE))
        link_data_source(root, tree)
        with DvcWorkerPool(tree) as pool:
            with pool.worker() as dvc:
                dvc.run("checkout", "--quiet", "--allow-missing")
                status = read_status(dvc)
                graph = upstream(status.graph, stages or status.graph)
                validate_params(tree, status.stale.keys() & graph.keys())
                steps = plan(dvc, graph, status)
            publish_plan(steps)
            states = run_tasks(RunContext(tree, pool, "wait", 0), graph, steps, force=False)
        copy_receipts(root, tree)
        return collect_candidate(tree, commit, changes, steps, states, gate)


def collect_candidate(
    tree: Path,
    commit: str,
    changes: Mapping[str, Any],
    steps: list[PlannedStage],
    states: dict[str, State[Any]],
    gate: GateParams,
) -> Candidate:
    state = summarize_states(states)
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
        lock=read_if_present(tree / LOCK),
        files={str(path.relative_to(tree)): path.read_bytes() for path in kept},
        metrics=read_metrics(read_if_present(tree / METRICS)),
        validation_accuracy=read_validation_accuracy(
            read_if_present(tree / HISTORY), read_yaml(tree / PARAMS_FILE)
        ),
        predictions=read_if_present(tree / PREDICTIONS),
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
