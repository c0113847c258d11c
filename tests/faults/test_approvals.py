"""Runs that wait for a person: others start, they are stopped, their server is away, or theirs."""

import signal
from pathlib import Path

import pytest
from prefect_api import Api, KillableServer, finish, message
from toy import (
    GIT,
    execute,
    make_model_workspace,
    processes_in,
    processes_under,
    start_pipeline,
    wait_until,
)

pytestmark = pytest.mark.slow

APPROVED = {"run_input": {"approve": True}}


def set_skill(folder: Path, skill: int) -> None:
    params = (folder / "params.yaml").read_text(encoding="utf-8")
    old = next(line for line in params.splitlines() if "skill" in line)
    (folder / "params.yaml").write_text(params.replace(old, f"  skill: {skill}"), encoding="utf-8")
    execute(folder, *GIT, "commit", "--quiet", "--all", "-m", f"skill {skill}")


def test_serve_starts_others_while_runs_wait_and_ends_them_all(tmp_path: Path, api: Api) -> None:
    folder = make_model_workspace(tmp_path / "toy")
    serve = start_pipeline(folder, api.url, "serve", "--approve", "--interval", "5")
    first = api.run_waiting()
    api.run_named("Skipped")  # the same model: one waits for all
    set_skill(folder, 160)
    second = api.run_waiting(besides={first["id"]})
    api.post(f"flow_runs/{second['id']}/resume", APPROVED)
    published = api.ended(second)
    assert published["state"]["name"] == "Published"
    serve.send_signal(signal.SIGINT)
    output = finish(serve)
    assert output.rstrip().endswith("stopped"), output
    assert api.ended(first)["state"]["name"] == "Cancelled"
    wait_until(lambda: not processes_in(folder))


@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGKILL])
def test_a_run_that_waits_ends_at_once(
    tmp_path: Path, api: Api, number: signal.Signals | None
) -> None:
    """Cancelled on the page, by Ctrl-C, or killed."""
    folder = make_model_workspace(tmp_path / "toy")
    process = start_pipeline(folder, api.url, "retrain", "--approve")
    run = api.run_waiting()
    if number is None:
        api.post(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    else:
        process.send_signal(number)
    finish(process)
    expected = "Crashed" if number is signal.SIGKILL else "Cancelled"
    assert api.ended(run)["state"]["name"] == expected
    wait_until(lambda: not processes_under(folder))
    again = start_pipeline(folder, api.url, "retrain", "--approve")
    waiting = api.run_waiting(besides={run["id"]})
    api.post(f"flow_runs/{waiting['id']}/resume", APPROVED)
    assert "Finished in state Published" in finish(again)


def test_a_restarted_server_still_takes_the_answer(tmp_path: Path) -> None:
    server = KillableServer(tmp_path / "prefect")
    try:
        folder = make_model_workspace(tmp_path / "toy")
        process = start_pipeline(folder, server.api.url, "retrain", "--approve")
        run = server.api.run_waiting()
        server.kill()
        log: list[str] = []
        assert process.stdout
        for line in process.stdout:
            log.append(line)
            if "does not answer" in line:
                break
        server.start()
        assert server.api.runs()[0]["state"]["name"] == "Paused"
        server.api.post(f"flow_runs/{run['id']}/resume", APPROVED)
        finish(process)
        ended = server.api.ended(run)
        assert (ended["state"]["name"], message(ended)) == (
            "Published",
            "toy@v1.0.0: accuracy 75.00%, and no champion yet",
        )
    finally:
        server.kill()


def test_without_a_server_of_its_own_the_page_is_named(tmp_path: Path) -> None:
    """The temporary server lasts as long as the run waits."""
    folder = make_model_workspace(tmp_path / "toy")
    process = start_pipeline(folder, "", "retrain", "--approve", home=tmp_path / "prefect")
    assert process.stdout
    line = next(line for line in process.stdout if "for approval: " in line)
    page = line.rpartition(" ")[2].strip()
    url, _, run_id = page.partition("/runs/flow-run/")
    Api(f"{url}/api").post(f"flow_runs/{run_id}/resume", APPROVED)
    assert "Finished in state Published" in finish(process)
