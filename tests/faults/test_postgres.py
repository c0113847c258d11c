"""Prefect's server on PostgreSQL: schedules, cancels, faults, and two servers on one database."""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from helpers import ROOT
from pages import read_exports
from prefect_api import Api, KillableServer, calling, finish, start
from redis import Redis
from servers import Postgres, postgres, redis_server, tls_proxy
from toy import (
    STAY,
    assert_that_nothing_is_left,
    make_workspace,
    processes_in,
    start_pipeline,
    wait_for_pids,
    wait_until,
)

from pipeline.orchestration.events import announce_data

pytestmark = pytest.mark.slow

AWAY = 20  # seconds


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as cluster:
        yield cluster


@pytest.fixture
def server(tmp_path: Path, database: Postgres) -> Iterator[KillableServer]:
    variables = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url}
    server = KillableServer(tmp_path / "prefect", variables)
    server.api.clear()
    yield server
    server.kill()
    assert not list((tmp_path / "prefect").glob("*.db")), "it has used SQLite"


def completed(api: Api) -> list[str]:
    return [run["id"] for run in api.runs(state={"name": {"any_": ["Completed", "Unchanged"]}})]


def test_scheduled_runs_go_on_when_the_server_is_killed(
    tmp_path: Path, server: KillableServer
) -> None:
    folder = make_workspace(tmp_path / "served", {"only": ""})
    serve = start_pipeline(folder, server.api.url, "serve", "run", "--interval", "5")
    wait_until(lambda: len(completed(server.api)) >= 2)
    server.kill()
    server.start()
    before = len(completed(server.api))
    wait_until(lambda: len(completed(server.api)) >= before + 2)
    serve.terminate()
    output = finish(serve)
    assert "Traceback" not in output, output
    wait_until(lambda: not processes_in(folder))


def test_a_run_is_cancelled(tmp_path: Path, server: KillableServer) -> None:
    folder = make_workspace(tmp_path / "cancelled", {"only": STAY})
    process, flow_run = start(folder, server.api)
    processes = wait_for_pids(folder)
    server.api.post(
        f"flow_runs/{flow_run['id']}/set_state", {"state": {"type": "CANCELLING"}, "force": False}
    )
    output = finish(process)
    assert server.api.ended(flow_run)["state"]["name"] == "Cancelled", output
    assert_that_nothing_is_left(folder, processes)


def test_a_run_goes_on_while_the_database_is_away(
    tmp_path: Path, server: KillableServer, database: Postgres
) -> None:
    """Nothing is lost: it ends as it should once the database is back."""
    scripts = {"only": STAY, "after": "Path('done').touch()"}
    folder = make_workspace(tmp_path / "outage", scripts, {"after": ["only"]})
    shutil.copy(ROOT / "pyproject.toml", folder)  # Prefect's settings
    process, flow_run = start(folder, server.api)
    wait_for_pids(folder)
    server.api.logs(flow_run, containing="> python only.py")
    database.stop()
    (folder / "go").touch()
    time.sleep(AWAY)
    gone = process.poll()
    database.start()
    output = finish(process)
    assert gone is None, output
    assert process.returncode == 0, output
    assert server.api.ended(flow_run)["state"]["name"] == "Completed", output
    states = {"only": "Completed", "after": "Completed"}
    assert server.api.states(flow_run, states) == states
    assert "Traceback" not in output, output
    assert server.api.logs(flow_run, containing="> python after.py")


def test_two_servers_share_a_database(tmp_path: Path, database: Postgres) -> None:
    """What one knows the other does, and one is enough: docs/team.md says how."""
    folder = make_workspace(tmp_path / "shared", {"only": STAY})
    with (
        redis_server(tmp_path) as address,
        two_servers(tmp_path, database, address) as (first, second),
        tls_proxy(tmp_path, first.port, second.port) as proxy,
    ):
        serve = start_pipeline(folder, first.api.url, "serve", "run", "--interval", "3600")
        first.api.wait_for(lambda: first.api.post("automations/filter", {}))
        with calling(second.api):
            assert announce_data(folder, "batch", 3)
        flow_run = second.api.run_named("Running")
        processes = wait_for_pids(folder)
        second.api.post(
            f"flow_runs/{flow_run['id']}/set_state",
            {"state": {"type": "CANCELLING"}, "force": False},
        )
        assert first.api.ended(flow_run)["state"]["name"] == "Cancelled"
        serve.terminate()
        output = finish(serve)
        assert "Traceback" not in output, output
        assert_that_nothing_is_left(folder, processes)
        first.kill()
        process = start_pipeline(
            folder,
            proxy.url,
            "run",
            variables={"PREFECT_API_SSL_CERT_FILE": str(proxy.certificate)},
        )
        output = finish(process)
        assert "Finished in state Unchanged" in output, output
        assert len(second.api.runs(state={"name": {"any_": ["Unchanged"]}})) == 1
        with Redis.from_url(address) as client:
            kinds = {key.decode().partition(":")[0] for key in client.scan_iter()}
        assert {"message", "triggers", "prefect-server"} <= kinds, "Redis was not used"


@contextmanager
def two_servers(
    folder: Path, database: Postgres, address: str
) -> Iterator[tuple[KillableServer, KillableServer]]:
    variables = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url} | {
        name: value.replace("redis://127.0.0.1:6379/0", address)
        for name, value in read_exports("docs/team.md").items()
        if "redis" in value
    }
    with ExitStack() as stack:
        servers = []
        for name in ("first", "second"):
            servers.append(KillableServer(folder / name, variables))
            stack.callback(servers[-1].kill)
        servers[0].api.clear()
        yield servers[0], servers[1]
