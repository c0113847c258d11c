"""The graph as a Prefect flow: one task for each DVC stage, named and wired as dvc.yaml has them.

DVC decides what runs, so Prefect's result cache is off. A task ends Completed (it ran), Restored
(from the run cache), Recorded (data changed by hand), Skipped (unchanged), Failed, Cancelled, or as
REFUSED says, with the reason as its message.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Semaphore
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture, wait
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task, exponential_backoff
from pydantic import Field

from pipeline.errors import FetchError, PipelineError
from pipeline.orchestration.artifacts import publish_pages, publish_plan, publish_results
from pipeline.orchestration.lifecycle import (
    RunContext,
    SkippedRunError,
    WhenBusy,
    run_as_flow,
    wait_while_busy,
    workspace_lock,
)
from pipeline.repository.dvc_output import Outcome, StageError
from pipeline.repository.dvc_worker import DvcWorkerPool
from pipeline.repository.graph import Graph, Targets, read_graph
from pipeline.repository.plan import Action, PlannedStage, plan, plan_forced
from pipeline.repository.processes import RunCancelledError, current_scope

# The states of what DVC would refuse
REFUSED = {Action.CHECKOUT: "NotCheckedOut", Action.PULL: "NotPulled", Action.FAIL: "Refused"}


@flow(
    name="mnist",
    task_runner=ThreadPoolTaskRunner(),  # type: ignore[arg-type]  # Prefect types it invariant
    persist_result=False,
)
def run_graph(
    stages: list[str] | None = None,
    force: bool = False,
    when_busy: WhenBusy = "wait",
    wait_seconds: Annotated[float, Field(ge=0)] = 3600,
    all_pipelines: bool = False,
    jobs: Annotated[int, Field(ge=1)] = 1,
) -> State[Any]:
    """Bring stages up to date in the current folder, as `dvc repro` with the same targets does.

    Args:
        stages: the last stages wanted; those of the folder's dvc.yaml if none is named
        force: run them even if nothing changed
        when_busy: wait for, or leave the work to, whoever is at work in this folder
        wait_seconds: how long to wait
        all_pipelines: take every dvc.yaml and .dvc file of the repository
        jobs: how many stages may be at work at a time
    """
    targets = Targets(tuple(stages or ()), all_pipelines)
    return run_as_flow(lambda: reproduce_graph(targets, force, when_busy, wait_seconds, jobs))


def reproduce_graph(
    targets: Targets,
    force: bool,
    when_busy: WhenBusy,
    wait_seconds: float,
    jobs: int,
) -> State[Any]:
    """Plan, run and publish; return the state of the run."""
    with DvcWorkerPool(Path.cwd()) as pool:
        context = RunContext(pool.root, pool, when_busy, wait_seconds, Semaphore(jobs))
        with workspace_lock(context):
            graph, planned = wait_while_busy(context, lambda: plan_graph(pool, targets, force))
            publish_plan(planned)
            states = run_tasks(context, graph, planned, force)
            if any(state.name in (Outcome.RAN, Outcome.RESTORED) for state in states.values()):
                publish_pages(context.root, graph)
    return summarize_states(states)


def plan_graph(
    pool: DvcWorkerPool,
    targets: Targets,
    force: bool,
) -> tuple[Graph, list[PlannedStage]]:
    """Return the graph up to the targets, and what is to be done to each stage of it."""
    with pool.worker() as dvc:
        graph = read_graph(dvc, targets)
        return graph, plan_forced(graph) if force else plan(dvc, graph, targets)


def run_tasks(
    context: RunContext,
    graph: Graph,
    planned: list[PlannedStage],
    force: bool,
) -> dict[str, State[Any]]:
    """Run the stages as tasks; return the state in which each ended."""
    futures = submit_tasks(context, graph, planned, force)
    # Metrics are shown as soon as they are there, while the stages after them are at work.
    measuring = [future for stage, future in futures.items() if graph[stage].has_metrics]
    wait(measuring or list(futures.values()))
    is_changed = any(stage.action is not Action.SKIP for stage in planned)
    if is_changed and not current_scope().is_cancelled:
        with context.pool.worker() as dvc:
            publish_results(dvc, graph)
    wait(list(futures.values()))
    return {stage: future.state for stage, future in futures.items()}


def submit_tasks(
    context: RunContext,
    graph: Graph,
    planned: list[PlannedStage],
    force: bool,
) -> dict[str, PrefectFuture[Any]]:
    """Submit a task for each stage, to run after the tasks of the stages it needs."""
    futures: dict[str, PrefectFuture[Any]] = {}
    for stage in planned:
        settings = graph[stage.name].settings
        futures[stage.name] = run_stage.with_options(
            name=stage.name,
            task_run_name=stage.name,
            retries=settings.retries,
            retry_delay_seconds=exponential_backoff(settings.retry_delay),
        ).submit(
            context,
            stage,
            force,
            settings.timeout,
            wait_for=[futures[name] for name in graph[stage.name].needs],
            return_state=False,
        )
    return futures


def is_worth_retrying(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether to run a stage again.

    Again and again if no source of data answered; once more if a signal ended it, as when memory
    runs out.
    """
    error = state.data
    if not isinstance(error, StageError):
        return False
    return error.code == FetchError.exit_code or (error.signal is not None and run.run_count == 1)


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=is_worth_retrying,
    retry_jitter_factor=0.5,
)
def run_stage(
    context: RunContext,
    stage: PlannedStage,
    force: bool,
    timeout: float | None,
) -> State[Any]:
    """Let DVC bring one stage up to date; the state is named after what DVC did."""
    reason = "; ".join(stage.reasons)
    if stage.action is Action.SKIP:
        return Completed(name=Outcome.SKIPPED, message=reason)
    log = get_run_logger().info
    try:
        with slot(context.slots), context.pool.worker() as dvc:
            outcome = wait_while_busy(
                context,
                lambda: dvc.reproduce(stage.name, log, force=force, timeout=timeout),
            )
    except PipelineError as error:
        state = to_final_state(error)
        if state.is_failed() and stage.action in REFUSED:
            message = f"{stage.name} failed: {reason}"
            return Failed(name=REFUSED[stage.action], message=message, data=error)
        return state
    return Completed(name=outcome, message="unchanged" if outcome is Outcome.SKIPPED else reason)


@contextmanager
def slot(slots: Semaphore) -> Iterator[None]:
    """Hold a slot. Who waits for one when the run is cancelled gets that of a stage that ends."""
    if not slots.acquire(blocking=False):
        get_run_logger().info("waiting for another stage to end, as --jobs says")
        slots.acquire()
    try:
        yield
    finally:
        slots.release()


def to_final_state(error: PipelineError) -> State[Any]:
    kind = Cancelled if isinstance(error, RunCancelledError | SkippedRunError) else Failed
    return kind(message=str(error), data=error)


def summarize_states(states: dict[str, State[Any]]) -> State[Any]:
    """Return the run's state: the worst of its tasks', or Unchanged if there was nothing to do."""
    for state in states.values():
        if isinstance(state.data, SkippedRunError):
            return Completed(name="Skipped", message=state.message)
    if failed := [state for state in states.values() if state.is_failed() or state.is_crashed()]:
        return Failed(message="\n".join(str(state.message) for state in failed))
    if stopped := [stage for stage, state in states.items() if not state.is_completed()]:
        return Cancelled(message=f"stopped before {', '.join(stopped)} ended")
    done: dict[str, list[str]] = {}
    for stage, state in states.items():
        done.setdefault(str(state.name), []).append(stage)
    if done.keys() == {Outcome.SKIPPED}:
        return Completed(name="Unchanged", message=f"nothing to do for {', '.join(states)}")
    summary = [f"{name.lower()}: {', '.join(stages)}" for name, stages in done.items()]
    return Completed(message="; ".join(summary))
