"""How a retraining ends, against a real server, on models that take no time to train."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect_api import Api, calling
from toy import append, commit_all, execute, make_model_workspace

from pipeline.release.retrain import retrain


@pytest.fixture
def folder(tmp_path: Path, api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = make_model_workspace(tmp_path / "toy")
    monkeypatch.chdir(folder)
    with calling(api):
        yield folder


def retrain_now(**parameters: Any) -> tuple[str, str]:
    """Retrain; return the name and the message of the state."""
    state: State[Any] = retrain(**parameters, return_state=True)
    return str(state.name), str(state.message)


def state_of_repository(folder: Path) -> tuple[str, str, bytes]:
    status = execute(folder, "git", "status", "--porcelain", "--branch")
    return status, execute(folder, "git", "for-each-ref"), (folder / ".git" / "index").read_bytes()


@pytest.mark.slow
def test_a_model_is_published_if_it_is_new_and_good_enough(folder: Path, api: Api) -> None:
    assert retrain_now() == ("Published", "toy@v1.0.0: accuracy 75.00%, and no champion yet")
    run = api.last_run()
    assert api.states(run, {"train": "Completed", "evaluate": "Completed"}) == {
        "train": "Completed",
        "evaluate": "Completed",
    }
    assert api.artifacts(run)["verdict"].startswith(
        "# Published toy@v1.0.0\n\naccuracy 75.00%, and no champion yet\n"
    )
    assert (folder / ".dvc/tmp/verdicts" / f"{run['name']}.md").read_text() == api.artifacts(run)[
        "verdict"
    ]
    message = execute(folder, "git", "log", "-1", "--format=%B", "champion").splitlines()
    assert message[0] == "Publish toy@v1.0.0: accuracy 75.00% [skip ci]"
    assert f"Flow-run: {run['name']} {run['id']}" in message
    assert "# Published\n" in execute(folder, "git", "show", "champion:reports/verdict.md")

    before = state_of_repository(folder)
    assert retrain_now() == ("Unchanged", "champion has this model already")
    name, reason = retrain_now(changes={"train.skill": 120})
    assert name == "Rejected"
    assert reason.startswith(
        "accuracy 60.00% against the champion's 75.00%: the drop of 15.00% is more than the 5.00%"
    )
    assert api.artifacts(api.last_run())["verdict"].startswith("# Rejected\n")
    assert state_of_repository(folder) == before

    name, reason = retrain_now(changes={"train.skill": 170}, skip_ci=False)
    assert name == "Published"
    assert reason.startswith(
        "toy@v1.1.0: accuracy 85.00% against the champion's 75.00%, more than noise: 20 images"
    )
    assert (
        execute(folder, "git", "log", "-1", "--format=%s", "champion")
        == "Publish toy@v1.1.0: accuracy 85.00%\n"
    )
    assert "skill: 170  # images read right" in execute(
        folder, "git", "show", "champion:params.yaml"
    )
    assert execute(folder, "git", "log", "--format=%p", "champion").split() == [
        execute(folder, "git", "rev-parse", "--short", rev).strip()
        for rev in ("champion~1", "main")
    ]


def test_what_a_person_has_made_is_published_without_running_a_stage(folder: Path) -> None:
    execute(folder, "dvc", "repro")
    commit_all(folder)
    assert retrain_now()[0] == "Published"
    assert (
        execute(folder, "git", "diff", "--name-only", "main", "champion") == "reports/verdict.md\n"
    )
    execute(folder, "git", "checkout", "--quiet", "--detach", "champion")
    assert retrain_now() == ("Unchanged", "champion has this model already")


# At the end of train: a receipt that names the machine
RECEIPT = """
import os
Path("reports/receipt.json").write_text(f'[{{"machine": "{os.environ.get("MACHINE")}"}}]')
"""


def test_the_same_model_of_another_machine_is_no_new_version(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(folder / "train.py", RECEIPT)
    graph = (folder / "dvc.yaml").read_text()
    metrics = "    metrics: [reports/receipt.json: {cache: false}]\n  evaluate:"
    (folder / "dvc.yaml").write_text(graph.replace("  evaluate:", metrics))
    commit_all(folder)
    assert retrain_now()[0] == "Published"
    assert "None" in execute(folder, "git", "show", "champion:reports/receipt.json")
    shutil.rmtree(folder / ".dvc" / "cache")
    monkeypatch.setenv("MACHINE", "another")
    assert retrain_now() == ("Unchanged", "champion has this model already")


@pytest.mark.slow
def test_a_stage_that_fails_publishes_nothing(folder: Path, api: Api) -> None:
    (folder / "evaluate.py").write_text("raise SystemExit(3)")
    commit_all(folder)
    name, reason = retrain_now()
    assert (name, reason.splitlines()[0]) == ("Failed", "evaluate failed: exit code 3")
    assert execute(folder, "git", "for-each-ref", "refs/heads/champion", "refs/tags") == ""


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"rev": "nowhere"}, "nowhere is no commit here; name one that git log shows"),
        ({"branch": "main"}, "main is checked out in "),
        ({"branch": "a b"}, "a b is no name for a branch; publish to another, such as champion"),
        (
            {"changes": {"train.skil": 1}},
            "--set train.skil=1: params.yaml has no parameter train.skil; it has ",
        ),
        (
            {"changes": {"gate.minimum": 2}},
            "params.yaml: gate.minimum must be less than or equal to 1, got 2",
        ),
        (
            {"remote": "nowhere"},
            "git ls-remote nowhere was refused: fatal: 'nowhere' does not appear to be a git repo",
        ),
    ],
)
def test_wrong_parameters_are_refused_in_one_line_before_anything_runs(
    folder: Path, api: Api, parameters: dict[str, Any], reason: str
) -> None:
    before = state_of_repository(folder)
    name, message = retrain_now(**parameters)
    assert name == "Failed"
    assert message.startswith(reason)
    assert "\n" not in message
    assert api.tasks(api.last_run()) == {}
    assert state_of_repository(folder) == before
