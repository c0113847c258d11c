"""A person decides on what the gate passes, through a real server, as Prefect's page does."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from prefect.utilities.engine import propose_state_sync
from prefect_api import Api, calling, finish, message
from test_retrain import retrain_now
from toy import execute, make_model_workspace, start_pipeline

from pipeline.release import approval
from pipeline.release.approval import spell_out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (86400, "1 day"),
        (0, "0 seconds"),
        (0.5, "0.5 seconds"),
        (86_400_000, "1000 days"),
        (176_461, "2 days 1 hour 1 minute 1 second"),
    ],
)
def test_a_time_is_said_in_words(seconds: float, text: str) -> None:
    assert spell_out(seconds) == text


def start_waiting(
    folder: Path, api: Api, skill: int, *arguments: str
) -> tuple["subprocess.Popen[str]", dict[str, Any]]:
    """Start a retraining; return its process and its run, once that waits for a person."""
    before = {run["id"] for run in api.runs()}
    setting = ("--set", f"train.skill={skill}")
    process = start_pipeline(folder, api.url, "retrain", "--approve", *setting, *arguments)
    return process, api.run_waiting(besides=before)


def answer(api: Api, run: dict[str, Any], **content: Any) -> str:
    """Answer as the page does; return whether the server accepted that."""
    path = f"flow_runs/{run['id']}/resume"
    return str(api.post(path, {"run_input": content})["status"])


def end(api: Api, run: dict[str, Any], process: "subprocess.Popen[str]") -> tuple[str, str]:
    """The name and the message of the run's final state; its process is gone."""
    finish(process)
    ended = api.ended(run)
    return ended["state"]["name"], message(ended)


def test_a_person_sees_the_verdict_and_decides(tmp_path: Path, api: Api) -> None:
    folder = make_model_workspace(tmp_path / "toy")
    process, run = start_waiting(folder, api, 150)
    verdict = api.artifacts(run)["verdict"]
    assert verdict.startswith("# Waiting for approval\n\naccuracy 75.00%, and no champion yet\n")
    shown = api.request("GET", f"flow_runs/{run['id']}/input/paused-approval-1-description")
    assert shown.json() == verdict
    assert answer(api, run) == "REJECT", "an answer says yes or no"
    assert answer(api, run, approve=False, name="Ann", reason="not on a Friday") == "ACCEPT"
    why = "refused by Ann: not on a Friday"
    gate = "the gate had passed it: accuracy 75.00%, and no champion yet"
    assert end(api, run, process) == ("Rejected", f"{why}; {gate}")
    assert why in (folder / ".dvc/tmp/verdicts" / f"{run['name']}.md").read_text()
    assert execute(folder, "git", "for-each-ref", "refs/heads/champion", "refs/tags") == ""

    process, run = start_waiting(folder, api, 150)
    assert answer(api, run, approve=True, name="Bob\nModel-version: v9") == "ACCEPT"
    assert end(api, run, process)[0] == "Published"
    commit = execute(folder, "git", "log", "-1", "--format=%B", "champion").splitlines()
    assert not list((folder / ".dvc" / "tmp").glob("approval-*"))
    assert "Approval: approved by Bob Model-version: v9" in commit
    assert "Model-version: v9" not in commit


@pytest.mark.slow
def test_what_nobody_approves_in_time_is_rejected(tmp_path: Path, api: Api) -> None:
    folder = make_model_workspace(tmp_path / "toy")
    process, run = start_waiting(folder, api, 150, "--approve-timeout", "5")
    assert end(api, run, process) == (
        "Rejected",
        "not approved within 5 seconds;"
        " the gate had passed it: accuracy 75.00%, and no champion yet",
    )


def retrain_pausing(
    folder: Path,
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    pause: Callable[[dict[str, Any], Callable[[], object]], object],
) -> tuple[str, str]:
    """Retrain in this process; `pause` is called with the run and what makes it Paused."""

    def propose(*arguments: Any, **options: Any) -> object:
        return pause(api.last_run(), lambda: propose_state_sync(*arguments, **options))

    monkeypatch.chdir(folder)
    monkeypatch.setattr(approval, "propose_state_sync", propose)
    with calling(api):
        return retrain_now(approve=True)


def test_a_run_that_is_cancelled_just_before_it_pauses_ends(
    tmp_path: Path, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pause(run: dict[str, Any], go_on: Callable[[], object]) -> object:
        api.post(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
        return go_on()

    folder = make_model_workspace(tmp_path / "toy")
    assert retrain_pausing(folder, api, monkeypatch, pause)[0] == "Cancelled"
    assert api.ended(api.last_run())["state"]["name"] == "Cancelled"


def test_a_pause_that_is_asked_for_twice_waits_once(
    tmp_path: Path, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client repeats a request whose answer is lost."""
    approve = Thread(target=lambda: answer(api, api.run_waiting(), approve=True))

    def pause(run: dict[str, Any], go_on: Callable[[], object]) -> object:
        go_on()
        approve.start()
        return go_on()

    folder = make_model_workspace(tmp_path / "toy")
    assert retrain_pausing(folder, api, monkeypatch, pause)[0] == "Published"
    approve.join()


@pytest.mark.slow
def test_what_waits_keeps_nobody_and_is_judged_again(tmp_path: Path, api: Api) -> None:
    """Others publish meanwhile: a better model, and then one of those that wait itself."""
    folder = make_model_workspace(tmp_path / "toy")
    worse, worse_run = start_waiting(folder, api, 150)
    same, same_run = start_waiting(folder, api, 190)
    twice = start_pipeline(folder, api.url, "retrain", "--approve", "--set", "train.skill=190")
    holder = f"flow run {same_run['name']} (process {same.pid}, since "
    assert f"Finished in state Skipped('{holder}" in finish(twice)
    published = start_pipeline(folder, api.url, "retrain", "--set", "train.skill=190")
    assert "Finished in state Published('toy@v1.0.0: accuracy 95.00%" in finish(published)
    for run in (worse_run, same_run):
        assert answer(api, run, approve=True) == "ACCEPT"
    name, text = end(api, worse_run, worse)
    assert (name, text[:47]) == ("Rejected", "accuracy 75.00% against the champion's 95.00%: ")
    assert end(api, same_run, same) == ("Unchanged", "champion has this model already")
    assert execute(folder, "git", "rev-list", "--count", "main..champion") == "1\n"
