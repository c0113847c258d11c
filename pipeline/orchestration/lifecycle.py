"""The life of a flow run: it waits for the workspace, holds it, and ends when it is cancelled."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
from filelock import FileLock, Timeout
from prefect import get_run_logger, runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Failed

from pipeline.errors import PipelineError
from pipeline.files import atomic_write
from pipeline.repository.dvc_output import BusyError
from pipeline.repository.dvc_worker import DvcWorkerPool
from pipeline.repository.processes import CancelScope, RunCancelledError, current_scope

BUSY_POLL = 2.0  # seconds between looks at a lock
CANCEL_POLL = 5.0  # seconds; asking takes time on the server that a stage could use

Result = TypeVar("Result")
WhenBusy = Literal["wait", "skip"]


class SkippedRunError(PipelineError):
    """Somebody else is at work here, and this run is not to wait."""


@dataclass(frozen=True)
class RunContext:
    """Where a run works, and what it does while somebody else is at work there."""

    root: Path
    pool: DvcWorkerPool
    when_busy: WhenBusy
    wait_seconds: float


def run_as_flow(work: Callable[[], State[Any]]) -> State[Any]:
    """Do the work of a flow run and return its state; put what went wrong into a state.

    The run has a scope of its own: its processes end with it, when it is cancelled on Prefect's
    pages, and when the flow that called it is cancelled.
    """
    with CancelScope() as scope, get_client(sync_client=True) as client:
        cancel_overdue_runs(client)
        watch_for_cancellation(scope)
        try:
            return work()
        except (RunCancelledError, KeyboardInterrupt) as error:
            scope.cancel()
            return Cancelled(message=str(error) or "interrupted")
        except SkippedRunError as error:
            return Completed(name="Skipped", message=str(error))
        except PipelineError as error:
            return Failed(message=str(error), data=error)


def watch_for_cancellation(scope: CancelScope) -> None:
    """Cancel the scope soon after the run is cancelled on Prefect's pages.

    Prefect's own runner would end this process, but not every run has one.
    """
    run_id = runtime.flow_run.id
    # Opened here: it is the run's own client, and the thread might come too late to open it.
    stack = ExitStack()
    client = stack.enter_context(get_client(sync_client=True))

    def watch() -> None:
        with stack:
            while not scope.is_cancelled:
                # A server that is away for a while stops nothing, nor does a run that is deleted.
                with suppress(httpx.HTTPError, ObjectNotFound):
                    state = client.read_flow_run(run_id).state
                    if state and state.type in (StateType.CANCELLING, StateType.CANCELLED):
                        scope.cancel()
                time.sleep(CANCEL_POLL)

    threading.Thread(target=copy_context().run, args=(watch,), daemon=True).start()


def cancel_overdue_runs(client: SyncPrefectClient) -> None:
    """Cancel this deployment's scheduled runs that are due by now: this run does their work."""
    run = FlowRunContext.get()
    # runtime.deployment.id would ask the server
    deployment = run.flow_run.deployment_id if run and run.flow_run else None
    if not deployment:
        return
    overdue = FlowRunFilter.model_validate(
        {
            "deployment_id": {"any_": [str(deployment)]},
            "state": {"type": {"any_": ["SCHEDULED"]}},
            "expected_start_time": {"before_": datetime.now(UTC)},
        }
    )
    oldest_first = FlowRunSort.EXPECTED_START_TIME_ASC
    for missed in client.read_flow_runs(flow_run_filter=overdue, sort=oldest_first, limit=200):
        if missed.auto_scheduled:
            message = f"missed; done by {runtime.flow_run.name}"
            client.set_flow_run_state(missed.id, Cancelled(message=message))


def wait_while_busy(context: RunContext, work: Callable[[], Result]) -> Result:
    """Do `work`, again and again while it raises BusyError.

    Raises SkippedRunError if the run is not to wait, PipelineError if it has waited long enough,
    RunCancelledError.
    """
    deadline, announced = time.monotonic() + context.wait_seconds, ""
    while True:
        try:
            return work()
        except BusyError as error:
            holder = str(error)
        if current_scope().is_cancelled:
            raise RunCancelledError("stopped while it waited")
        if context.when_busy == "skip":
            raise SkippedRunError(f"{holder} is at work in {context.root}")
        if time.monotonic() > deadline:
            waited = f"{context.wait_seconds:g} seconds"
            raise PipelineError(f"gave up after {waited}: {holder} is still at work")
        if holder != announced:
            get_run_logger().info("waiting for %s", holder)
            announced = holder
        time.sleep(BUSY_POLL)


@contextmanager
def workspace_lock(context: RunContext) -> Iterator[None]:
    """Hold the workspace, after waiting for it; the kernel frees the lock when its holder dies."""
    folder = context.root / ".dvc" / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    lock, note = FileLock(folder / "flow.lock"), folder / "flow.holder"

    def acquire() -> AbstractContextManager[object]:
        try:
            return lock.acquire(blocking=False)
        except Timeout as error:
            holder = note.read_text(encoding="utf-8") if note.exists() else "another run"
            raise BusyError(holder) from error

    with wait_while_busy(context, acquire):
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        with atomic_write(note) as temporary:
            holder = f"flow run {runtime.flow_run.name} (process {os.getpid()}, since {started})"
            temporary.write_text(holder, encoding="utf-8")
        yield
