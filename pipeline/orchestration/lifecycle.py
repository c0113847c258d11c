"""The life of a flow run: it waits for the workspace, holds it, and ends when it is cancelled."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
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
from prefect.states import Cancelled, Completed, Failed

from pipeline.errors import PipelineError
from pipeline.files import atomic_write
from pipeline.repository.dvc_worker import BusyError
from pipeline.repository.processes import CancelScope, RunCancelledError

POLL = 2.0  # seconds between looks at a lock
# and at whether the run was cancelled: each costs the server some of the time that a stage could
# use
CANCEL_POLL = 5.0
Done = TypeVar("Done")
WhenBusy = Literal["wait", "skip"]


class SkippedRunError(PipelineError):
    """Somebody else is at work here, and this run is not to wait."""


@dataclass(frozen=True)
class RunContext:
    """Where a run works, and what it does while it is not alone there."""

    root: Path
    lifeline: CancelScope
    when_busy: WhenBusy
    wait_seconds: float


def wait_while_busy(workspace: RunContext, work: Callable[[], Done]) -> Done:
    """Do `work` once nobody else is at it; raise where this run is not to wait, or has waited long
    enough.
    """
    deadline, announced = time.monotonic() + workspace.wait_seconds, ""
    while True:
        try:
            return work()
        except BusyError as error:
            holder = str(error)
        if workspace.lifeline.is_cancelled:
            raise RunCancelledError("stopped while it waited")
        if workspace.when_busy == "skip":
            raise SkippedRunError(f"{holder} is at work in {workspace.root}")
        if time.monotonic() > deadline:
            raise PipelineError(
                f"gave up after {workspace.wait_seconds:g} seconds: {holder} is still at work"
            )
        if holder != announced:
            get_run_logger().info("waiting for %s", holder)
            announced = holder
        time.sleep(POLL)


def run_as_flow(
    work: Callable[[CancelScope], State[Any]], above: CancelScope | None = None
) -> State[Any]:
    """Do the work of a flow run, whose processes end with it, or with `above`; put into a state
    what went wrong.
    """
    with CancelScope(above) as lifeline, get_client(sync_client=True) as client:
        cancel_overdue_runs(client)
        watch_for_cancellation(lifeline)
        try:
            return work(lifeline)
        except (RunCancelledError, KeyboardInterrupt) as error:
            lifeline.cancel()
            return Cancelled(message=str(error) or "interrupted")
        except SkippedRunError as error:
            return Completed(name="Skipped", message=str(error))
        except PipelineError as error:
            return Failed(message=str(error))


@contextmanager
def workspace_lock(workspace: RunContext) -> Iterator[None]:
    """Hold the workspace, once whoever holds it is done; the kernel frees it when its
    holder dies.
    """
    folder = workspace.root / ".dvc" / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    lock, note = FileLock(folder / "flow.lock"), folder / "flow.holder"

    def acquire() -> AbstractContextManager[object]:
        try:
            return lock.acquire(blocking=False)
        except Timeout as error:
            raise BusyError(
                note.read_text(encoding="utf-8") if note.exists() else "another run"
            ) from error

    with wait_while_busy(workspace, acquire):
        with atomic_write(note) as temporary:
            started = datetime.now().astimezone().isoformat(timespec="seconds")
            temporary.write_text(
                f"flow run {runtime.flow_run.name} (process {os.getpid()}, since {started})"
            )
        yield


def watch_for_cancellation(lifeline: CancelScope) -> None:
    """Ask Prefect now and then whether the run was cancelled: only its runner would end this
    process.
    """
    run_id = runtime.flow_run.id

    def watch() -> None:
        with get_client(sync_client=True) as client:
            while not lifeline.is_cancelled:
                with suppress(httpx.HTTPError):  # a server that is away for a while stops nothing
                    state = client.read_flow_run(run_id).state
                    if state and state.type in (StateType.CANCELLING, StateType.CANCELLED):
                        lifeline.cancel()
                time.sleep(CANCEL_POLL)

    threading.Thread(target=copy_context().run, args=(watch,), daemon=True).start()


def cancel_overdue_runs(client: SyncPrefectClient) -> None:
    """Cancel this deployment's scheduled runs that are due by now: this run does their work."""
    run = FlowRunContext.get()
    if (
        run and run.flow_run and (deployment := run.flow_run.deployment_id)
    ):  # runtime.deployment.id asks the server
        due = FlowRunFilter.model_validate(
            {
                "deployment_id": {"any_": [str(deployment)]},
                "state": {"type": {"any_": ["SCHEDULED"]}},
                "expected_start_time": {"before_": datetime.now(UTC)},
            }
        )
        for missed in client.read_flow_runs(
            flow_run_filter=due, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=200
        ):
            if missed.auto_scheduled:
                client.set_flow_run_state(
                    missed.id, Cancelled(message=f"missed; done by {runtime.flow_run.name}")
                )
