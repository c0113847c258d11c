"""Two machines that share runs through DVC's remote: clones with a cache each, and a folder."""

import re
import shutil
from pathlib import Path

import pytest
from prefect_api import Api
from toy import append, commit_all, execute, make_model_workspace, start_pipeline, wait_until

FETCHED_NOTHING = "DVC's remote gave no runs: "
PUSHED_NOTHING = "other machines cannot restore this run"
GOOD, BAD = "train.skill=170", "train.skill=90"  # the gate lets the first through


@pytest.fixture
def first(tmp_path: Path) -> Path:
    folder = make_model_workspace(tmp_path / "first")
    execute(tmp_path, "git", "init", "--quiet", "--bare", "remote.git")
    execute(folder, "git", "remote", "add", "origin", "../remote.git")
    execute(folder, "dvc", "remote", "add", "--default", "storage", "../storage")
    commit_all(folder)
    return folder


def clone(first: Path, name: str) -> Path:
    execute(first, "git", "push", "--quiet", "origin", "main")
    execute(first.parent, "git", "clone", "--quiet", "--branch", "main", "remote.git", name)
    return first.parent / name


def retrain(folder: Path, api: Api, setting: str, *arguments: str) -> tuple[str, str]:
    """Retrain to the end; return the name of the run's state and what it printed."""
    before = {run["id"] for run in api.runs()}
    process = start_pipeline(folder, api.url, "retrain", "--set", setting, *arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return str(api.ended(api.last_run(before))["state"]["name"]), output


def is_restored(output: str) -> bool:
    restored = all(f"Stage '{stage}' is cached" in output for stage in ("train", "evaluate"))
    return restored and "Running stage" not in output


@pytest.mark.parametrize(
    ("setting", "here", "there"),
    [(GOOD, "Published", "Unchanged"), (BAD, "Rejected", "Rejected")],
)
def test_what_one_machine_has_run_another_restores(
    first: Path, api: Api, setting: str, here: str, there: str
) -> None:
    """Also what was not published; metrics and curves live in Git, and come along."""
    second = clone(first, "second")
    assert retrain(first, api, setting, "--push", "origin")[0] == here
    state, output = retrain(second, api, setting, "--push", "origin")
    assert state == there
    assert is_restored(output), output
    assert execute(second, "git", "status", "--porcelain") == ""
    assert FETCHED_NOTHING not in output
    assert PUSHED_NOTHING not in output


@pytest.mark.slow
def test_real_digits_are_restored_on_another_machine(
    repository: Path, tmp_path: Path, api: Api
) -> None:
    execute(repository, "dvc", "remote", "add", "--default", "storage", str(tmp_path / "storage"))
    commit_all(repository)
    execute(tmp_path, "git", "clone", "--quiet", str(repository), "second")
    command = ("train.learning_rate=0.002", "--set", "gate.minimum=1")
    outputs = []
    for folder in (repository, tmp_path / "second"):
        state, output = retrain(folder, api, *command)
        assert state == "Rejected", "nothing is published, so no data is pushed for that"
        outputs.append(output)
    first_output, output = outputs
    assert "Running stage 'train'" in first_output
    assert "Running stage" not in output, output
    assert "is cached - skipping run" in output
    verdicts = [re.findall(r"accuracy \d+\.\d+% is .+?minimum", text) for text in outputs]
    assert verdicts[0] == verdicts[1] != []


@pytest.mark.slow
def test_a_remote_that_does_not_answer_stops_no_run(first: Path, api: Api) -> None:
    """Two lines say so, and none if nothing has to run."""
    (first.parent / "storage").write_text("no folder")
    state, output = retrain(first, api, BAD)
    assert state == "Rejected"
    assert output.count(PUSHED_NOTHING) == 1

    nowhere = ("url", "http://127.0.0.1:1/nowhere")
    execute(first, "dvc", "remote", "modify", "--local", "storage", *nowhere)
    state, output = retrain(first, api, "train.skill=80")
    assert state == "Rejected"
    assert (output.count(FETCHED_NOTHING), output.count(PUSHED_NOTHING)) == (1, 1)
    state, output = retrain(first, api, "train.skill=80")
    assert is_restored(output)
    assert FETCHED_NOTHING not in output


LARGE = """
import random
Path("large.bin").write_bytes(random.Random(1).randbytes(60_000_000))
"""


@pytest.mark.slow
def test_a_killed_push_leaves_nothing_wrong(first: Path, api: Api) -> None:
    append(first / "train.py", LARGE)
    graph = (first / "dvc.yaml").read_text()
    (first / "dvc.yaml").write_text(graph.replace("[model.txt]", "[large.bin, model.txt]"))
    commit_all(first)
    second, third = clone(first, "second"), clone(first, "third")
    process = start_pipeline(first, api.url, "retrain", "--set", BAD)
    wait_until((first.parent / "storage").exists)
    process.kill()
    process.communicate()
    moving = shutil.ignore_patterns("*.tmp")  # what its DVC is still writing
    shutil.copytree(first.parent / "storage", first.parent / "half", ignore=moving)
    execute(second, "dvc", "remote", "modify", "--local", "storage", "url", "../half")
    assert retrain(second, api, BAD)[0] == "Rejected", "whatever has arrived"
    state, output = retrain(first, api, BAD)
    assert (state, is_restored(output)) == ("Rejected", True)
    state, output = retrain(third, api, BAD)
    assert (state, is_restored(output)) == ("Rejected", True), "and so is what is pushed again"
