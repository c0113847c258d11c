"""The graph as a Prefect flow: one task for each DVC stage, named and wired as dvc.yaml has them.

DVC decides what runs, so Prefect's result cache is off. A task ends Completed (it ran), Restored (from the run
cache), Skipped (unchanged) or Failed, with the reason as its message.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import httpx
from filelock import FileLock, Timeout
from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State, StateType, TaskRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture, wait
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task, exponential_backoff
from pydantic import Field

from pipeline.errors import FetchError, PipelineError
from pipeline.files import atomic_write
from pipeline.graph import (
    KILLED,
    Action,
    BusyError,
    Chain,
    Graph,
    Outcome,
    StageError,
    Step,
    ask_in_peace,
    chain_up,
    dvc_in,
    look,
    plan,
    read_declaration,
    read_settings,
    upstream,
)
from pipeline.supervisor import Lifeline, StoppedError

POLL = 2.0  # seconds between looks at a lock
CANCEL_POLL = 5.0  # and at whether the run was cancelled: each costs the server some of the time that a stage could use
REPORT = Path("reports/index.html")

Done = TypeVar("Done")
WhenBusy = Literal["wait", "skip"]


class SkippedRunError(PipelineError):
    """Somebody else is at work here, and this run is not to wait."""


@dataclass(frozen=True)
class Workspace:
    """Where a run works, and what it does while it is not alone there."""

    root: Path
    lifeline: Lifeline
    when_busy: WhenBusy
    wait_seconds: float


def patiently(workspace: Workspace, work: Callable[[], Done]) -> Done:
    """Do `work` once nobody else is at it; raise where this run is not to wait, or has waited long enough."""
    deadline, announced = time.monotonic() + workspace.wait_seconds, ""
    while True:
        try:
            return work()
        except BusyError as error:
            holder = str(error)
        if workspace.lifeline.is_cut:
            raise StoppedError("stopped while it waited")
        if workspace.when_busy == "skip":
            raise SkippedRunError(f"{holder} is at work in {workspace.root}")
        if time.monotonic() > deadline:
            raise PipelineError(f"gave up after {workspace.wait_seconds:g} seconds: {holder} is still at work")
        if holder != announced:
            get_run_logger().info("waiting for %s", holder)
            announced = holder
        time.sleep(POLL)


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

    def work(lifeline: Lifeline) -> State[Any]:
        workspace = Workspace(Path.cwd(), lifeline, when_busy, wait_seconds)
        with locked(workspace):
            return bring_up_to_date(workspace, stages, force)

    return run_to_state(work)


def run_to_state(work: Callable[[Lifeline], State[Any]], above: Lifeline | None = None) -> State[Any]:
    """Do the work of a flow run, whose processes end with it, or with `above`; put into a state what went wrong."""
    with Lifeline(above) as lifeline, get_client(sync_client=True) as client:
        merge_missed_runs(client)
        cut_when_cancelled(lifeline)
        try:
            return work(lifeline)
        except (StoppedError, KeyboardInterrupt) as error:
            lifeline.cut()
            return Cancelled(message=str(error) or "interrupted")
        except SkippedRunError as error:
            return Completed(name="Skipped", message=str(error))
        except PipelineError as error:
            return Failed(message=str(error))


def bring_up_to_date(workspace: Workspace, stages: list[str] | None, force: bool) -> State[Any]:
    def decide() -> tuple[Graph, list[Step]]:
        with dvc_in(workspace.root) as dvc:
            view = look(dvc)
            graph = upstream(view.graph, stages or view.graph)
            if force:
                return graph, [Step(stage, Action.RUN, ("forced",)) for stage in graph]
            return graph, plan(dvc, graph, view)

    graph, steps = patiently(workspace, decide)
    publish_plan(steps)
    states = carry_out(workspace, graph, steps, force)
    if did_anything(states) and (workspace.root / REPORT).is_file():
        address = (workspace.root / REPORT).as_uri()  # shown, because no browser goes from a server's page to a file
        create_link_artifact(address, link_text=address, key="report", description="The report")
    return conclude(states)


def carry_out(workspace: Workspace, graph: Graph, steps: list[Step], force: bool) -> dict[str, State[Any]]:
    """Run the stages as tasks; return the state in which each ended."""
    futures = submit(workspace, graph, steps, force)
    measuring = [future for stage, future in futures.items() if "metrics" in read_declaration(workspace.root, stage)]
    wait(measuring or list(futures.values()))
    if any(step.action is not Action.SKIP for step in steps) and not workspace.lifeline.is_cut:
        publish_results(workspace.root)  # while the stages after them are at work
    wait(list(futures.values()))
    return {stage: future.state for stage, future in futures.items()}


def did_anything(states: dict[str, State[Any]]) -> bool:
    return any(state.name in (Outcome.RAN, Outcome.RESTORED) for state in states.values())


def submit(workspace: Workspace, graph: Graph, steps: list[Step], force: bool) -> dict[str, PrefectFuture[Any]]:
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
    """Again when no source answered; once more when a signal, such as the kernel's for want of memory, ended it."""
    error = state.data
    if not isinstance(error, StageError):
        return False
    return error.code == FetchError.exit_code or (error.code > KILLED and run.run_count == 1)


@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=is_worth_retrying, retry_jitter_factor=0.5)
def run_stage(workspace: Workspace, chain: Chain | None, step: Step, timeout: float | None) -> State[Any]:
    reason = "; ".join(step.reasons)
    if chain is None:
        return Completed(name=Outcome.SKIPPED, message=reason)
    log = get_run_logger().info
    try:
        outcome = patiently(workspace, lambda: chain.reproduce(step.stage, log, timeout))
    except PipelineError as error:
        return end(error)
    return Completed(name=outcome, message="unchanged" if outcome is Outcome.SKIPPED else reason)


def end(error: PipelineError) -> State[Any]:
    kind = Cancelled if isinstance(error, StoppedError | SkippedRunError) else Failed
    return kind(message=str(error), data=error)


def conclude(states: dict[str, State[Any]]) -> State[Any]:
    """The run's state: the worst of its tasks', in words; Unchanged where nothing had to be done."""
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
    return Completed(message="; ".join(f"{name.lower()}: {', '.join(stages)}" for name, stages in done.items()))


@contextmanager
def locked(workspace: Workspace) -> Iterator[None]:
    """Hold the workspace, once whoever holds it is done; the kernel frees it when its holder dies."""
    folder = workspace.root / ".dvc" / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    lock, note = FileLock(folder / "flow.lock"), folder / "flow.holder"

    def acquire() -> AbstractContextManager[object]:
        try:
            return lock.acquire(blocking=False)
        except Timeout as error:
            raise BusyError(note.read_text(encoding="utf-8") if note.exists() else "another run") from error

    with patiently(workspace, acquire):
        with atomic_write(note) as temporary:
            started = datetime.now().astimezone().isoformat(timespec="seconds")
            temporary.write_text(f"flow run {runtime.flow_run.name} (process {os.getpid()}, since {started})")
        yield


def cut_when_cancelled(lifeline: Lifeline) -> None:
    """Ask Prefect now and then whether the run was cancelled: only its runner would end this process."""
    run_id = runtime.flow_run.id

    def watch() -> None:
        with get_client(sync_client=True) as client:
            while not lifeline.is_cut:
                with suppress(httpx.HTTPError):  # a server that is away for a while stops nothing
                    state = client.read_flow_run(run_id).state
                    if state and state.type in (StateType.CANCELLING, StateType.CANCELLED):
                        lifeline.cut()
                time.sleep(CANCEL_POLL)

    threading.Thread(target=copy_context().run, args=(watch,), daemon=True).start()


def merge_missed_runs(client: SyncPrefectClient) -> None:
    """Cancel this deployment's scheduled runs that are due by now: this run does their work."""
    run = FlowRunContext.get()
    if run and run.flow_run and (deployment := run.flow_run.deployment_id):  # runtime.deployment.id asks the server
        due = FlowRunFilter.model_validate(
            {
                "deployment_id": {"any_": [str(deployment)]},
                "state": {"type": {"any_": ["SCHEDULED"]}},
                "expected_start_time": {"before_": datetime.now(UTC)},
            }
        )
        for missed in client.read_flow_runs(flow_run_filter=due, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=200):
            if missed.auto_scheduled:
                client.set_flow_run_state(missed.id, Cancelled(message=f"missed; done by {runtime.flow_run.name}"))


def publish_plan(steps: list[Step]) -> None:
    rows = [{"stage": step.stage, "plan": step.action.value, "why": "; ".join(step.reasons)} for step in steps]
    create_table_artifact(rows, key="plan", description="What had to be done, and why")


def publish_results(root: Path) -> None:
    """Put metrics and parameters, with their change since the last commit, on the run's page."""
    try:
        answers = ask_in_peace(root, ("metrics", "diff", "--all", "--json"), ("params", "diff", "--json"))
    except PipelineError as error:  # no reason to stop the stages that are at work
        get_run_logger().warning("no metrics on this page: %s", error)
        return
    metrics, params = map(json.loads, answers)
    changes = [(name, change) for values in metrics.values() for name, change in values.items()]
    create_table_artifact(
        [
            {"metric": name, "last commit": change.get("old"), "now": change.get("new"), "change": rounded(change)}
            for name, change in sorted(changes, key=lambda item: ("." in item[0], item[0]))  # what is nested last
        ],
        key="metrics",
        description="Metrics, and their change since the last commit",
    )
    create_table_artifact(
        [
            {"parameter": name, "last commit": change.get("old"), "now": change.get("new")}
            for values in params.values()
            for name, change in values.items()
        ],
        key="params",
        description="Parameters changed since the last commit",
    )


def rounded(change: dict[str, Any]) -> float | None:
    """The difference of two metrics without its binary dust."""
    return float(f"{change['diff']:.6g}") if "diff" in change else None
