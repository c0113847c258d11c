"""A commit's graph, run in a worktree with some parameters changed, and what it gave.

The stages run as tasks of the current flow run. The worktree is removed afterwards. Its data stays
in DVC's cache and its stages in the run cache, both also on DVC's remote if there is one; the rest
is in the Candidate.
"""

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Semaphore
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State

from pipeline.orchestration.artifacts import publish_plan
from pipeline.orchestration.flow import run_tasks, summarize_states
from pipeline.orchestration.lifecycle import RunContext
from pipeline.paths import HISTORY, METRICS, OWN, PREDICTIONS
from pipeline.release.gate import GateParams, read_gate, require_own
from pipeline.release.imports import ImportUpdate
from pipeline.release.overrides import (
    PARAMS_FILE,
    Changes,
    apply_overrides,
    link_data_source,
    validate_params,
)
from pipeline.release.shared_runs import fetch_runs, push_runs
from pipeline.release.versions import read_metrics
from pipeline.release.yardsticks import Evaluation
from pipeline.repository.dvc_files import (
    LOCK,
    configure_dvc,
    has_remote,
    read_if_present,
    read_yaml,
)
from pipeline.repository.dvc_output import Outcome
from pipeline.repository.dvc_worker import DvcWorker, DvcWorkerPool
from pipeline.repository.git import git
from pipeline.repository.graph import Graph, Targets, read_graph
from pipeline.repository.plan import Action, PlannedStage, plan
from pipeline.repository.processes import current_scope
from pipeline.repository.worktree import share_checkpoints, worktree

AT_HAND = (Action.SKIP, Action.RESTORE)  # nothing has to be fetched or run for these


@dataclass(frozen=True)
class GraphRun:
    """What ran of a commit's graph."""

    planned: list[PlannedStage]
    states: dict[str, State[Any]]  # of the stages' tasks
    state: State[Any]  # the worst of them

    @property
    def has_made_something(self) -> bool:
        made = (Outcome.RAN, Outcome.RESTORED)
        return any(state.name in made for state in self.states.values())


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
    update: ImportUpdate | None = None,
    jobs: int = 1,
) -> tuple[GraphRun, Candidate | None]:
    """Bring `stages` (all by default) of a commit up to date, with what they need; in a flow run.

    With `update`, imported data are brought up to date first. At most `jobs` stages work at once.
    There is no candidate unless every stage is up to date.
    Raises ParamsError before a stage runs if a parameter is not what its stage allows, or if there
    are batches of own images and the gate has no section for them.
    """
    with worktree(root, commit, "retrain") as (tree, scratch):
        configure_dvc(tree, scratch, inherit=root)
        share_checkpoints(root, tree, scratch)
        apply_overrides(tree / PARAMS_FILE, changes)
        link_data_source(root, tree)
        gate = read_gate(read_yaml(tree / PARAMS_FILE))
        if any((tree / OWN).glob("*.dvc")):
            require_own(gate)
        warn = get_run_logger().warning
        has_shared = has_remote(root)
        fetch = partial(fetch_runs, root, commit, log=warn) if has_shared else None
        run = run_stages(tree, stages, fetch, update, jobs)
        is_completed = run.state.is_completed()
        candidate = collect_candidate(tree, commit, changes, gate) if is_completed else None
        if has_shared and run.has_made_something and not current_scope().is_cancelled:
            push_runs(tree, run.states, warn)
    return run, candidate


def run_stages(
    tree: Path,
    stages: list[str] | None,
    fetch: Callable[[Mapping[str, bytes], Graph], None] | None,
    update: ImportUpdate | None,
    jobs: int,
) -> GraphRun:
    """Plan and run the stages of a worktree; before one has to run, `fetch` what others made."""
    with DvcWorkerPool(tree) as pool:
        with pool.worker() as dvc:
            if update:
                update(dvc, get_run_logger().info, get_run_logger().warning)
            graph, planned = plan_stages(dvc, stages)
            if fetch and any(stage.action not in AT_HAND for stage in planned):
                fetch(read_changed_files(tree), graph)
                graph, planned = plan_stages(dvc, stages)
        publish_plan(planned)
        context = RunContext(tree, pool, "wait", 0, Semaphore(jobs))
        states = run_tasks(context, graph, planned, force=False)
    return GraphRun(planned, states, summarize_states(states))


def plan_stages(dvc: DvcWorker, stages: list[str] | None) -> tuple[Graph, list[PlannedStage]]:
    """Return the graph up to `stages`, and what is to be done with what the cache has."""
    dvc.run("checkout", "--quiet", "--allow-missing")
    targets = Targets(tuple(stages or ()))
    graph = read_graph(dvc, targets)
    # A stage that is up to date has run with its parameters before.
    validate_params(dvc.root, [stage.name for stage in graph.values() if stage.changes])
    return graph, plan(dvc, graph, targets)


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
