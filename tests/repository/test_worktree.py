"""Worktrees in real repositories: what they share, what they leave alone, how they end."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from toy import commit_all, execute, make_workspace

from pipeline.repository.git import git
from pipeline.repository.worktree import FOLDER, share_checkpoints, worktree

HOLD = """
import sys, time
from pathlib import Path
from pipeline.repository.worktree import worktree
with worktree(Path.cwd(), "HEAD", "held") as (tree, _):
    print(tree, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_workspace(tmp_path / "a checkout", {"only": ""})


CHECKPOINT = """
    from pipeline.repository.worktree import share_checkpoints
    share_checkpoints(Path.cwd(), tree, scratch)
    (tree / ".checkpoints" / "mine.safetensors").write_text("mine")
"""


def hold(folder: Path, program: str = HOLD) -> tuple["subprocess.Popen[str]", Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, Path(process.stdout.readline().rstrip("\n"))


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / FOLDER).iterdir())


def test_it_holds_the_commit_and_vanishes(folder: Path) -> None:
    (folder / "only.py").write_text("what the person is at")
    with worktree(folder, "HEAD", "try") as (tree, scratch):
        assert "what the person is at" not in (tree / "only.py").read_text()
        (tree / "new").touch()
        (scratch / "site").mkdir()
    assert left_in(folder) == ["lock"]
    assert execute(folder, "git", "worktree", "list").count("\n") == 1
    assert execute(folder, "git", "status", "--porcelain") == " M only.py\n"


def test_what_a_killed_run_abandoned_is_pruned_and_what_lives_is_not(folder: Path) -> None:
    dead, abandoned = hold(folder)
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    assert abandoned.is_dir()
    living, held = hold(folder)
    assert not abandoned.exists()
    with worktree(folder, "HEAD", "try"):
        assert held.is_dir()
        assert execute(folder, "git", "worktree", "list").count("\n") == 3
    living.send_signal(signal.SIGINT)
    living.communicate()
    assert left_in(folder) == ["lock"]
    assert not (folder / ".git" / "worktrees").exists() or not list(
        (folder / ".git" / "worktrees").iterdir()
    )


def test_what_git_was_killed_at_is_pruned_too(folder: Path) -> None:
    """Half a worktree: Git's notes say that it is being made."""
    dead, abandoned = hold(folder)
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    notes = folder / ".git" / "worktrees" / abandoned.name
    (notes / "gitdir").unlink()
    (notes / "locked").write_text("initializing")
    (abandoned / ".git").unlink()
    with worktree(folder, "HEAD", "try"):
        assert not notes.exists()
        assert not abandoned.exists()


def test_what_a_killed_training_left_is_there_for_the_next(folder: Path) -> None:
    (folder / ".checkpoints").mkdir()
    (folder / ".checkpoints" / "earlier.safetensors").write_text("earlier")
    program = HOLD.replace("as (tree, _)", "as (tree, scratch)").replace(
        "    print(", CHECKPOINT + "    print("
    )
    dead, _ = hold(folder, program)
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    with worktree(folder, "HEAD", "try") as (tree, scratch):
        share_checkpoints(folder, tree, scratch)
        found = {path.name: path.read_text() for path in (tree / ".checkpoints").iterdir()}
        (tree / ".checkpoints" / "mine.safetensors").unlink()  # as a training does at its end
    assert found == {"earlier.safetensors": "earlier", "mine.safetensors": "mine"}
    assert [path.name for path in (folder / ".checkpoints").iterdir()] == ["earlier.safetensors"]


def test_neither_hooks_nor_variables_lead_it_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = folder / ".git" / "hooks" / "post-checkout"
    hook.write_text("#!/bin/sh\ntouch hooked\n")
    hook.chmod(0o755)
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere/index")
    with worktree(folder, "HEAD", "try") as (tree, _):
        assert not (tree / "hooked").exists()
        assert git(tree, "status", "--porcelain") == ""


def test_a_pipeline_in_a_subfolder_is_found_there(tmp_path: Path) -> None:
    execute(tmp_path, "git", "init", "--quiet")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_text("here")
    commit_all(tmp_path)
    with worktree(tmp_path / "sub", "HEAD", "try") as (tree, _):
        assert (tree / "file").read_text() == "here"
