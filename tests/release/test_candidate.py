"""What a commit gives with some parameters changed, as the tasks of a real flow run."""

from pathlib import Path
from typing import Any

import pytest
from helpers import edit_params
from prefect import flow
from prefect_api import Api, calling
from toy import GIT, commit_all, execute, make_model_workspace

from pipeline.errors import ParamsError
from pipeline.release.candidate import Candidate, run_isolated
from pipeline.repository.git import resolve_commit


def run_in_flow(folder: Path, api: Api, changes: dict[str, Any]) -> Candidate:
    @flow(name="try", persist_result=False)
    def try_once() -> Candidate:
        return run_isolated(folder, resolve_commit(folder, "HEAD"), changes)

    with calling(api):
        return try_once()


def state_of(folder: Path) -> tuple[str, str, bytes, bytes]:
    return (
        execute(folder, "git", "status", "--porcelain", "--branch"),
        execute(folder, "git", "for-each-ref"),
        (folder / ".git" / "index").read_bytes(),
        (folder / "dvc.lock").read_bytes(),
    )


@pytest.mark.slow
def test_a_candidate_is_made_beside_what_the_person_is_at(repository: Path, api: Api) -> None:
    edit_params(repository, "train", "epochs", 9)
    (repository / "notes").write_text("the person's")
    before = state_of(repository)

    made = run_in_flow(repository, api, {"train.learning_rate": 0.002})
    assert {stage: state.name for stage, state in made.states.items()} == {
        "fetch": "Skipped",
        "preprocess": "Skipped",
        "train": "Completed",
        "evaluate": "Completed",
        "report": "Completed",
    }
    assert made.steps[2].reasons == ("params.yaml train.learning_rate 0.004 → 0.002",)
    receipts = [name for name in made.files if name.startswith("receipts/")]
    assert len(receipts) == 1
    assert made.files.keys() - receipts == {
        "dvc.lock",
        "params.yaml",
        "reports/history.csv",
        "reports/metrics.json",
    }
    assert made.files["dvc.lock"] == made.lock
    assert b"learning_rate: 0.002" in made.files["params.yaml"]
    assert 0.5 < made.metrics["accuracy"] < 1
    assert made.predictions.count(b"\n") == 201
    rows = made.files["reports/history.csv"].decode().splitlines()[1:]
    assert made.validation_accuracy == max(float(row.split(",")[-1]) for row in rows)

    again = run_in_flow(repository, api, {"train.learning_rate": 0.002})
    assert [state.name for state in again.states.values()] == [
        "Skipped",
        "Skipped",
        "Restored",
        "Restored",
        "Restored",
    ]
    assert again.files == made.files

    unchanged = run_in_flow(repository, api, {})
    assert (unchanged.state.name, unchanged.files) == ("Unchanged", {})

    with pytest.raises(ParamsError, match="must be a valid integer, got 'many'"):
        run_in_flow(repository, api, {"train.epochs": "many"})
    assert state_of(repository) == before
    assert [path.name for path in (repository / ".dvc/tmp/worktrees").iterdir()] == ["lock"]


def test_a_stage_that_fails_makes_no_candidate(tmp_path: Path, api: Api) -> None:
    folder = make_model_workspace(tmp_path / "fails")
    (folder / "evaluate.py").write_text("raise SystemExit(3)")
    commit_all(folder)
    made = run_in_flow(folder, api, {})
    assert (made.state.name, made.states["train"].name, made.files) == ("Failed", "Completed", {})
    assert str(made.state.message).startswith("evaluate failed: exit code 3\n")


@pytest.mark.slow
def test_what_dvc_keeps_for_itself_is_no_part_of_a_candidate(tmp_path: Path, api: Api) -> None:
    """Even where nothing tells Git to ignore it: the settings of this machine may hold
    passwords.
    """
    folder = make_model_workspace(tmp_path / "toy")
    (folder / ".dvc" / ".gitignore").unlink()
    execute(folder, "git", "rm", "--quiet", "--cached", ".dvc/.gitignore")
    execute(folder, *GIT, "commit", "-qm", "not ignored")
    made = run_in_flow(folder, api, {})
    assert sorted(made.files) == [
        ".gitignore",
        "dvc.lock",
        "reports/.gitignore",
        "reports/history.csv",
        "reports/metrics.json",
    ]
