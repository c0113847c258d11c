"""`serve`, and a worker of a pool, stopped at moments spread over one cycle of their schedule.

Each stop is followed by a new start. The next scheduled run completes, and nothing is left of those
that were about to start or at work: no unfinished run, and no slot that stays taken.
"""

import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending
from prefect_api import Api, KillableServer, deploy_to_pool, finish, start_worker
from toy import (
    GIT,
    execute,
    make_model_workspace,
    make_workspace,
    processes_in,
    start_pipeline,
    wait_until,
)

from pipeline.orchestration.flow import run_graph

pytestmark = pytest.mark.slow

CYCLE = 20  # seconds from one scheduled run to the next
MOMENTS = range(0, CYCLE, 2)  # seconds after a run was due

Start = Callable[[], "subprocess.Popen[str]"]


def next_run(api: Api, flow: str, after: datetime) -> dict[str, Any]:
    """The first run of the flow's deployment that was due after that moment, once it completed."""

    def look() -> list[dict[str, Any]]:
        due = {"expected_start_time": {"after_": after.isoformat()}}
        completed = {"state": {"type": {"any_": ["COMPLETED"]}}}
        found = api.post(
            "flow_runs/filter",
            {
                "sort": "EXPECTED_START_TIME_ASC",
                "flows": {"name": {"any_": [flow]}},
                "flow_runs": due | completed,
            },
        )
        return [run for run in found if run["state"]["name"] != "Skipped"]

    return api.wait_for(look)[0]


def stop_at_moments(
    api: Api, flow: str, start: Start, number: signal.Signals, moments: range
) -> list[str]:
    """Stop at each moment, start again, and wait for the next run; return what was printed."""
    process, outputs = start(), []
    due = datetime.fromisoformat(next_run(api, flow, datetime.now(UTC))["expected_start_time"])
    for moment in moments:
        wait_for = due + timedelta(seconds=moment) - datetime.now(UTC)
        time.sleep(max(0, wait_for.total_seconds() % CYCLE))
        process.send_signal(number)
        outputs.append(finish(process))
        restarted = datetime.now(UTC)
        process = start()
        due = datetime.fromisoformat(next_run(api, flow, restarted)["expected_start_time"])
    process.terminate()
    return [*outputs, finish(process)]


def unfinished(api: Api, flow: str) -> list[dict[str, Any]]:
    """The runs that look as if somebody were at work on them."""
    states = {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}
    found: list[dict[str, Any]] = api.post(
        "flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "flow_runs": states}
    )
    return found


def start_with_work(folder: Path, change: Callable[[], object], start: Start) -> Start:
    """A start before which something changes, so that the next run has something to do."""

    def start_again() -> "subprocess.Popen[str]":
        change()
        return start()

    return start_again


def test_serve_is_stopped_at_ten_moments_of_a_cycle(tmp_path: Path, api: Api) -> None:
    """By SIGTERM where it serves `run`, by SIGKILL where it serves `retrain`, at the same time."""
    served = make_workspace(tmp_path / "run", {"only": "import time; time.sleep(2)"})
    retrained = make_model_workspace(tmp_path / "retrain")
    numbers = iter(range(100))

    def change_script() -> None:
        with (served / "only.py").open("a", encoding="utf-8") as file:
            file.write(f"# {next(numbers)}\n")

    def commit() -> None:
        text = (retrained / "params.yaml").read_text(encoding="utf-8")
        (retrained / "params.yaml").write_text(f"{text}# {next(numbers)}\n", encoding="utf-8")
        execute(retrained, *GIT, "commit", "-qam", "again")

    every = ("--interval", str(CYCLE))
    start_run = start_with_work(
        served, change_script, lambda: start_pipeline(served, api.url, "serve", "run", *every)
    )
    start_retrain = start_with_work(
        retrained, commit, lambda: start_pipeline(retrained, api.url, "serve", *every)
    )
    with ThreadPoolExecutor() as pool:
        terminated = pool.submit(stop_at_moments, api, "mnist", start_run, signal.SIGTERM, MOMENTS)
        killed = pool.submit(
            stop_at_moments, api, "mnist-retrain", start_retrain, signal.SIGKILL, MOMENTS
        )
    for output in [*terminated.result(), *killed.result()]:
        assert "RuntimeWarning" not in output
        assert "Traceback" not in output
    for flow, folder in (("mnist", served), ("mnist-retrain", retrained)):
        wait_until(partial(lambda flow: not unfinished(api, flow), flow))
        wait_until(partial(lambda folder: not processes_in(folder), folder))
        assert not list((folder / ".dvc" / "tmp" / "flow-runs").iterdir())


def test_a_worker_is_stopped_at_moments_of_a_cycle(tmp_path: Path, api: Api) -> None:
    """A run that the worker was about to start stays Pending; a later run is told to do its work.

    Runs that the killed worker has started go on, and end by themselves.
    """
    folder, variables = deploy_to_pool(tmp_path / "pool", api, CYCLE)
    for number in (signal.SIGTERM, signal.SIGKILL):
        stop_at_moments(
            api,
            "mnist-retrain",
            lambda: start_worker(folder, variables),
            number,
            range(8, CYCLE, 6),
        )
    worker = start_worker(folder, variables)
    wait_until(lambda: not unfinished(api, "mnist-retrain"))
    worker.terminate()
    finish(worker)
    wait_until(lambda: not processes_in(folder))


def make_stuck_deployment(api: Api) -> None:
    """As earlier versions left it: a limit of one, whose slot a prefetched run holds."""
    with temporary_settings({PREFECT_API_URL: api.url}):
        limit = ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
        )
        every = IntervalSchedule(interval=timedelta(seconds=CYCLE))
        deployment = RunnerDeployment.from_flow(
            run_graph,
            "scheduled",
            schedules=[every],
            concurrency_limit=limit,
        ).apply()
        assert isinstance(deployment, UUID)
        with get_client(sync_client=True) as client:
            run = client.create_flow_run_from_deployment(deployment)
            client.set_flow_run_state(run.id, Pending())


def test_a_stuck_slot_of_an_earlier_version_is_freed_by_serve(tmp_path: Path) -> None:
    """Also after the server, which knows of the slot's lease, was started again.

    Then `serve` and its own server are killed while a run is about to start.
    """
    server = KillableServer(tmp_path / "prefect")
    make_stuck_deployment(server.api)
    server.kill()
    api = server.api
    folder = make_workspace(tmp_path / "stuck", {"only": ""})

    def start() -> "subprocess.Popen[str]":
        command = ("serve", "run", "--interval", str(CYCLE))
        process = start_pipeline(folder, api.url, *command, home=tmp_path / "prefect")
        assert process.stdout
        while "Prefect's pages" not in process.stdout.readline():  # the old server may still answer
            assert process.poll() is None
        return process

    stop_at_moments(api, "mnist", start, signal.SIGKILL, range(CYCLE - 4, CYCLE, 10))
    wait_until(lambda: not processes_in(folder))
