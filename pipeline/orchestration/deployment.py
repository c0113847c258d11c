"""A flow on a schedule: its deployment, and the process that starts its runs."""

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any, Never
from uuid import UUID

import httpx
from filelock import FileLock, Timeout
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_UI_URL,
    temporary_settings,
)
from prefect.states import Crashed
from pydantic import ValidationError

from pipeline.errors import STOPPING, PipelineError
from pipeline.orchestration.abandoned import end_abandoned_runs
from pipeline.orchestration.automations import (
    notify_of_states,
    read_notify_url,
    remove_automation,
    run_when_data_are_added,
)
from pipeline.orchestration.server import DEFAULT_URL, server_at
from pipeline.repository.processes import (
    CancelScope,
    SupervisedProcess,
    current_scope,
    subprocess_environment,
)

POLL = 5.0  # seconds between looks for a run that is due
GRACE = 30.0  # seconds that a run has to end when it is asked to
# Of earlier versions: it took a run for dead when the server had been away.
HEARTBEAT_AUTOMATION = "mnist: a run whose heart stopped has crashed"


def parse_schedule(
    cron: str,
    interval: float | None,
    timezone: str,
) -> CronSchedule | IntervalSchedule:
    """Return the schedule; raise PipelineError if Prefect would refuse it."""
    try:
        if interval is not None:
            return IntervalSchedule(interval=timedelta(seconds=interval), timezone=timezone)
        return CronSchedule(cron=cron, timezone=timezone)
    except (ValueError, OverflowError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        asked = f"--cron '{cron}'" if interval is None else f"--interval {interval:g}"
        raise PipelineError(
            f"{asked} --timezone {timezone} is no schedule: {reason};"
            " for example --cron '0 3 * * *', --interval 3600 and --timezone Europe/Berlin"
        ) from error


def serve(
    flow: Flow[..., Any],
    parameters: dict[str, Any],
    schedule: CronSchedule | IntervalSchedule,
    outcomes: Sequence[str] = (),
) -> None:
    """Run the flow on `schedule`, and whenever asked on Prefect's pages, until interrupted.

    Also run it when data are added here, and tell people if it enters one of the states `outcomes`.
    """
    url, root = PREFECT_API_URL.value() or DEFAULT_URL, Path.cwd()
    pages = PREFECT_UI_URL.value() or url.removesuffix("/api")
    read_notify_url()  # if it is wrong, that is said before anything starts
    with (
        stop_on_signals(),
        serve_lock(root, flow.name),
        server_at(url),
        temporary_settings({PREFECT_API_URL: url}),
        get_client(sync_client=True) as client,
    ):
        remove_automation(client, HEARTBEAT_AUTOMATION)
        end_abandoned_runs(client, root)
        deployment = RunnerDeployment.from_flow(
            flow, "scheduled", parameters=parameters, schedules=[schedule]
        )
        deployment_id = deployment.apply()
        assert isinstance(deployment_id, UUID)
        flow_id = client.read_deployment(deployment_id).flow_id
        notify_of_states(client, flow.name, flow_id, outcomes, pages)
        on_data = run_when_data_are_added(client, root, flow.name, deployment_id)
        print(f"Prefect's pages: {pages}\nCtrl-C ends everything.", flush=True)
        try:
            start_runs(client, root, deployment_id)
        finally:
            with suppress(httpx.HTTPError), temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                client.pause_deployment(deployment_id)  # what is not served is not scheduled
                client.delete_automation(on_data)


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Leave the block at Ctrl-C and SIGTERM, and only once."""

    def stop(number: int, frame: FrameType | None) -> Never:
        for again in STOPPING:
            signal.signal(again, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in STOPPING:
        signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt:
        print("stopped", flush=True)


@contextmanager
def serve_lock(root: Path, name: str) -> Iterator[None]:
    """Hold the flow in this folder: two that serve it would start each run twice."""
    path = root / ".dvc" / "tmp" / f"serve-{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path).acquire(blocking=False)
    except Timeout as error:
        raise PipelineError(f"{name} is served in {root} already; stop that first") from error
    with lock:
        yield


def start_runs(client: SyncPrefectClient, root: Path, deployment_id: UUID) -> Never:
    """Start each run of the deployment when it is due and no other is at work.

    A run is Scheduled until its own process makes it Running. So nothing is left of one that has
    not begun, whatever ends this process; the next one finds it on the server. One that is Paused,
    because it waits for a person, is not at work.
    """
    is_away = False
    with ServedRuns(client, root) as runs:
        while True:
            try:
                if not runs.are_at_work():
                    runs.start_next(deployment_id)
                if is_away:
                    print("Prefect's server answers again", flush=True)
                is_away = False
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
                    raise
                if not is_away:
                    print("Prefect's server does not answer; waiting for it", flush=True)
                is_away = True
            time.sleep(POLL)


class ServedRuns:
    """Runs in processes of their own, which end with the block: `with ServedRuns(…) as runs: …`."""

    def __init__(self, client: SyncPrefectClient, root: Path) -> None:
        self.client, self.root = client, root
        self._scope = CancelScope()
        self._threads: dict[UUID, RunThread] = {}

    def start_next(self, deployment_id: UUID) -> None:
        """Start the next run of the deployment, if one is due within the next seconds."""
        soon = datetime.now(UTC) + timedelta(seconds=POLL)
        for run in self.client.get_scheduled_flow_runs_for_deployments(
            [deployment_id], scheduled_before=soon, limit=1
        ):
            due: datetime | None = run.next_scheduled_start_time
            if due:
                time.sleep(max(0, (due - datetime.now(UTC)).total_seconds()))
            self._threads[run.id] = RunThread(self.root, run.id)

    def are_at_work(self) -> bool:
        """Whether any run is at work; those that have ended are reported to the server."""
        for run_id, thread in list(self._threads.items()):
            if not thread.is_alive():
                self.report_end(run_id, thread.code)
                del self._threads[run_id]
        return not all(self.is_paused(run_id) for run_id in self._threads)

    def is_paused(self, run_id: UUID) -> bool:
        with suppress(ObjectNotFound):  # it was deleted; its process ends
            state = self.client.read_flow_run(run_id).state
            return state is not None and state.type is StateType.PAUSED
        return False

    def report_end(self, run_id: UUID, code: int) -> None:
        """Give a run whose process has ended a final state, unless it has one."""
        end_abandoned_runs(self.client, self.root)
        with suppress(ObjectNotFound):  # it was deleted meanwhile
            run = self.client.read_flow_run(run_id)
            if code and run.state and not run.state.is_final():
                message = f"its process ended with {code} before it began"
                self.client.set_flow_run_state(run_id, Crashed(message=message), force=True)

    def __enter__(self) -> "ServedRuns":
        self._scope.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._scope.__exit__(*error)
        for thread in self._threads.values():
            thread.join()


class RunThread(Thread):
    """The process of a run, of the current scope; prints what it says, and has its exit code."""

    def __init__(self, root: Path, run_id: UUID) -> None:
        super().__init__(daemon=True)
        variables = {
            "PREFECT_API_URL": str(PREFECT_API_URL.value()),
            "PREFECT__FLOW_RUN_ID": str(run_id),
        }
        command = [sys.executable, "-m", "prefect.engine"]
        environment = subprocess_environment() | variables
        self.code, self._scope = 0, current_scope()
        self._process = SupervisedProcess(command, root, environment, grace=GRACE)
        self.start()

    def run(self) -> None:
        for line in self._process.lines():
            if not self._scope.is_cancelled:  # a program that starts says how it was interrupted
                print(line, flush=True)
        self.code = self._process.wait()
