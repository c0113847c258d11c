"""A commit's graph, run in a worktree with some parameters changed, and what it gave.

The stages run as tasks of the current flow run. The worktree is removed afterwards. Its data stays
in DVC's cache and its stages in the run cache; the rest is in the Candidate.
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
from pipeline.release.gate import Evaluation, GateParams, read_gate
from pipeline.release.overrides import (
    PARAMS_FILE,
    Changes,
    apply_overrides,
    link_data_source,
    validate_params,
)
from pipeline.release.versions import read_metrics
from pipeline.repository.dvc_files import LOCK, configure_dvc, read_if_present, read_yaml
from pipeline.repository.dvc_worker import DvcWorkerPool
from pipeline.repository.git import git
from pipeline.repository.graph import read_status, upstream
from pipeline.repository.plan import PlannedStage, plan
from pipeline.repository.worktree import share_checkpoints, worktree


@dataclass(frozen=True)
class GraphRun:
    """What ran of a commit's graph."""

    planned: list[PlannedStage]
    states: dict[str, State[Any]]  # of the stages' tasks
    state: State[Any]  # the worst of them


@dataclass(frozen=True)
class Candidate:
    """What a commit gave with some parameters changed."""

    commit: str
    changes: Changes
    gate: GateParams  # of the commit's params.yaml, with the changes
    lock: bytes  # dvc.lock
    files: dict[str, bytes]  # for Git: all that differs from the commit
    evaluation: Evaluation
    validation_accuracy: float | None  # of the epoch whose weights were kept


def run_isolated(
    root: Path,
    commit: str,
    changes: Changes,
    stages: list[str] | None = None,
) -> tuple[GraphRun, Candidate | None]:
    """Bring `stages` (all by default) of a commit up to date, with what they need; in a flow run.

    There is no candidate unless every stage is up to date.
    Raises ParamsError before a stage runs if a parameter is not what its stage allows.
    """
    with worktree(root, commit, "retrain") as (tree, scratch):
        configure_dvc(tree, scratch, inherit=root)
        share_checkpoints(root, tree, scratch)
        apply_overrides(tree / PARAMS_FILE, changes)
        link_data_source(root, tree)
        gate = read_gate(read_yaml(tree / PARAMS_FILE))
        run = run_stages(tree, stages)
        if not run.state.is_completed():
            return run, None
        return run, collect_candidate(tree, commit, changes, gate)


def run_stages(tree: Path, stages: list[str] | None) -> GraphRun:
    """Plan and run the stages of a worktree."""
    with DvcWorkerPool(tree) as pool:
        with pool.worker() as dvc:
            dvc.run("checkout", "--quiet", "--allow-missing")
            status = read_status(dvc)
            graph = upstream(status.graph, stages or status.graph)
            # A stage that is up to date has run with its parameters before.
            validate_params(tree, status.stale.keys() & graph.keys())
            planned = plan(dvc, graph, status)
        publish_plan(planned)
        states = run_tasks(RunContext(tree, pool, "wait", 0), graph, planned, force=False)
    return GraphRun(planned, states, summarize_states(states))


def collect_candidate(
    tree: Path,
    commit: str,
    changes: Changes,
    gate: GateParams,
) -> Candidate:
    """Read what the stages left in the worktree."""
    metrics = read_metrics(read_if_present(tree / METRICS))
    history = read_if_present(tree / HISTORY)
    return Candidate(
        commit,
        changes,
        gate,
        lock=read_if_present(tree / LOCK),
        files=read_changed_files(tree),
        evaluation=Evaluation(metrics, read_if_present(tree / PREDICTIONS)),
        validation_accuracy=read_validation_accuracy(history, read_yaml(tree / PARAMS_FILE)),
    )


def read_changed_files(tree: Path) -> dict[str, bytes]:
    """Return the files that Git would add to a commit, by their paths; no links."""
    changed = git(tree, "diff", "-z", "--name-only", "--relative", "HEAD").split("\0")
    # DVC's own .gitignore may be missing; .dvc/config.local may hold passwords.
    excluded = ("--exclude-standard", "--exclude=.dvc/")
    added = git(tree, "ls-files", "-z", "--others", *excluded).split("\0")
    paths = {name: tree / name for name in changed + added if name}
    return {
        name: path.read_bytes()
        for name, path in paths.items()
        if path.is_file() and not path.is_symlink()
    }


def read_validation_accuracy(history: bytes, params: Mapping[str, Any]) -> float | None:
    """Return that of the epoch whose weights train keeps; None without a history."""
    rows = csv.DictReader(io.StringIO(history.decode()))
    accuracies = [float(row["validation_accuracy"]) for row in rows]
    if not accuracies:
        return None
    keeps_best = params.get("train", {}).get("keep") == "best"
    return max(accuracies) if keeps_best else accuracies[-1]
