"""The graph as a Prefect flow: one task for each DVC stage, named and wired as dvc.yaml has them.

DVC decides what runs, so Prefect's result cache is off. A task ends Completed (it ran), Restored
(from the run cache), Skipped (unchanged) or Failed, with the reason as its message.
"""

from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture, wait
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task, exponential_backoff
from pydantic import Field

from pipeline.errors import FetchError, PipelineError
from pipeline.orchestration.artifacts import publish_plan, publish_results
from pipeline.orchestration.lifecycle import (
    RunContext,
    SkippedRunError,
    WhenBusy,
    run_as_flow,
    wait_while_busy,
    workspace_lock,
)
from pipeline.repository.dvc_files import read_declaration, read_settings
from pipeline.repository.dvc_worker import SIGNAL_BASE, Chain, Outcome, StageError, dvc_in
from pipeline.repository.graph import Graph, chain_up, read_status, upstream
from pipeline.repository.plan import Action, PlannedStage, plan
from pipeline.repository.processes import CancelScope, RunCancelledError

REPORT = Path("reports/index.html")


@flow(name="mnist", task_runner=ThreadPoolTaskRunner(), persist_result=False)  # type: ignore[arg-type]
def run_graph(
    stages: list[str] | None = None,
    force: bool = False,
    when_busy: WhenBusy = "wait",
    wait_seconds: Annotated[float, Field(ge=0)] = 3600,
) -> State[Any]:
    """Bring the stages (all, or those named with what they need) up to date in the current folder.

    Args:
        stages: the last stages wanted; all of dvc.yaml where none is named
        force: run them even if nothing changed
        when_busy: wait for, or leave the work to, whoever is at work in this folder
        wait_seconds: how long to wait
    """

    def work(lifeline: CancelScope) -> State[Any]:
        workspace = RunContext(Path.cwd(), lifeline, when_busy, wait_seconds)
        with workspace_lock(workspace):
            return reproduce_graph(workspace, stages, force)

    return run_as_flow(work)


def reproduce_graph(workspace: RunContext, stages: list[str] | None, force: bool) -> State[Any]:
    def decide() -> tuple[Graph, list[PlannedStage]]:
        with dvc_in(workspace.root) as dvc:
            view = read_status(dvc)
            graph = upstream(view.graph, stages or view.graph)
            if force:
                return graph, [PlannedStage(stage, Action.RUN, ("forced",)) for stage in graph]
            return graph, plan(dvc, graph, view)

    graph, steps = wait_while_busy(workspace, decide)
    publish_plan(steps)
    states = run_tasks(workspace, graph, steps, force)
    if did_anything(states) and (workspace.root / REPORT).is_file():
        address = (
            workspace.root / REPORT
        ).as_uri()  # shown, because no browser goes from a server's page to a file
        create_link_artifact(address, link_text=address, key="report", description="The report")
    return summarize_states(states)


def run_tasks(
    workspace: RunContext, graph: Graph, steps: list[PlannedStage], force: bool
) -> dict[str, State[Any]]:
    """Run the stages as tasks; return the state in which each ended."""
    futures = submit_tasks(workspace, graph, steps, force)
    measuring = [
        future
        for stage, future in futures.items()
        if "metrics" in read_declaration(workspace.root, stage)
    ]
    wait(measuring or list(futures.values()))
    if (
        any(step.action is not Action.SKIP for step in steps)
        and not workspace.lifeline.is_cancelled
    ):
        publish_results(workspace.root)  # while the stages after them are at work
    wait(list(futures.values()))
    return {stage: future.state for stage, future in futures.items()}


def did_anything(states: dict[str, State[Any]]) -> bool:
    return any(state.name in (Outcome.RAN, Outcome.RESTORED) for state in states.values())


def submit_tasks(
    workspace: RunContext, graph: Graph, steps: list[PlannedStage], force: bool
) -> dict[str, PrefectFuture[Any]]:
    chains: dict[str, Chain] = {}
    for row in chain_up(graph, [step.stage for step in steps if step.action is not Action.SKIP]):
        chains |= dict.fromkeys(row, Chain(workspace.root, row, workspace.lifeline, force=force))
    futures: dict[str, PrefectFuture[Any]] = {}
    for step in steps:
        settings = read_settings(workspace.root, step.stage)
        futures[step.stage] = run_stage.with_options(
            name=step.stage,
            task_run_name=step.stage,
            retries=settings.retries,
            retry_delay_seconds=exponential_backoff(settings.retry_delay),
        ).submit(
            workspace,
            chains.get(step.stage),
            step,
            settings.timeout,
            wait_for=[futures[name] for name in graph[step.stage]],
            return_state=False,
        )
    return futures


def is_worth_retrying(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Again when no source answered; once more when a signal, such as the kernel's for want of
    memory, ended it.
    """
    error = state.data
    if not isinstance(error, StageError):
        return False
    return error.code == FetchError.exit_code or (error.code > SIGNAL_BASE and run.run_count == 1)


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=is_worth_retrying,
    retry_jitter_factor=0.5,
)
def run_stage(
    workspace: RunContext, chain: Chain | None, step: PlannedStage, timeout: float | None
) -> State[Any]:
    reason = "; ".join(step.reasons)
    if chain is None:
        return Completed(name=Outcome.SKIPPED, message=reason)
    log = get_run_logger().info
    try:
        outcome = wait_while_busy(workspace, lambda: chain.reproduce(step.stage, log, timeout))
    except PipelineError as error:
        return to_final_state(error)
    return Completed(name=outcome, message="unchanged" if outcome is Outcome.SKIPPED else reason)


def to_final_state(error: PipelineError) -> State[Any]:
    kind = Cancelled if isinstance(error, RunCancelledError | SkippedRunError) else Failed
    return kind(message=str(error), data=error)


def summarize_states(states: dict[str, State[Any]]) -> State[Any]:
    """The run's state: the worst of its tasks', in words; Unchanged where nothing had to be
    done.
    """
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
    return Completed(
        message="; ".join(f"{name.lower()}: {', '.join(stages)}" for name, stages in done.items())
    )
