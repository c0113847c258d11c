"""A flow on a schedule: its deployment, and the process that starts its runs."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Never
from uuid import UUID

import httpx
from filelock import FileLock, Timeout
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Crashed
from pydantic import ValidationError

from pipeline.errors import STOPPING, PipelineError
from pipeline.orchestration.abandoned import end_abandoned_runs
from pipeline.orchestration.server import DEFAULT_URL, server_at
from pipeline.repository.processes import CancelScope, SupervisedProcess, subprocess_environment

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
) -> None:
    """Run the flow on `schedule`, and whenever asked on Prefect's pages, until interrupted."""
    url, root = PREFECT_API_URL.value() or DEFAULT_URL, Path.cwd()
    with (
        stop_on_signals(),
        serve_lock(root, flow.name),
        server_at(url),
        temporary_settings({PREFECT_API_URL: url}),
        get_client(sync_client=True) as client,
    ):
        for old in client.read_automations_by_name(HEARTBEAT_AUTOMATION):
            client.delete_automation(old.id)
        end_abandoned_runs(client, root)
        deployment = RunnerDeployment.from_flow(
            flow, "scheduled", parameters=parameters, schedules=[schedule]
        )
        deployment_id = deployment.apply()
        assert isinstance(deployment_id, UUID)
        print(f"Prefect's pages: {url.removesuffix('/api')}\nCtrl-C ends everything.", flush=True)
        try:
            start_runs(client, root, deployment_id)
        finally:
            with suppress(httpx.HTTPError), temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                client.pause_deployment(deployment_id)  # what is not served is not scheduled


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
    """Start each run of the deployment when it is due, one after the other.

    A run is Scheduled until its own process makes it Running. So nothing is left of one that has
    not begun, whatever ends this process; the next one finds it on the server.
    """
    is_away = False
    while True:
        soon = datetime.now(UTC) + timedelta(seconds=POLL)
        try:
            due = client.get_scheduled_flow_runs_for_deployments(
                [deployment_id], scheduled_before=soon, limit=1
            )
            if is_away:
                print("Prefect's server answers again", flush=True)
            is_away = False
            for run in due:
                execute_run(client, root, run.id, run.next_scheduled_start_time)
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
                raise
            if not is_away:
                print("Prefect's server does not answer; waiting for it", flush=True)
            is_away = True
        time.sleep(POLL)


def execute_run(
    client: SyncPrefectClient,
    root: Path,
    run_id: UUID,
    due: datetime | None,
) -> None:
    """Execute a run in a process of its own that ends with this one, and print what it says."""
    if due:
        time.sleep(max(0, (due - datetime.now(UTC)).total_seconds()))
    variables = {
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "PREFECT__FLOW_RUN_ID": str(run_id),
    }
    with CancelScope():
        process = SupervisedProcess(
            [sys.executable, "-m", "prefect.engine"],
            root,
            subprocess_environment() | variables,
            grace=GRACE,
        )
        try:
            for line in process.lines():
                print(line, flush=True)
        except BaseException:
            process.stop()
            raise
        finally:
            code = process.wait()
    end_abandoned_runs(client, root)
    with suppress(ObjectNotFound):  # it was deleted meanwhile
        run = client.read_flow_run(run_id)
        if code and run.state and not run.state.is_final():
            message = f"its process ended with {code} before it began"
            client.set_flow_run_state(run_id, Crashed(message=message), force=True)
