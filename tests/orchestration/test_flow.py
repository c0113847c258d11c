"""The flow against a real server, on small graphs of real processes.

The states of tasks and runs, their order, retries and refusals.
"""

from pathlib import Path

import pytest
from prefect_api import Api, message, run
from toy import ATTEMPTS, CHAIN, ORDER, execute, make_workspace, wait_until


def test_states_tell_what_ran_and_what_was_skipped_in_the_graphs_order(
    tmp_path: Path, api: Api
) -> None:
    folder = make_workspace(tmp_path / "chain", CHAIN | {"second": "print('seen at once')"}, ORDER)
    code, _, flow_run = run(folder, api)
    assert code == 0
    assert flow_run["state"]["name"] == "Completed"
    assert list(api.states(flow_run, dict.fromkeys(CHAIN, "Completed"))) == list(CHAIN)
    assert message(api.tasks(flow_run)["second"]) == "not in dvc.lock yet; follows first"
    assert "seen at once" in api.logs(flow_run, containing="seen at once")
    assert [task["run_count"] for task in api.tasks(flow_run).values()] == [1, 1, 1]
    upstream = {
        name: task["task_inputs"].get("wait_for", []) for name, task in api.tasks(flow_run).items()
    }
    ids = {name: task["id"] for name, task in api.tasks(flow_run).items()}
    assert {name: [found["id"] for found in inputs] for name, inputs in upstream.items()} == {
        "first": [],
        "second": [ids["first"]],
        "third": [ids["second"]],
    }

    _, output, flow_run = run(folder, api)
    assert flow_run["state"]["name"] == "Unchanged"
    assert api.states(flow_run, dict.fromkeys(CHAIN, "Skipped")) == dict.fromkeys(CHAIN, "Skipped")
    assert "Stage '" not in output, "DVC was not asked stage by stage"

    _, _, flow_run = run(folder, api, "--force", "second")
    expected = {"first": "Completed", "second": "Completed"}
    assert api.states(flow_run, expected) == expected


def test_a_failed_stage_fails_the_run_with_its_last_lines_and_is_not_retried(
    tmp_path: Path, api: Api
) -> None:
    folder = make_workspace(
        tmp_path / "fails", CHAIN | {"second": "import sys; print('why'); sys.exit(2)"}, ORDER
    )
    code, _, flow_run = run(folder, api)
    assert code == 1
    assert flow_run["state"]["type"] == "FAILED"
    assert message(flow_run).startswith("second failed: exit code 2\n")
    assert "why" in message(flow_run)
    expected = {"first": "Completed", "second": "Failed", "third": "NotReady"}
    assert api.states(flow_run, expected) == expected
    assert api.tasks(flow_run)["second"]["run_count"] == 1


@pytest.mark.slow
def test_when_no_source_answered_it_is_tried_again(tmp_path: Path, api: Api) -> None:
    script = ATTEMPTS + "if len(tries.read_text()) < 3: raise SystemExit(75)"
    folder = make_workspace(tmp_path / "retried", {"only": script}, retry_delay=0.1)
    _, _, flow_run = run(folder, api)
    assert api.states(flow_run, {"only": "Completed"}) == {"only": "Completed"}
    assert (folder / "tries").read_text() == "..."
    wait_until(lambda: api.tasks(flow_run)["only"]["run_count"] == 3)


def test_by_default_one_stage_runs_at_a_time(tmp_path: Path, api: Api) -> None:
    alone = """
import time
here = Path('at-work')
here.touch(exist_ok=False)
time.sleep(0.5)
here.unlink()
"""
    folder = make_workspace(tmp_path / "apart", dict.fromkeys(("left", "middle", "right"), alone))
    _, output, flow_run = run(folder, api)
    assert flow_run["state"]["name"] == "Completed", output
    assert "waiting for another stage to end" in output


@pytest.mark.slow
def test_branches_run_at_once_with_jobs(tmp_path: Path, api: Api) -> None:
    """Each waits for the other, so one after the other would never end."""
    meet = """
import time
Path('{0}.here').touch()
while not Path('{1}.here').exists():
    time.sleep(0.02)
"""
    scripts = {
        "top": "",
        "left": meet.format("left", "right"),
        "right": meet.format("right", "left"),
        "bottom": "",
    }
    order = {"left": ["top"], "right": ["top"], "bottom": ["left", "right"]}
    folder = make_workspace(tmp_path / "diamond", scripts, order, timeout=110)
    _, output, flow_run = run(folder, api, "--jobs", "2")
    assert flow_run["state"]["name"] == "Completed", output
    assert execute(folder, "dvc", "status", "--json").strip() == "{}"


def test_a_stage_that_is_not_there_is_refused_in_one_line(tmp_path: Path, api: Api) -> None:
    folder = make_workspace(tmp_path / "refusing", {"only": ""})
    code, output, flow_run = run(folder, api, "nosuch")
    assert code == 1
    expected = "Stage 'nosuch' not found inside 'dvc.yaml' file; there are: only"
    assert message(flow_run) == f"dvc describe -- nosuch failed: {expected}"
    assert "Traceback" not in output


def test_a_wrong_meta_is_one_line_and_exit_code_2(tmp_path: Path, api: Api) -> None:
    folder = make_workspace(tmp_path / "refusing", {"only": ""}, timeout=-1)
    code, output, flow_run = run(folder, api)
    assert code == 2
    assert message(flow_run) == "dvc.yaml: stages.only.meta.timeout must be greater than 0, got -1"
    assert "Traceback" not in output


def test_every_html_page_is_linked_on_the_runs_page(tmp_path: Path, api: Api) -> None:
    folder = make_workspace(tmp_path / "pages", {"only": "Path('page.html').write_text('')"})
    text = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(text.replace("- only.txt", "- only.txt\n    - page.html"))
    _, _, flow_run = run(folder, api)
    assert "page.html" in api.artifacts(flow_run)["only"]


def test_data_that_a_dvc_file_tracks_has_its_own_states(tmp_path: Path, api: Api) -> None:
    folder = make_workspace(tmp_path / "sources", {"only": ""})
    (folder / "data").write_text("data")
    execute(folder, "dvc", "add", "data")
    text = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(text.replace("- only.py", "- only.py\n    - data"))
    _, output, flow_run = run(folder, api)
    expected = {"data.dvc": "Skipped", "only": "Completed"}
    assert api.states(flow_run, expected) == expected, output

    (folder / "data").unlink()
    (folder / "data").write_text("other")
    _, _, flow_run = run(folder, api)
    expected = {"data.dvc": "Recorded", "only": "Completed"}
    assert api.states(flow_run, expected) == expected
    assert message(api.tasks(flow_run)["data.dvc"]) == "data modified"
    assert "recorded: data.dvc" in message(flow_run)

    (folder / "data").unlink()
    code, output, flow_run = run(folder, api)
    assert code == 1
    expected = {"data.dvc": "NotCheckedOut", "only": "NotReady"}
    assert api.states(flow_run, expected) == expected
    reason = "data is not here; the cache has it: dvc checkout data.dvc"
    assert message(flow_run) == f"data.dvc failed: {reason}"
    assert "Traceback" not in output


def test_a_run_takes_the_root_alone_or_every_dvc_yaml(tmp_path: Path, api: Api) -> None:
    """As `dvc repro` and `dvc repro --all-pipelines` do; the meta of sub/dvc.yaml counts."""
    folder = make_workspace(tmp_path / "two", {"only": ""})
    (folder / "sub").mkdir()
    sub = "stages: {late: {cmd: sleep 60 && touch x, outs: [x], meta: {timeout: 0.5}}}"
    (folder / "sub" / "dvc.yaml").write_text(sub)
    _, _, flow_run = run(folder, api)
    assert api.states(flow_run, {"only": "Completed"}) == {"only": "Completed"}
    code, _, flow_run = run(folder, api, "--all-pipelines")
    assert code == 1
    expected = {"only": "Skipped", "sub/dvc.yaml:late": "Failed"}
    assert api.states(flow_run, expected) == expected
    assert "sub/dvc.yaml:late was ended after 0.5 seconds" in message(flow_run)
