"""A Prefect server that wants a password: who has it is served, who has not is told so."""

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect_api import Api, KillableServer, deploy_to_pool, finish, start_worker
from toy import make_workspace, processes_in, start_pipeline, wait_until

pytestmark = pytest.mark.slow

USER, PASSWORD = "team", "a-password-that-nobody-may-see"
LOGIN = f"{USER}:{PASSWORD}"
SERVER = {"PREFECT_SERVER_API_AUTH_STRING": LOGIN}
CLIENT = {"PREFECT_API_AUTH_STRING": LOGIN}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    server = KillableServer(tmp_path / "prefect", SERVER)
    server.api.auth = (USER, PASSWORD)
    yield server.api
    server.kill()


def test_a_request_without_the_password_is_refused(api: Api) -> None:
    assert httpx.post(f"{api.url}/flow_runs/filter", json={}).status_code == 401
    assert api.runs() == []


def test_run_and_serve_use_the_password_and_show_it_nowhere(tmp_path: Path, api: Api) -> None:
    folder = make_workspace(tmp_path / "served", {"only": "import os; print(sorted(os.environ))"})
    command = ("serve", "run", "--interval", "5")
    serve = start_pipeline(folder, api.url, *command, variables=CLIENT)
    flow_run = api.run_named("Completed")
    serve.send_signal(signal.SIGINT)
    output = finish(serve)
    run = start_pipeline(folder, api.url, "run", variables=CLIENT)
    output += finish(run)
    assert run.returncode == 0, output
    shown = [output, str(api.logs(flow_run, containing="only")), str(api.artifacts(flow_run))]
    assert not [text for text in shown if PASSWORD in text]
    wait_until(lambda: not processes_in(folder))


@pytest.mark.parametrize("command", [("run",), ("serve", "run")], ids=["run", "serve"])
def test_without_the_password_it_ends_with_a_line(
    tmp_path: Path, api: Api, command: tuple[str, ...]
) -> None:
    folder = make_workspace(tmp_path / "refused", {"only": ""})
    process = start_pipeline(folder, api.url, *command)
    output = finish(process)
    assert process.returncode == 1
    assert output.splitlines()[-1] == (
        f"error: the Prefect server at {api.url} wants a password; set PREFECT_API_AUTH_STRING to"
        " USER:PASSWORD"
    )
    assert "Traceback" not in output


def test_a_worker_uses_the_password(
    tmp_path: Path, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CLIENT.items():
        monkeypatch.setenv(name, value)
    folder, variables = deploy_to_pool(tmp_path / "pool", api, interval=5)
    worker = start_worker(folder, variables)
    api.run_named("Published")
    worker.terminate()
    assert PASSWORD not in finish(worker)
