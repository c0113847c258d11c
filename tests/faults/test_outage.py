"""A Prefect server that is killed in the middle of a run, and comes back."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect_api import KillableServer, finish, start
from toy import STAY, make_workspace, processes_in, start_pipeline, wait_for_pids, wait_until

pytestmark = pytest.mark.slow

# How long the server is away at least, and with which settings. Prefect's client bridges some 70
# seconds by itself, with three retries in place of five some 20. So 45 seconds without a server are
# for a client with three retries what minutes are by default. (Five minutes were tried by hand.)
OUTAGES = {"20 seconds": (20, {}), "minutes": (45, {"PREFECT_CLIENT_MAX_RETRIES": "3"})}
AWAY = "Prefect's server does not answer; the run goes on"
BACK = "Prefect's server answers again, after "
NOISE = ("Traceback", "Unable to connect", "failed to process", "Error logging", "attempts")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[KillableServer]:
    server = KillableServer(tmp_path / "prefect")
    yield server
    server.kill()


@pytest.mark.parametrize(("seconds", "variables"), OUTAGES.values(), ids=OUTAGES.keys())
def test_a_run_goes_on_while_the_server_is_killed(
    tmp_path: Path,
    server: KillableServer,
    seconds: float,
    variables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its stages end while nobody answers; the run ends as it should once the server is back."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    scripts = {"only": STAY, "after": "Path('done').touch()"}
    folder = make_workspace(tmp_path / "outage", scripts, {"after": ["only"]})
    process, flow_run = start(folder, server.api)
    wait_for_pids(folder)
    server.api.logs(flow_run, containing="> python only.py")
    server.kill()
    (folder / "go").touch()
    wait_until((folder / "done").exists)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)
    server.start()
    output = finish(process)
    assert process.returncode == 0, output
    ended = server.api.ended(flow_run)
    assert ended["state"]["name"] == "Completed", output
    states = {"only": "Completed", "after": "Completed"}
    assert server.api.states(flow_run, states) == states
    assert [output.count(line) for line in (AWAY, BACK)] == [1, 1], output
    assert not [word for word in NOISE if word in output], output
    lines = server.api.logs(flow_run, containing=BACK)
    assert AWAY in lines, "no line of the log is lost"
    wait_until(lambda: not processes_in(folder))


def test_serve_and_its_run_survive_a_killed_server(tmp_path: Path, server: KillableServer) -> None:
    """The run is of a deployment; the next one comes by itself."""
    folder = make_workspace(tmp_path / "served", {"only": STAY})
    serve = start_pipeline(
        folder,
        server.api.url,
        *("serve", "run", "--interval", "5"),
        variables={"PREFECT_CLIENT_MAX_RETRIES": "3"},
    )
    wait_for_pids(folder)
    [flow_run] = server.api.runs(state={"name": {"any_": ["Running"]}})
    server.api.logs(flow_run, containing="> python only.py")
    server.kill()
    with pytest.raises(subprocess.TimeoutExpired):
        serve.wait(timeout=45)
    server.start()
    (folder / "go").touch()
    assert server.api.ended(flow_run)["state"]["name"] == "Completed"
    server.api.run_named("Unchanged")
    serve.terminate()
    output = finish(serve)
    assert serve.returncode == 0
    assert [output.count(line) for line in (AWAY, BACK)] == [1, 1], output
    assert not [word for word in NOISE if word in output], output
    wait_until(lambda: not processes_in(folder))


def test_a_run_that_is_killed_while_the_server_is_away_has_crashed(
    tmp_path: Path, server: KillableServer
) -> None:
    folder = make_workspace(tmp_path / "killed", {"only": STAY})
    process, flow_run = start(folder, server.api)
    wait_for_pids(folder)
    server.kill()
    process.kill()
    finish(process)
    server.start()
    assert server.api.ended(flow_run)["state"]["name"] == "Crashed"
    wait_until(lambda: not processes_in(folder))
