"""What a commit gives with some parameters changed, as the tasks of a real flow run."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, edit_params
from prefect import flow
from prefect_api import Api, calling
from toy import GIT, commit_all, execute, make_model_workspace

from pipeline.candidate import Candidate, change_params, parse_changes, run_isolated
from pipeline.errors import ParamsError
from pipeline.git import resolve
from pipeline.supervisor import Lifeline


def run_in_flow(folder: Path, api: Api, changes: dict[str, Any]) -> Candidate:
    @flow(name="try", persist_result=False)
    def try_once() -> Candidate:
        with Lifeline() as lifeline:
            return run_isolated(folder, resolve(folder, "HEAD"), changes, lifeline)

    with calling(api):
        return try_once()


def state_of(folder: Path) -> tuple[str, str, bytes, bytes]:
    return (
        execute(folder, "git", "status", "--porcelain", "--branch"),
        execute(folder, "git", "for-each-ref"),
        (folder / ".git" / "index").read_bytes(),
        (folder / "dvc.lock").read_bytes(),
    )


def test_changes_are_read_as_yaml() -> None:
    texts = ["train.learning_rate=2e-3", "fetch.sources=[npm]", "train.keep=best", "a.b.c=x=y", "train.device=yes"]
    assert parse_changes(texts) == {
        "train.learning_rate": 0.002,
        "fetch.sources": ["npm"],
        "train.keep": "best",
        "a.b.c": "x=y",
        "train.device": "yes",
    }


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["train.seed"], "--set train.seed: must be SECTION.NAME=VALUE, such as train.learning_rate=0.002"),
        (["seed=1"], "--set seed=1: must be SECTION.NAME=VALUE"),
        (["train.=1"], "--set train.=1: must be SECTION.NAME=VALUE"),
        (["train.seed=1", "train.seed=2"], "--set train.seed=2: train.seed is set twice; set it once"),
        (["train.seed=[1"], "--set train.seed=[1: [1 is not valid YAML: "),
    ],
)
def test_what_is_no_change_is_refused_in_one_line(texts: list[str], reason: str) -> None:
    with pytest.raises(ParamsError) as raised:
        parse_changes(texts)
    assert str(raised.value).startswith(reason)
    assert "\n" not in str(raised.value)


def test_only_the_changed_lines_of_params_yaml_change(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copyfile(ROOT / "params.yaml", path)
    change_params(path, {"train.learning_rate": 0.002, "train.keep": "best"})
    before, after = ((ROOT / "params.yaml").read_text().splitlines(), path.read_text().splitlines())
    changed = [line for old, line in zip(before, after, strict=True) if old != line]
    assert [line.split("#")[0].split() for line in changed] == [["learning_rate:", "0.002"], ["keep:", "best"]]
    assert changed[1].endswith("# the last epoch, or the best by validation accuracy")


@pytest.mark.parametrize(
    ("name", "known"),
    [("train.lr", "train.seed, train.epochs"), ("trian.seed", "fetch, "), ("train.seed.x", "train.seed")],
)
def test_a_parameter_that_is_not_there_is_refused_in_one_line(tmp_path: Path, name: str, known: str) -> None:
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    with pytest.raises(ParamsError) as raised:
        change_params(tmp_path / "params.yaml", {name: 1})
    assert str(raised.value).startswith(f"--set {name}=1: params.yaml has no parameter {name}; it has {known}")
    assert (tmp_path / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


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
    assert made.files.keys() - receipts == {"dvc.lock", "params.yaml", "reports/history.csv", "reports/metrics.json"}
    assert made.files["dvc.lock"] == made.lock
    assert b"learning_rate: 0.002" in made.files["params.yaml"]
    assert 0.5 < made.metrics["accuracy"] < 1
    assert made.predictions.count(b"\n") == 201
    rows = made.files["reports/history.csv"].decode().splitlines()[1:]
    assert made.validation_accuracy == max(float(row.split(",")[-1]) for row in rows)

    again = run_in_flow(repository, api, {"train.learning_rate": 0.002})
    assert [state.name for state in again.states.values()] == ["Skipped", "Skipped", "Restored", "Restored", "Restored"]
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
    """Even where nothing tells Git to ignore it: the settings of this machine may hold passwords."""
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
