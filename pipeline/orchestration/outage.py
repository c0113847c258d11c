"""A Prefect server that does not answer for a while: the run goes on, and waits where it must.

So does one whose database is away: it answers with errors, which [tool.prefect] has repeated.

The run's requests wait until the server answers again. Its events, which carry the states of its
tasks, are kept by Prefect and sent with the next event. The log says once that the server does not
answer, and once that it does again, in place of what Prefect says for each attempt.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Event, Lock
from typing import Any

import httpx
from prefect import get_run_logger, runtime
from prefect._internal import observers
from prefect.client.orchestration import SyncPrefectClient
from prefect.events import emit_event
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL

from pipeline.orchestration.server import is_healthy

TRIED = "mnist.tried"  # marks a request that was sent, but not answered
PATIENCE = 3600.0  # seconds that a request waits for the server
ATTEMPTS = {  # what Prefect's loggers say for each, some with a traceback
    "prefect.events.clients": "Unable to connect to",
    "prefect._internal.concurrency": "Service %r failed to process",
}


class Outage:
    """Whether the server answers, for a run and the runs inside it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._answers = Event()
        self._answers.set()
        self._began = 0.0
        self._is_given_up = False

    def begin(self) -> None:
        """Note that the server did not answer."""
        with self._lock:
            if self._answers.is_set() and not self._is_given_up:
                self._answers.clear()
                self._began = time.monotonic()
                get_run_logger().warning("Prefect's server does not answer; the run goes on")
                log_client = APILogWorker.instance()._client._client
                log_client.event_hooks = {"request": [self._wait_async]}

    def end(self) -> None:
        """Note that the server answered."""
        with self._lock:
            if not self._answers.is_set():
                away = time.monotonic() - self._began
                get_run_logger().info("Prefect's server answers again, after %.0f seconds", away)
                # Prefect sends the events that it has kept with this one.
                resource = {"prefect.resource.id": f"prefect.flow-run.{runtime.flow_run.id}"}
                emit_event("mnist.server-answers", resource=resource)
                self._answers.set()

    def wait(self, request: httpx.Request | None = None) -> None:
        """Wait until the server answers; called before each attempt to send a request of a run."""
        if request:
            if TRIED in request.extensions and not is_healthy(PREFECT_API_URL.value() or ""):
                self.begin()  # earlier than the thread that watches the server
            request.extensions[TRIED] = True
        self._answers.wait(PATIENCE)

    def give_up(self) -> None:
        """Wait for the server no more: the process is to end now."""
        self._is_given_up = True
        self._answers.set()

    def guard(self, client: SyncPrefectClient) -> None:
        """Let the client's requests wait while the server does not answer."""
        hooks = client._client.event_hooks
        if self.wait not in hooks["request"]:
            client._client.event_hooks = hooks | {"request": [*hooks["request"], self.wait]}

    def is_worth_saying(self, record: logging.LogRecord) -> bool:
        """Filter a logger of ATTEMPTS: drop what it says once the server did not answer."""
        return not self._began or ATTEMPTS[record.name] not in record.msg

    async def _wait_async(self, request: httpx.Request) -> None:
        """Let the log wait, too; each line is kept."""
        while not self._answers.is_set():
            await asyncio.sleep(1)


_current: ContextVar[Outage | None] = ContextVar("outage", default=None)


@contextmanager
def current_outage() -> Iterator[Outage]:
    """Yield that of the run around this one, or a new one."""
    outer = _current.get()
    if outer:
        yield outer
        return
    outage = Outage()
    token = _current.set(outage)
    # Asks whether the run is suspended; that its connection is lost is all that it has to say.
    logging.getLogger("prefect.FlowRunSuspendingObserver").setLevel(logging.CRITICAL)
    setattr(observers, "critical_service_loop", repeat_in_silence)  # noqa: B010 - Prefect's module
    for name in ATTEMPTS:
        logging.getLogger(name).addFilter(outage.is_worth_saying)
    try:
        yield outage
    finally:
        _current.reset(token)


async def repeat_in_silence(
    workload: Callable[[], Awaitable[None]],
    interval: float,
    **options: Any,
) -> None:
    """What Prefect's loop does without a word, and for as long as it is wanted.

    With it the process of a deployment's run asks whether the run is suspended, once its connection
    is lost. Prefect's own prints its attempts, gives up soon, and logs an error when it is
    cancelled.
    """
    with suppress(asyncio.CancelledError):
        while True:
            with suppress(httpx.HTTPError):
                await workload()
            await asyncio.sleep(interval)
