"""How flow runs end, in real processes against a real server.

Also what they leave, and what a run does while somebody else is at work in its folder.
"""

import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect_api import Api, finish, message, run, start
from toy import (
    ATTEMPTS,
    STAY,
    append,
    assert_that_nothing_is_left,
    commit_all,
    execute,
    make_model_workspace,
    make_workspace,
    processes_in,
    processes_under,
    start_pipeline,
    wait_for_pids,
    wait_until,
)

from pipeline.repository.processes import subprocess_environment

pytestmark = pytest.mark.slow

CRASH_REPORTER = "pipeline.orchestration.crash_reporter"


def cancel(process: "subprocess.Popen[str]", flow_run: dict[str, Any], api: Api) -> None:
    api.post(
        f"flow_runs/{flow_run['id']}/set_state", {"state": {"type": "CANCELLING"}, "force": False}
    )


def interrupt(process: "subprocess.Popen[str]", flow_run: dict[str, Any], api: Api) -> None:
    process.send_signal(signal.SIGINT)


def terminate(process: "subprocess.Popen[str]", flow_run: dict[str, Any], api: Api) -> None:
    process.terminate()


@pytest.mark.parametrize(
    ("end", "state"),
    [(cancel, "Cancelled"), (interrupt, "Cancelled"), (terminate, "Crashed")],
    ids=["cancel", "SIGINT", "SIGTERM"],
)
def test_a_run_that_is_ended_leaves_nothing_behind(
    tmp_path: Path, api: Api, end: Any, state: str
) -> None:
    """Of two stages that wait for no other, one waits for its turn meanwhile, and never begins."""
    scripts = {"one": STAY, "other": STAY, "after": ""}
    folder = make_workspace(tmp_path / "ended", scripts, {"after": ["one", "other"]})
    process, flow_run = start(folder, api)
    processes = wait_for_pids(folder)
    (folder / "pids").unlink()
    end(process, flow_run, api)
    output = finish(process)
    assert process.returncode != 0
    assert not (folder / "pids").exists(), "the other has begun"
    assert api.ended(flow_run)["state"]["name"] == state, output
    assert "unlocked lock" not in output, "DVC stumbles over its own lock"
    assert_that_nothing_is_left(folder, processes)
    assert not records(folder)


def test_a_retraining_that_is_cancelled_publishes_nothing(tmp_path: Path, api: Api) -> None:
    folder = make_model_workspace(tmp_path / "model")
    append(folder / "train.py", STAY)
    commit_all(folder)
    before = execute(folder, "git", "for-each-ref")
    process = start_pipeline(folder, api.url, "retrain")
    flow_run = api.run_named("Running")
    api.logs(flow_run, containing="> python train.py")
    cancel(process, flow_run, api)
    output = finish(process)
    assert process.returncode == 1
    assert api.ended(flow_run)["state"]["name"] == "Cancelled", output
    assert execute(folder, "git", "for-each-ref") == before
    wait_until(lambda: not processes_under(tmp_path))
    assert [path.name for path in (folder / ".dvc" / "tmp" / "worktrees").iterdir()] == ["lock"]
    assert not records(folder)


def records(folder: Path) -> list[Path]:
    return list((folder / ".dvc" / "tmp" / "flow-runs").iterdir())


def reporters(folder: Path) -> list[psutil.Process]:
    return [one for one in processes_in(folder) if one.cmdline()[2:3] == [CRASH_REPORTER]]


def test_a_run_that_is_killed_has_crashed_and_leaves_nothing_behind(
    tmp_path: Path, api: Api
) -> None:
    """Nobody else is there: the run's crash reporter outlives it, and tells the server."""
    folder = make_workspace(tmp_path / "killed", {"only": STAY})
    process, killed = start(folder, api)
    processes = wait_for_pids(folder)
    process.kill()
    finish(process)
    assert api.ended(killed)["state"]["name"] == "Crashed"
    assert message(api.ended(killed)) == "its process is gone"
    assert_that_nothing_is_left(folder, processes)
    assert not records(folder)


def test_a_run_that_is_killed_with_its_reporter_is_ended_by_the_next(
    tmp_path: Path, api: Api
) -> None:
    """As when a container is stopped. A run whose process lives is left alone."""
    folder = make_workspace(tmp_path / "killed", {"only": STAY})
    process, killed = start(folder, api)
    processes = wait_for_pids(folder)
    wait_until(lambda: reporters(folder))
    [reporter] = reporters(folder)
    run(folder, api, "--when-busy", "skip")
    assert api.runs(id={"any_": [killed["id"]]})[0]["state"]["name"] == "Running"
    reporter.kill()
    process.kill()
    finish(process)
    wait_until(lambda: not any(process.is_running() for process in processes))
    (folder / "go").touch()
    _, _, flow_run = run(folder, api, "--wait-seconds", "0")
    assert flow_run["state"]["name"] == "Completed"
    assert message(api.ended(killed)) == "its process is gone"
    assert_that_nothing_is_left(folder, [])
    assert not records(folder)


def test_a_stage_past_its_time_fails_the_run(tmp_path: Path, api: Api) -> None:
    folder = make_workspace(tmp_path / "late", {"only": STAY}, timeout=4)
    _, _, flow_run = run(folder, api)
    assert message(flow_run) == "only was ended after 4 seconds, the meta.timeout of dvc.yaml"
    assert_that_nothing_is_left(folder, [])


def test_two_runs_in_one_workspace(tmp_path: Path, api: Api) -> None:
    """The second is skipped or waits, as asked, and names the first."""
    folder = make_workspace(tmp_path / "shared", {"only": STAY})
    first, first_run = start(folder, api)
    wait_for_pids(folder)
    holder = f"flow run {first_run['name']} (process {first.pid}, since "
    code, _, skipped = run(folder, api, "--when-busy", "skip")
    assert (code, skipped["state"]["name"]) == (0, "Skipped")
    assert message(skipped).startswith(holder)
    code, _, given_up = run(folder, api, "--wait-seconds", "0")
    assert (code, given_up["state"]["name"]) == (1, "Failed")
    assert message(given_up).startswith(f"gave up after 0 seconds: {holder}")
    second, second_run = start(folder, api)
    assert any(
        line.startswith(f"waiting for {holder}")
        for line in api.logs(second_run, containing="waiting for")
    )
    (folder / "go").touch()
    finish(first), finish(second)
    assert api.ended(first_run)["state"]["name"] == "Completed"
    assert api.ended(second_run)["state"]["name"] == "Unchanged"


def test_a_run_beside_a_persons_dvc_repro(tmp_path: Path, api: Api) -> None:
    folder = make_workspace(tmp_path / "person", {"only": STAY})
    person = subprocess.Popen(
        ["dvc", "repro"], cwd=folder, env=subprocess_environment(), stdout=subprocess.DEVNULL
    )
    wait_for_pids(folder)
    _, _, skipped = run(folder, api, "--when-busy", "skip")
    assert skipped["state"]["name"] == "Skipped"
    assert message(skipped).startswith(f"process {person.pid}: ")
    waiting, waiting_run = start(folder, api)
    api.logs(waiting_run, containing=f"waiting for process {person.pid}: ")
    (folder / "go").touch()
    finish(waiting)
    assert person.wait() == 0
    assert api.ended(waiting_run)["state"]["type"] == "COMPLETED"
    assert (folder / "only.txt").is_file()


def test_a_stage_that_is_killed_is_tried_once_more(tmp_path: Path, api: Api) -> None:
    script = ATTEMPTS + "import os\nif len(tries.read_text()) < 2: os.kill(os.getpid(), 9)"
    folder = make_workspace(tmp_path / "killed", {"only": script}, retry_delay=0.1)
    _, _, flow_run = run(folder, api)
    assert api.states(flow_run, {"only": "Completed"}) == {"only": "Completed"}
    assert (folder / "tries").read_text() == ".."


def test_a_stage_that_is_killed_again_has_failed(tmp_path: Path, api: Api) -> None:
    folder = make_workspace(
        tmp_path / "killed",
        {"only": ATTEMPTS + "import os; os.kill(os.getpid(), 9)"},
        retry_delay=0.1,
    )
    _, _, flow_run = run(folder, api)
    assert message(flow_run).startswith("only failed: killed by signal 9\n")
    assert (folder / "tries").read_text() == ".."
