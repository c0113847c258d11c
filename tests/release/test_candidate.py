"""A commit's graph with some parameters changed, run as the tasks of a real flow run."""

from pathlib import Path

import pytest
from helpers import edit_params
from prefect import flow
from prefect_api import Api, calling
from toy import GIT, append, commit_all, execute, make_model_workspace

from pipeline.errors import ParamsError
from pipeline.release.candidate import Candidate, GraphRun, run_isolated
from pipeline.release.overrides import Changes
from pipeline.repository.git import resolve_commit


def run_in_flow(folder: Path, api: Api, changes: Changes) -> tuple[GraphRun, Candidate | None]:
    @flow(name="try", persist_result=False)
    def try_once() -> tuple[GraphRun, Candidate | None]:
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
def test_a_candidate_leaves_the_checkout_as_it_is(repository: Path, api: Api) -> None:
    edit_params(repository, "train", "epochs", 9)
    (repository / "notes").write_text("not committed")
    before = state_of(repository)

    run, candidate = run_in_flow(repository, api, {"train.learning_rate": 0.002})
    assert {stage: state.name for stage, state in run.states.items()} == {
        "fetch": "Skipped",
        "preprocess": "Skipped",
        "train": "Completed",
        "evaluate": "Completed",
        "report": "Completed",
    }
    assert run.planned[2].reasons == ("params.yaml train.learning_rate 0.004 → 0.002",)
    assert candidate
    assert candidate.files.keys() == {
        "dvc.lock",
        "params.yaml",
        "reports/history.csv",
        "reports/metrics.json",
    }
    assert candidate.files["dvc.lock"] == candidate.lock
    assert b"learning_rate: 0.002" in candidate.files["params.yaml"]
    assert 0.5 < candidate.evaluation.metrics["accuracy"] < 1
    assert candidate.evaluation.predictions.count(b"\n") == 201
    rows = candidate.files["reports/history.csv"].decode().splitlines()[1:]
    assert candidate.validation_accuracy == max(float(row.split(",")[-1]) for row in rows)

    run, again = run_in_flow(repository, api, {"train.learning_rate": 0.002})
    assert [state.name for state in run.states.values()] == [
        "Skipped",
        "Skipped",
        "Restored",
        "Restored",
        "Restored",
    ]
    assert again
    assert again.files == candidate.files

    run, unchanged = run_in_flow(repository, api, {})
    assert run.state.name == "Unchanged"
    assert unchanged
    assert unchanged.files == {}

    with pytest.raises(ParamsError, match="must be a valid number, got 'many'"):
        run_in_flow(repository, api, {"train.epochs": "many"})
    assert state_of(repository) == before
    assert [path.name for path in (repository / ".dvc/tmp/worktrees").iterdir()] == ["lock"]


def test_a_stage_that_fails_makes_no_candidate(tmp_path: Path, api: Api) -> None:
    folder = make_model_workspace(tmp_path / "fails")
    (folder / "evaluate.py").write_text("raise SystemExit(3)")
    commit_all(folder)
    run, candidate = run_in_flow(folder, api, {})
    assert candidate is None
    assert (run.state.name, run.states["train"].name) == ("Failed", "Completed")
    assert str(run.state.message).startswith("evaluate failed: exit code 3\n")


def test_a_gate_without_limits_for_own_images_is_refused_before_a_stage_runs(
    tmp_path: Path, api: Api
) -> None:
    folder = make_model_workspace(tmp_path / "toy")
    append(folder / "train.py", f"\nPath({str(tmp_path / 'trained')!r}).touch()\n")
    (folder / "data/own").mkdir(parents=True)
    (folder / "data/own/first.dvc").write_text("outs: []\n")
    commit_all(folder)
    with pytest.raises(ParamsError) as raised:
        run_in_flow(folder, api, {})
    assert str(raised.value) == (
        "params.yaml: gate.own is missing, and there are own images; add it, such as"
        " own: {images: 50, minimum: 0.9, largest_drop: 0.05}"
    )
    assert not (tmp_path / "trained").exists()
    append(folder / "params.yaml", "  own: {images: 50, minimum: 0.9, largest_drop: 0.05}\n")
    commit_all(folder)
    _, candidate = run_in_flow(folder, api, {})
    assert candidate
    assert (tmp_path / "trained").exists()


@pytest.mark.slow
def test_a_candidate_holds_none_of_dvcs_own_files(tmp_path: Path, api: Api) -> None:
    """Nothing tells Git to ignore them here; .dvc/config.local may hold passwords."""
    folder = make_model_workspace(tmp_path / "toy")
    (folder / ".dvc" / ".gitignore").unlink()
    execute(folder, "git", "rm", "--quiet", "--cached", ".dvc/.gitignore")
    execute(folder, *GIT, "commit", "-qm", "not ignored")
    _, candidate = run_in_flow(folder, api, {})
    assert candidate
    assert sorted(candidate.files) == [
        ".gitignore",
        "dvc.lock",
        "reports/.gitignore",
        "reports/history.csv",
        "reports/metrics.json",
    ]
