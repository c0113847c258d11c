"""From nothing to a scheduled pipeline: Prefect's server where none answers, the deployment, its schedule."""

import json
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import httpx
import prefect
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events.schemas.automations import AutomationCore
from prefect.flows import Flow
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import ValidationError

from pipeline.errors import PipelineError
from pipeline.graph import environment
from pipeline.supervisor import Command, Lifeline

AUTOMATIONS = Path("automations.json")
DEFAULT_URL = "http://127.0.0.1:4200/api"
START_TIMEOUT = 180.0  # seconds; the first start creates the server's database
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parse_schedule(cron: str, interval: float | None, timezone: str) -> CronSchedule | IntervalSchedule:
    """Raise PipelineError where Prefect would refuse the schedule."""
    try:
        if interval is not None:
            return IntervalSchedule(interval=timedelta(seconds=interval), timezone=timezone)
        return CronSchedule(cron=cron, timezone=timezone)
    except (ValueError, OverflowError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        asked = f"--cron '{cron}'" if interval is None else f"--interval {interval:g}"
        raise PipelineError(
            f"{asked} --timezone {timezone} is no schedule: {reason}; for example --cron '0 3 * * *', --interval 3600"
            " and --timezone Europe/Berlin"
        ) from error


def serve(flow: Flow[..., Any], parameters: dict[str, Any], schedule: CronSchedule | IntervalSchedule) -> None:
    """Run the flow on `schedule`, and whenever asked on Prefect's pages, until interrupted."""
    url = PREFECT_API_URL.value() or DEFAULT_URL
    with Lifeline() as lifeline, server(url, lifeline), temporary_settings({PREFECT_API_URL: url}):
        register_automations()
        deployment = RunnerDeployment.from_flow(
            flow,
            "scheduled",
            parameters=parameters,
            schedules=[schedule],
            # a run that comes while one is at work has nothing to add
            concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        )
        print(f"Prefect's pages: {url.removesuffix('/api')}\nCtrl-C ends everything.", flush=True)
        prefect.serve(deployment, print_starting_message=False)


def register_automations() -> None:
    """Put the automations of automations.json on the server, in place of those of the same name."""
    for content in json.loads(AUTOMATIONS.read_text(encoding="utf-8")):
        automation = AutomationCore.model_validate(content)
        with get_client(sync_client=True) as client:
            for old in client.read_automations_by_name(automation.name):
                client.delete_automation(old.id)
            client.create_automation(automation)


@contextmanager
def server(url: str, lifeline: Lifeline) -> Iterator[None]:
    """Have a Prefect server at `url`: the one that answers, or else, on loopback, one that ends with this process."""
    if answers(url):
        yield
        return
    address = urlsplit(url)
    if address.hostname not in LOOPBACK:
        raise PipelineError(f"no Prefect server answers at {url}; start it, or unset PREFECT_API_URL to have one here")
    print(f"starting Prefect's server at {url}", flush=True)
    where = ["--host", str(address.hostname), "--port", str(address.port or 4200)]
    variables = environment() | {"PREFECT_SERVER_UI_API_URL": url}  # or its pages would ask another port
    command = Command(["prefect", "server", "start", *where], lifeline, Path.cwd(), variables)
    tail: deque[str] = deque(maxlen=5)
    reader = Thread(target=lambda: tail.extend(command.lines()), daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while not answers(url):
            if not reader.is_alive() or time.monotonic() > deadline:
                raise PipelineError("Prefect's server did not start:\n" + "\n".join(tail))
            time.sleep(0.2)
        yield
    finally:
        command.stop()
        command.wait()


@contextmanager
def any_server() -> Iterator[None]:
    """Have the Prefect server of PREFECT_API_URL, or one for a single run; Prefect's own would outlive a killed one."""
    if PREFECT_API_URL.value():
        yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/api"
    with Lifeline() as lifeline, server(url, lifeline), temporary_settings({PREFECT_API_URL: url}):
        try:
            yield
        finally:
            APILogHandler().flush()  # while there is somebody to send it to


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).json() is True
    except (httpx.HTTPError, ValueError):
        return False
