"""A sweep: every combination of some parameters' values, each trained in isolation.

A combination is a trial: a child run of the sweep's, in a worktree of its own. Trials end with the
stage `train` and are ranked by validation accuracy. The test split is read once, by the retraining
that publishes the best of them.

DVC's run cache is the memory of a sweep. A killed sweep that is started again restores the trials
that were finished and resumes the others.
"""

import hashlib
import itertools
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from uuid import UUID

import psutil
from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed, Failed

from pipeline.errors import ParamsError, PipelineError
from pipeline.orchestration.flow import to_final_state
from pipeline.orchestration.lifecycle import run_as_flow, watch_for_cancellation
from pipeline.release.candidate import run_isolated
from pipeline.release.imports import ImportUpdate, find_newer
from pipeline.release.overrides import PARAMS_FILE, Changes, apply_overrides, parse_overrides
from pipeline.release.retrain import retrain
from pipeline.release.tags import BRANCH
from pipeline.repository.git import git, resolve_ref
from pipeline.repository.processes import CancelScope, current_scope
from pipeline.sweep.dask_cluster import CloneSource, mark_orphans_crashed, worker_clone
from pipeline.sweep.results import Trial, publish_plot, publish_table, trial_name

TARGET_STAGE = "train"  # the last stage of a trial
MAXIMUM = 1000  # combinations; more is a slip
FOLDER = Path("sweeps")


def share_cores(jobs: int) -> None:
    """Give each of so many trainings at once its share of the cores.

    What a person has set stays: the number is OpenMP's own variable, which the stages inherit.
    """
    if jobs > 1:
        cores = psutil.cpu_count(logical=False) or 1
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // jobs)))


@dataclass(frozen=True)
class TrialLocation:
    """Where trials run: in the repository at `root`, or in a worker's clone of `source`."""

    root: Path
    commit: str
    source: CloneSource | None
    imports: Mapping[str, str]  # .dvc files that the champion has newer than the commit


def expand_grid(settings: Sequence[str]) -> list[Changes]:
    """Return every combination of ['train.seed=1,2', 'train.epochs=5'], the values read as YAML.

    Raises ParamsError.
    """
    texts = []
    for setting in settings:
        name, _, values = setting.partition("=")
        texts.append(f"{name}=[{values}]")
    grid = parse_overrides(texts)
    for name, values in grid.items():
        if not values or len({str(value) for value in values}) < len(values):
            raise ParamsError(
                f"--set {name}: must list different values, such as {name}=1,2, got {values}"
            )
    combinations = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    if len(combinations) > MAXIMUM:
        raise ParamsError(
            f"--set makes {len(combinations):,} combinations; a sweep runs at most {MAXIMUM:,}"
        )
    return combinations


def check_parameter_names(root: Path, commit: str, changes: Changes) -> None:
    """Raise ParamsError if the commit has no such parameters; their values are checked later."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / PARAMS_FILE
        copy.write_text(git(root, "show", f"{commit}:./{PARAMS_FILE}"), encoding="utf-8")
        apply_overrides(copy, changes)


@flow(name="mnist-sweep", persist_result=False)
def sweep(
    commit: str,
    settings: list[str],
    branch: str | None = None,
    remote: str | None = None,
    source: CloneSource | None = None,
) -> State[Any]:
    """Try every combination; this flow's task runner says where, and how many at once.

    Args:
        commit: whose code, data and other parameters they share
        settings: parameters and their values, such as train.seed=1,2
        branch: where a retraining with the best of them is published; None: nowhere
        remote: of Git, to which that is pushed
        source: what the task runner's workers clone; None if they work in this folder
    """
    return run_as_flow(lambda: sweep_and_publish(commit, settings, branch, remote, source))


def sweep_and_publish(
    commit: str,
    settings: list[str],
    branch: str | None,
    remote: str | None,
    source: CloneSource | None,
) -> State[Any]:
    """Run the trials, publish their table and, with a branch, the best; return the run's state."""
    root, combinations = Path.cwd(), expand_grid(settings)
    check_parameter_names(root, commit, combinations[0])
    imports = find_newer(root, commit, resolve_ref(root, f"refs/heads/{branch or BRANCH}"))
    trials = run_trials(TrialLocation(root, commit, source, imports), combinations)
    best = trials[0]
    folder = root / FOLDER / sweep_id(commit, settings)
    publish_table(trials, folder)
    if not best.has_result:
        reason = f"the first: {best.message}"
        return Failed(message=f"all {len(trials)} combinations failed; {reason}")
    publish_plot(trials, folder)
    done = sum(trial.has_result for trial in trials)
    summary = f"{done} of {len(trials)} combinations; the best: {best.line}"
    if branch is None:
        return Completed(message=summary)
    published = retrain(commit, best.changes, branch, remote, return_state=True)
    message = f"{summary}; {published.message}"
    return State(type=published.type, name=published.name, message=message)


def run_trials(location: TrialLocation, combinations: list[Changes]) -> list[Trial]:
    """Run every trial and return them, the best first; a failed one stops no other."""
    futures: dict[PrefectFuture[Any], Changes] = {}
    for changes in combinations:
        named = run_trial.with_options(task_run_name=partial(trial_name, changes))
        futures[named.submit(location, changes)] = changes
    progress = cast(
        UUID, create_progress_artifact(0.0, key="progress", description="Combinations tried, in %")
    )
    for count, future in enumerate(as_completed(list(futures)), 1):
        line = to_trial(future, futures[future]).line
        get_run_logger().info("%s of %s: %s", count, len(futures), line)
        update_progress_artifact(progress, 100 * count / len(futures))
    current_scope().raise_if_cancelled()
    trials = [to_trial(future, changes) for future, changes in futures.items()]
    return sorted(trials, key=lambda trial: trial.rank, reverse=True)


def to_trial(future: PrefectFuture[Any], changes: Changes) -> Trial:
    """Wait for a task and return its trial, also if it failed or its worker died."""
    future.wait()
    state = future.state
    if state.is_completed():
        return cast(Trial, state.result())
    if state.is_final():
        return Trial(changes, str(state.name), str(state.message))
    return Trial(changes, "Crashed", "its workers died, one after the other")


@task(cache_policy=NO_CACHE, persist_result=False)
def run_trial(location: TrialLocation, changes: Changes) -> State[Any]:
    """Run a trial where the location says; the data of the state is a Trial."""
    started = time.monotonic()
    with CancelScope() as scope:
        try:
            if location.source is None:
                state = run_trial_flow(location.root, location, changes)
            else:
                watch_for_cancellation(scope)  # a worker is not in the scope of the sweep
                mark_orphans_crashed(runtime.flow_run.id, trial_name(changes))
                with worker_clone(location.source, location.commit) as root:
                    state = run_trial_flow(root, location, changes)
        except PipelineError as error:
            return to_final_state(error)
    if not state.is_completed():
        return State(type=state.type, name=state.name, message=state.message)
    seconds = round(time.monotonic() - started, 1)
    trial = Trial(changes, str(state.name), str(state.message), state.result(), seconds)
    return Completed(name=state.name, message=state.message, data=trial)


def run_trial_flow(root: Path, location: TrialLocation, changes: Changes) -> State[Any]:
    """Run the trial as a child run that is named after its parameters."""
    named = run_combination.with_options(flow_run_name=partial(trial_name, changes))
    return named(root, location.commit, changes, location.imports, return_state=True)


@flow(name="mnist-combination", persist_result=False)
def run_combination(
    root: Path,
    commit: str,
    changes: Changes,
    imports: Mapping[str, str],
) -> State[Any]:
    """Bring the commit's graph up to date as far as `train`, with some parameters changed.

    The data of the state is the validation accuracy.
    """
    return run_as_flow(lambda: train_combination(root, commit, changes, imports))


def train_combination(
    root: Path,
    commit: str,
    changes: Changes,
    imports: Mapping[str, str],
) -> State[Any]:
    update = ImportUpdate(imports)
    run, candidate = run_isolated(root, commit, changes, [TARGET_STAGE], update)
    if candidate is None:
        return run.state
    state = run.states[TARGET_STAGE]
    return Completed(name=state.name, message=state.message, data=candidate.validation_accuracy)


def sweep_id(commit: str, settings: Sequence[str]) -> str:
    """Return a name for the sweep, the same if it is started again."""
    return f"{commit[:7]}-{hashlib.sha256(' '.join(settings).encode()).hexdigest()[:7]}"
