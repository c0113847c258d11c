"""The flow against a real server, on small graphs of real processes: states, retries, ends, locks."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect_api import Api, running_server
from toy import STAY, assert_that_nothing_is_left, execute, make_workspace, start_pipeline, wait_for_pids, wait_until

from pipeline.graph import environment

CHAIN = {"first": "", "second": "", "third": ""}
ORDER = {"second": ["first"], "third": ["second"]}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_server(tmp_path_factory.mktemp("prefect")) as api:
        yield api


def run(folder: Path, api: Api, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    """`python -m pipeline run` to its end: exit code, output, the flow run."""
    before = {run["id"] for run in api.runs()}
    process = start_pipeline(folder, api.url, "run", *arguments)
    output, _ = process.communicate()
    return process.returncode, output, api.ended(api.last_run(before))


def start(folder: Path, api: Api, *arguments: str) -> tuple["subprocess.Popen[str]", dict[str, Any]]:
    before = {run["id"] for run in api.runs()}
    process = start_pipeline(folder, api.url, "run", *arguments)
    return process, api.last_run(before)


def finish(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate()
    return output


def message(thing: dict[str, Any]) -> str:
    return str(thing["state"]["message"])


def test_states_tell_what_ran_what_was_restored_and_what_was_skipped(tmp_path: Path, api: Api) -> None:
    folder = make_workspace(tmp_path / "chain", CHAIN | {"second": "print('seen at once')"}, ORDER)
    code, _, flow_run = run(folder, api)
    assert code == 0
    assert flow_run["state"]["name"] == "Completed"
    assert list(api.states(flow_run, dict.fromkeys(CHAIN, "Completed"))) == list(CHAIN)
    assert message(api.tasks(flow_run)["second"]) == "not in dvc.lock yet; follows first"
    assert "seen at once" in api.logs(flow_run, containing="seen at once")
    assert [task["run_count"] for task in api.tasks(flow_run).values()] == [1, 1, 1]
    upstream = {name: task["task_inputs"].get("wait_for", []) for name, task in api.tasks(flow_run).items()}
    ids = {name: task["id"] for name, task in api.tasks(flow_run).items()}
    assert {name: [found["id"] for found in inputs] for name, inputs in upstream.items()} == {
        "first": [],
        "second": [ids["first"]],
        "third": [ids["second"]],
    }

    script = (folder / "second.py").read_text()
    (folder / "second.py").write_text(script + "Path('second.txt').write_text('other')\n")
    expected = {"first": "Skipped", "second": "Completed", "third": "Completed"}
    _, _, flow_run = run(folder, api)
    assert api.states(flow_run, expected) == expected
    assert message(flow_run) == "skipped: first; completed: second, third"

    (folder / "second.py").write_text(script)
    expected = {"first": "Skipped", "second": "Restored", "third": "Restored"}
    _, _, flow_run = run(folder, api)
    assert api.states(flow_run, expected) == expected
    assert message(api.tasks(flow_run)["second"]) == "second.py modified"

    _, output, flow_run = run(folder, api)
    assert flow_run["state"]["name"] == "Unchanged"
    assert api.states(flow_run, dict.fromkeys(CHAIN, "Skipped")) == dict.fromkeys(CHAIN, "Skipped")
    assert "Stage '" not in output, "DVC was not asked stage by stage"

    _, _, flow_run = run(folder, api, "--force", "second")
    expected = {"first": "Completed", "second": "Completed"}
    assert api.states(flow_run, expected) == expected


def test_a_failed_stage_fails_the_run_with_its_last_lines_and_is_not_retried(tmp_path: Path, api: Api) -> None:
    folder = make_workspace(tmp_path / "fails", CHAIN | {"second": "import sys; print('why'); sys.exit(2)"}, ORDER)
    code, _, flow_run = run(folder, api)
    assert code == 1
    assert flow_run["state"]["type"] == "FAILED"
    assert message(flow_run).startswith("second failed: exit code 2\n")
    assert "why" in message(flow_run)
    expected = {"first": "Completed", "second": "Failed", "third": "NotReady"}
    assert api.states(flow_run, expected) == expected
    assert api.tasks(flow_run)["second"]["run_count"] == 1


ATTEMPTS = "tries = Path('tries'); tries.write_text(tries.read_text() + '.' if tries.exists() else '.')\n"


@pytest.mark.parametrize(
    ("how", "attempts"),
    [
        ("if len(tries.read_text()) < 3: raise SystemExit(75)", 3),
        ("import os\nif len(tries.read_text()) < 2: os.kill(os.getpid(), 9)", 2),
    ],
    ids=["no source answered", "killed"],
)
def test_what_may_go_better_next_time_is_tried_again(tmp_path: Path, api: Api, how: str, attempts: int) -> None:
    folder = make_workspace(tmp_path / "retried", {"only": ATTEMPTS + how}, retry_delay=0.1)
    _, _, flow_run = run(folder, api)
    assert api.states(flow_run, {"only": "Completed"}) == {"only": "Completed"}
    assert (folder / "tries").read_text() == "." * attempts
    wait_until(lambda: api.tasks(flow_run)["only"]["run_count"] == attempts)


def test_a_stage_that_is_killed_again_has_failed(tmp_path: Path, api: Api) -> None:
    folder = make_workspace(
        tmp_path / "killed", {"only": ATTEMPTS + "import os; os.kill(os.getpid(), 9)"}, retry_delay=0.1
    )
    _, _, flow_run = run(folder, api)
    assert message(flow_run).startswith("only failed: killed by signal 9\n")
    assert (folder / "tries").read_text() == ".."


def test_branches_run_at_once(tmp_path: Path, api: Api) -> None:
    """Each waits for the other, so one after the other would never end."""
    meet = """
import time
Path('{0}.here').touch()
while not Path('{1}.here').exists():
    time.sleep(0.02)
"""
    scripts = {"top": "", "left": meet.format("left", "right"), "right": meet.format("right", "left"), "bottom": ""}
    order = {"left": ["top"], "right": ["top"], "bottom": ["left", "right"]}
    folder = make_workspace(tmp_path / "diamond", scripts, order, timeout=110)
    _, output, flow_run = run(folder, api)
    assert flow_run["state"]["name"] == "Completed", output
    assert execute(folder, "dvc", "status", "--json").strip() == "{}"


def cancel(process: "subprocess.Popen[str]", flow_run: dict[str, Any], api: Api) -> None:
    api.post(f"flow_runs/{flow_run['id']}/set_state", {"state": {"type": "CANCELLING"}, "force": False})


def interrupt(process: "subprocess.Popen[str]", flow_run: dict[str, Any], api: Api) -> None:
    process.send_signal(signal.SIGINT)


def terminate(process: "subprocess.Popen[str]", flow_run: dict[str, Any], api: Api) -> None:
    process.terminate()


@pytest.mark.parametrize(
    ("end", "state"),
    [(cancel, "Cancelled"), (interrupt, "Cancelled"), (terminate, "Crashed")],
    ids=["cancel", "SIGINT", "SIGTERM"],
)
def test_a_run_that_is_ended_leaves_nothing_behind(tmp_path: Path, api: Api, end: Any, state: str) -> None:
    folder = make_workspace(tmp_path / "ended", {"only": STAY, "after": ""}, {"after": ["only"]})
    process, flow_run = start(folder, api)
    processes = wait_for_pids(folder)
    end(process, flow_run, api)
    output = finish(process)
    assert process.returncode != 0
    assert api.ended(flow_run)["state"]["name"] == state, output
    assert_that_nothing_is_left(folder, processes)


def test_a_run_that_is_killed_leaves_nothing_behind_and_frees_the_workspace(tmp_path: Path, api: Api) -> None:
    folder = make_workspace(tmp_path / "killed", {"only": STAY})
    process, _ = start(folder, api)
    processes = wait_for_pids(folder)
    process.kill()
    finish(process)
    wait_until(lambda: not any(process.is_running() for process in processes))
    (folder / "go").touch()
    _, _, flow_run = run(folder, api, "--wait-seconds", "0")
    assert flow_run["state"]["name"] == "Completed"
    assert_that_nothing_is_left(folder, [])


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
    assert any(line.startswith(f"waiting for {holder}") for line in api.logs(second_run, containing="waiting for"))
    (folder / "go").touch()
    finish(first), finish(second)
    assert api.ended(first_run)["state"]["name"] == "Completed"
    assert api.ended(second_run)["state"]["name"] == "Unchanged"


def test_a_run_beside_a_persons_dvc_repro(tmp_path: Path, api: Api) -> None:
    folder = make_workspace(tmp_path / "person", {"only": STAY})
    person = subprocess.Popen(["dvc", "repro"], cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
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


def test_without_a_server_there_is_one_for_the_run(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "alone", {"only": ""})
    result = subprocess.run(
        ["python", "-m", "pipeline", "run"], cwd=folder, env=environment(), capture_output=True, text=True, check=True
    )
    assert "Starting temporary server" in result.stderr
    assert "Finished in state Completed" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("run", "nosuch"), "dvc.yaml has no stage nosuch; it has only"),
        (("run", "--wait-seconds", "x"), "argument --wait-seconds: must be 0 or more, got x"),
        (("run", "--wait-seconds", "-1"), "argument --wait-seconds: must be 0 or more, got -1"),
        (("serve", "--cron", "0 99 * * *"), "--cron '0 99 * * *' --timezone UTC is no schedule"),
        (("serve", "--timezone", "Mars/Base"), "--timezone Mars/Base is no schedule"),
        (("serve", "--interval", "0"), "--interval 0 --timezone UTC is no schedule"),
        (("serve", "--interval", "nan"), "--interval nan --timezone UTC is no schedule"),
        (("serve", "--interval", "9", "--cron", "* * * * *"), "not allowed with argument"),
        (("plan", "--yaml"), "unrecognized arguments: --yaml"),
        ((), "the following arguments are required: COMMAND"),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path: Path, api: Api, arguments: tuple[str, ...], reason: str) -> None:
    folder = make_workspace(tmp_path / "refusing", {"only": ""})
    process = start_pipeline(folder, api.url, *arguments)
    output = finish(process)
    assert process.returncode != 0
    [line] = [line for line in output.splitlines() if "error" in line.lower() or reason in line]
    assert reason in line
    assert "Traceback" not in output
