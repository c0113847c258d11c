"""A Prefect server that wants a password: who has it is served, who has not is told so."""

import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from prefect_api import Api, KillableServer, deploy_to_pool, finish, start_worker
from servers import tls_proxy
from toy import make_workspace, processes_in, start_pipeline, wait_until

pytestmark = pytest.mark.slow

USER, PASSWORD = "team", "a-password-that-nobody-may-see"
LOGIN = f"{USER}:{PASSWORD}"
SERVER = {"PREFECT_SERVER_API_AUTH_STRING": LOGIN}
CLIENT = {"PREFECT_API_AUTH_STRING": LOGIN}


@pytest.fixture(scope="module")
def only_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    server = KillableServer(tmp_path_factory.mktemp("prefect"), SERVER)
    server.api.auth = (USER, PASSWORD)
    yield server.api
    server.kill()


@pytest.fixture
def api(only_server: Api) -> Api:
    only_server.clear()
    return only_server


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


def test_a_proxy_with_tls_stands_before_it(tmp_path: Path, api: Api) -> None:
    """With a certificate that the system does not know."""
    folder = make_workspace(tmp_path / "proxied", {"only": ""})
    with tls_proxy(tmp_path, urlsplit(api.url).port or 0) as proxy:
        trusting = CLIENT | {"PREFECT_API_SSL_CERT_FILE": str(proxy.certificate)}
        run = start_pipeline(folder, proxy.url, "run", variables=trusting)
        output = finish(run)
        assert run.returncode == 0, output
        flow_run = api.run_named("Completed")
        assert api.states(flow_run, {"only": "Completed"}) == {"only": "Completed"}  # events
        assert api.logs(flow_run, containing="> python only.py")
        serve = start_pipeline(
            folder, proxy.url, "serve", "run", "--interval", "5", variables=CLIENT
        )
        output = finish(serve)
    assert serve.returncode == 1
    assert output == (
        f"error: no Prefect server answers at {proxy.url}; start it, or unset PREFECT_API_URL to"
        " have one here\n"
    )
