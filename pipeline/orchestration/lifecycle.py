"""The life of a flow run: it waits for the workspace, holds it, and ends when it is cancelled."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
from filelock import FileLock, Timeout
from prefect import get_run_logger, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Completed, Failed

from pipeline.errors import PipelineError
from pipeline.files import atomic_write
from pipeline.orchestration.abandoned import (
    cancel_overdue_runs,
    end_abandoned_runs,
    hold_record,
    start_crash_reporter,
)
from pipeline.orchestration.outage import Outage, current_outage
from pipeline.orchestration.server import ends_with_this_process, is_healthy
from pipeline.repository.dvc_output import BusyError
from pipeline.repository.dvc_worker import DvcWorkerPool
from pipeline.repository.processes import CancelScope, RunCancelledError, current_scope

BUSY_POLL = 2.0  # seconds between looks at a lock
CANCEL_POLL = 5.0  # seconds; asking takes time on the server that a stage could use
CANCEL_TIMEOUT = 30.0  # seconds; a server that takes longer to answer does not answer

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
    slots: threading.Semaphore  # of stages that may be at work at a time


def run_as_flow(work: Callable[[], State[Any]]) -> State[Any]:
    """Do the work of a flow run and return its state; put what went wrong into a state.

    The run has a scope of its own: its processes end with it, when it is cancelled on Prefect's
    pages, and when the flow that called it is cancelled.
    """
    with CancelScope() as scope, current_outage() as outage:
        try:
            with begin_run(scope, outage):
                state = work()
        except (RunCancelledError, KeyboardInterrupt) as error:
            scope.cancel()
            state = Cancelled(message=str(error) or "interrupted")
            if isinstance(error, KeyboardInterrupt):
                outage.give_up()
        except SkippedRunError as error:
            state = Completed(name="Skipped", message=str(error))
        except PipelineError as error:
            state = Failed(message=str(error), data=error)
        except TerminationSignal:  # Prefect marks the run as crashed
            outage.give_up()
            raise
        outage.wait()  # Prefect reports the state next
    return state


@contextmanager
def begin_run(scope: CancelScope, outage: Outage) -> Iterator[None]:
    """Hold the run's record and its deployment, end what nobody holds, and watch the server."""
    context = FlowRunContext.get()
    assert context and context.flow_run
    run, root, client = context.flow_run, Path.cwd(), get_client(sync_client=True)
    outage.guard(client)
    watch_for_cancellation(scope, run)
    if (root / ".dvc").is_dir():  # not where a worker of Dask was started
        record = hold_record(root, run)
        if run.parent_task_run_id is None:
            end_abandoned_runs(client, root)
            if not ends_with_this_process():
                start_crash_reporter(record)
    with deployment_lock(root, run):
        cancel_overdue_runs(client, run)
        yield


def watch_for_cancellation(scope: CancelScope, run: FlowRun | None = None) -> None:
    """Cancel the scope soon after the run is cancelled on Prefect's pages.

    Prefect's own runner would end this process, but not every run has one. The thread that asks
    also notes whether the server answers, of a `run` until the server knows its final state.
    """
    run_id, url = runtime.flow_run.id, PREFECT_API_URL.value() or ""
    # A client of its own, because those of the run wait for the server. It is opened here, because
    # the thread might come too late to open it.
    stack = ExitStack()
    settings = {"timeout": CANCEL_TIMEOUT}
    client = stack.enter_context(get_client(sync_client=True, httpx_settings=settings))

    def is_reported() -> bool:
        return run is None or run.state is None or run.state.is_final()

    def look(outage: Outage) -> None:
        try:
            state = client.read_flow_run(run_id).state
        except httpx.HTTPError as error:
            # An error that is an answer may come of a database that is busy, or gone.
            if isinstance(error, httpx.TransportError) or not is_healthy(url):
                outage.begin()
            return
        except ObjectNotFound:  # the run is deleted
            return
        outage.end()
        if state and state.type in (StateType.CANCELLING, StateType.CANCELLED):
            scope.cancel()

    def watch() -> None:
        with stack, current_outage() as outage:
            while not (scope.is_cancelled and is_reported()):
                with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                    look(outage)
                time.sleep(CANCEL_POLL)

    threading.Thread(target=copy_context().run, args=(watch,), daemon=True).start()


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
    """Hold the workspace, after waiting for it."""
    lock = context.root / ".dvc" / "tmp" / "flow.lock"
    with wait_while_busy(context, lambda: take_lock(lock)):
        note_holder(lock)
        yield


@contextmanager
def deployment_lock(root: Path, run: FlowRun) -> Iterator[None]:
    """Hold the run's deployment in this folder; raise SkippedRunError if another run does.

    A second run of a deployment would do the same work at the same time.
    """
    if run.deployment_id is None or run.parent_task_run_id is not None:
        yield
        return
    lock = root / ".dvc" / "tmp" / f"deployment-{run.deployment_id}.lock"
    with ExitStack() as held:
        held.enter_context(hold_or_skip(lock, "is at work on this deployment"))
        token = _deployment.set(held)
        try:
            yield
        finally:
            _deployment.reset(token)


_deployment: ContextVar[ExitStack | None] = ContextVar("deployment", default=None)


def release_deployment() -> None:
    """Let other runs of this run's deployment begin, while it goes on."""
    if held := _deployment.get():
        held.close()


@contextmanager
def hold_or_skip(lock: Path, work: str) -> Iterator[None]:
    """Hold a lock, and remove its file afterwards.

    Raises SkippedRunError if another run holds it, which says what its `work` is.
    """
    try:
        held = take_lock(lock)
    except BusyError as error:
        raise SkippedRunError(f"{error} {work}") from error
    with held:
        note_holder(lock)
        try:
            yield
        finally:  # while it is held; FileLock takes no file that was removed meanwhile
            lock.with_suffix(".holder").unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


def take_lock(path: Path) -> AbstractContextManager[object]:
    """Lock a file, or raise BusyError; the kernel frees the lock when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(path).acquire(blocking=False)
    except Timeout as error:
        holder = "another run"
        with suppress(FileNotFoundError):  # it is about to write this, or has removed it
            holder = path.with_suffix(".holder").read_text(encoding="utf-8")
        raise BusyError(holder) from error


def note_holder(path: Path) -> None:
    """Leave a note of who holds a lock, for those who wait for it."""
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    with atomic_write(path.with_suffix(".holder")) as temporary:
        holder = f"flow run {runtime.flow_run.name} (process {os.getpid()}, since {started})"
        temporary.write_text(holder, encoding="utf-8")
