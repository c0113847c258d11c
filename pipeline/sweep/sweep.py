"""Every combination of some parameters' values, each trained in isolation, seen as a child run of
the sweep's.

The best is told by its validation accuracy, and no combination is run further than `train`: the
test split is read once, by the retraining that publishes the best. DVC's run cache is the sweep's
memory, so that one which was killed and is started again restores what was done and resumes what
was not.
"""

import base64
import hashlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from uuid import UUID

import pandas as pd
from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import (
    create_image_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed, Failed

from pipeline.errors import ParamsError, PipelineError
from pipeline.files import atomic_write
from pipeline.orchestration.flow import to_final_state
from pipeline.orchestration.lifecycle import run_as_flow, watch_for_cancellation
from pipeline.release.candidate import run_isolated
from pipeline.release.overrides import PARAMS_FILE, apply_overrides, parse_overrides
from pipeline.release.retrain import retrain
from pipeline.repository.dvc_worker import DvcWorker
from pipeline.repository.git import git
from pipeline.repository.processes import CancelScope, current_scope
from pipeline.sweep.dask_cluster import CloneSource, mark_orphans_crashed, worker_clone
from pipeline.sweep.parallel_coordinates import draw_parallel_coordinates, to_svg

TARGET_STAGE = "train"  # the stage that a combination is run up to
RESULT = "validation accuracy"
MAXIMUM = 1000  # combinations; more is a slip
FOLDER = Path("sweeps")

Changes = dict[str, Any]


@dataclass(frozen=True)
class TrialLocation:
    """Where a combination is tried: next to the pipeline at `root`, or in a worker's clone of
    `source`.
    """

    root: Path
    commit: str
    source: CloneSource | None


@dataclass(frozen=True)
class Trial:
    """What became of a combination."""

    changes: Changes
    state: str
    message: str
    validation_accuracy: float | None = None
    seconds: float | None = None

    @property
    def has_result(self) -> bool:
        return self.validation_accuracy is not None

    @property
    def line(self) -> str:
        if self.validation_accuracy is None:
            return f"{trial_name(self.changes)}: {self.state}, {self.message}"
        return f"{trial_name(self.changes)}: {RESULT} {self.validation_accuracy:.2%}"


def trial_name(changes: Changes) -> str:
    return ", ".join(f"{name} {value}" for name, value in changes.items())


def expand_grid(settings: Sequence[str]) -> list[Changes]:
    """['train.seed=1,2', 'train.epochs=5'] → every combination, values read as YAML; raise
    ParamsError.
    """
    listed = parse_overrides(
        f"{name}=[{values}]" for name, _, values in (text.partition("=") for text in settings)
    )
    for name, values in listed.items():
        if not values or len({str(value) for value in values}) < len(values):
            raise ParamsError(
                f"--set {name}: must list different values, such as {name}=1,2, got {values}"
            )
    combinations = [
        dict(zip(listed, values, strict=True)) for values in itertools.product(*listed.values())
    ]
    if len(combinations) > MAXIMUM:
        raise ParamsError(
            f"--set makes {len(combinations):,} combinations; a sweep runs at most {MAXIMUM:,}"
        )
    return combinations


def check_parameter_names(root: Path, commit: str, changes: Changes) -> None:
    """Raise ParamsError where params.yaml has no such parameters; what values may be, their stages
    say.
    """
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
    """Try every combination of `settings`; this flow's task runner says where, and how many at
    once.

    Args:
        commit: whose code, data and other parameters they share
        settings: parameters and their values, such as train.seed=1,2
        branch: where a retraining with the best of them is to be published; None: nowhere
        remote: of Git, to which that is pushed
        source: what the task runner's workers clone; None where they work next to this folder
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
    attempts = run_trials(TrialLocation(root, commit, source), combinations)
    best = publish_table(attempts, root / FOLDER / sweep_id(commit, settings))
    if best is None:
        first = attempts[0].message
        return Failed(message=f"all {len(attempts)} combinations failed; the first: {first}")
    done = sum(attempt.has_result for attempt in attempts)
    tried = f"{done} of {len(attempts)} combinations; the best: {best.line}"
    if branch is None:
        return Completed(message=tried)
    if source:
        with DvcWorker(root) as dvc:
            dvc.run("fetch", "--run-cache", "--quiet")  # what the workers have made
    published = retrain(commit, best.changes, branch, remote, return_state=True)
    message = f"{tried}; {published.message}"
    return State(type=published.type, name=published.name, message=message)


def run_trials(place: TrialLocation, combinations: list[Changes]) -> list[Trial]:
    """Return what became of each, the best first; the failure of one stops none of the others."""
    futures = {
        run_trial.with_options(task_run_name=partial(trial_name, changes)).submit(
            place, changes
        ): changes
        for changes in combinations
    }
    progress = cast(
        UUID, create_progress_artifact(0.0, key="progress", description="Combinations tried, in %")
    )
    for count, future in enumerate(as_completed(list(futures)), 1):
        get_run_logger().info(
            "%s of %s: %s", count, len(futures), to_trial(future, futures[future]).line
        )
        update_progress_artifact(progress, 100 * count / len(futures))
    current_scope().raise_if_cancelled()
    attempts = [to_trial(future, changes) for future, changes in futures.items()]
    return sorted(attempts, key=lambda attempt: attempt.validation_accuracy or -1, reverse=True)


def to_trial(future: PrefectFuture[Any], changes: Changes) -> Trial:
    future.wait()
    state = future.state
    if state.is_completed():
        return cast(Trial, state.result())
    if state.is_final():
        return Trial(changes, str(state.name), str(state.message))
    return Trial(changes, "Crashed", "its workers died, one after the other")


@task(cache_policy=NO_CACHE, persist_result=False)
def run_trial(place: TrialLocation, changes: Changes) -> State[Any]:
    started = time.monotonic()
    with CancelScope() as scope:
        try:
            if place.source is None:
                state = run_trial_flow(place.root, place.commit, changes)
            else:
                watch_for_cancellation(scope)
                mark_orphans_crashed(runtime.flow_run.id, trial_name(changes))
                with worker_clone(place.source, place.commit) as root:
                    state = run_trial_flow(root, place.commit, changes)
        except PipelineError as error:
            return to_final_state(error)
    if not state.is_completed():
        return State(type=state.type, name=state.name, message=state.message)
    seconds = round(time.monotonic() - started, 1)
    attempt = Trial(changes, str(state.name), str(state.message), state.result(), seconds)
    return Completed(name=state.name, message=state.message, data=attempt)


def run_trial_flow(root: Path, commit: str, changes: Changes) -> State[Any]:
    """Run a combination as a flow run of its own; the data of its state is the validation
    accuracy.
    """

    @flow(
        name="mnist-combination", flow_run_name=partial(trial_name, changes), persist_result=False
    )
    def combination(changes: Changes) -> State[Any]:
        def work() -> State[Any]:
            made = run_isolated(root, commit, changes, [TARGET_STAGE])
            if not made.state.is_completed():
                return made.state
            state = made.states[TARGET_STAGE]
            return Completed(name=state.name, message=state.message, data=made.validation_accuracy)

        return run_as_flow(work)

    return combination(changes, return_state=True)


def publish_table(attempts: list[Trial], folder: Path) -> Trial | None:
    """Leave table and plot in `folder`, on the run's page and, the table, in the log; return the
    best.
    """
    table = pd.DataFrame(
        [
            attempt.changes
            | {
                RESULT: attempt.validation_accuracy,
                "state": attempt.state,
                "seconds": attempt.seconds,
            }
            | {"message": attempt.message}
            for attempt in attempts
        ]
    )
    with atomic_write(folder / "combinations.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    create_table_artifact(rows, key="combinations", description=f"The best by {RESULT} first")
    shown = table.drop(columns="message").to_string(
        index=False, na_rep="-", formatters={RESULT: "{:.2%}".format}
    )
    get_run_logger().info("%s\n%s", shown, folder / "combinations.csv")
    drawn = table.loc[table[RESULT].notna(), [*attempts[0].changes, RESULT]]
    if drawn.empty:
        return None
    picture = to_svg(draw_parallel_coordinates(drawn))
    with atomic_write(folder / "combinations.svg") as temporary:
        temporary.write_bytes(picture)
    create_image_artifact(
        "data:image/svg+xml;base64," + base64.b64encode(picture).decode(), key="coordinates"
    )
    return attempts[0]


def sweep_id(commit: str, settings: Sequence[str]) -> str:
    """A name for the sweep, the same when it is started again."""
    return f"{commit[:7]}-{hashlib.sha256(' '.join(settings).encode()).hexdigest()[:7]}"
