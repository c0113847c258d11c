"""Batches in real DVC workspaces: added whole or not at all, beside whoever else is at work."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from helpers import files_under
from toy import GIT, commit_all, execute, make_workspace, wait_until

from pipeline.errors import PipelineError
from pipeline.repository.processes import subprocess_environment
from pipeline.repository.tracking import hold_folder

SETS = Path("data/sets")
# Reads the folder, and then is still at work until there is a file "go"
READER = """
import time
Path("seen").write_text(" ".join(sorted(str(path) for path in Path("data/sets").rglob("*.txt"))))
while not Path("go").exists():
    time.sleep(0.05)
"""
HOLD = """
import sys, time
from pathlib import Path
from pipeline.repository.tracking import hold_folder
with hold_folder(Path.cwd(), Path("data/sets"), print) as held:
    (held.scratch / "half").mkdir()
    print("holds", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a stage that reads the folder of batches, which is empty."""
    folder: Path = make_workspace(tmp_path_factory.mktemp("made"), {"reader": READER})
    graph = (folder / "dvc.yaml").read_text().replace("- reader.py", "- reader.py\n    - data/sets")
    (folder / "dvc.yaml").write_text(graph)
    (folder / SETS).mkdir(parents=True)
    (folder / SETS / ".gitignore").write_text("/*/\n")
    (folder / ".gitignore").write_text("reader.txt\nseen\ngo\n.*.partial\n")
    commit_all(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    execute(tmp_path, "cp", "--archive", str(made), "a workspace é")
    return tmp_path / "a workspace é"


def add(
    root: Path,
    batch: str,
    say: Callable[[str], None] = print,
    *,
    push: bool = False,
) -> None:
    with hold_folder(root, SETS, say) as held:
        held.complete()
        path = held.scratch / batch / "inner" / "file.txt"
        path.parent.mkdir(parents=True)
        path.write_text(batch)
        held.add(batch, push=push)


def assert_whole(root: Path, *batches: str) -> None:
    """These batches are here with all that they hold, as DVC knows them, and nothing else is."""
    files = [name for batch in batches for name in (f"{batch}.dvc", f"{batch}/inner/file.txt")]
    assert sorted(files_under(root / SETS)) == sorted([".gitignore", *files])
    for batch in batches:
        assert (root / SETS / batch / "inner" / "file.txt").read_text() == batch
        assert execute(root, "dvc", "status", f"{SETS}/{batch}.dvc").endswith("up to date.\n")
    assert list((root / SETS).parent.glob(".*")) == []


def test_a_batch_is_data_that_dvc_tracks(folder: Path) -> None:
    add(folder, "first")
    add(folder, "second")
    assert_whole(folder, "first", "second")
    changed = execute(folder, "git", "status", "--porcelain", "--untracked-files=all").splitlines()
    assert changed == [f"?? {SETS}/first.dvc", f"?? {SETS}/second.dvc"]
    execute(folder, "rm", "-r", str(SETS / "first"))
    execute(folder, "dvc", "checkout", f"{SETS}/first.dvc")
    assert_whole(folder, "first", "second")


def test_dvc_removes_it_where_its_record_is_not(folder: Path) -> None:
    """As it removes what it has checked out itself."""
    add(folder, "first")
    commit_all(folder)
    execute(folder, "git", "rm", "--quiet", f"{SETS}/first.dvc")
    execute(folder, "dvc", "checkout", "--allow-missing")
    assert_whole(folder)
    execute(folder, "git", "checkout", "--quiet", "HEAD", ".")
    execute(folder, "dvc", "checkout", "--allow-missing")
    assert_whole(folder, "first")


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "copy"])
def test_it_is_linked_to_the_cache_as_the_person_wants(folder: Path, kind: str) -> None:
    execute(folder, "dvc", "config", "cache.type", kind)
    add(folder, "first")
    path = folder / SETS / "first" / "inner" / "file.txt"
    assert path.is_symlink() == (kind == "symlink")
    assert path.lstat().st_nlink == (2 if kind == "hardlink" else 1)
    assert path.resolve().is_relative_to(folder / ".dvc" / "cache") == (kind == "symlink")
    assert_whole(folder, "first")


def test_without_git(folder: Path) -> None:
    execute(folder, "rm", "-r", ".git")
    execute(folder, "dvc", "config", "core.no_scm", "true")
    add(folder, "first")
    assert_whole(folder, "first")


def test_in_a_subfolder_of_the_dvc_repository(folder: Path) -> None:
    (folder / "sub" / SETS).mkdir(parents=True)
    (folder / "sub" / SETS / ".gitignore").touch()
    add(folder / "sub", "first")
    assert_whole(folder / "sub", "first")


def test_outside_of_any_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="is in no DVC repository"):
        add(tmp_path, "first")
    assert list(tmp_path.iterdir()) == []


def test_it_waits_for_a_stage_that_reads_the_folder(folder: Path) -> None:
    """The stage is recorded with the batches that it has seen, and is stale then."""
    repro = subprocess.Popen(["dvc", "repro"], cwd=folder, env=subprocess_environment())
    wait_until((folder / "seen").exists)
    said: list[str] = []
    adding = Thread(target=add, args=(folder, "first", said.append))
    adding.start()
    try:
        wait_until(lambda: said)
        assert not (folder / SETS / "first.dvc").exists()
    finally:
        (folder / "go").touch()
        adding.join()
        assert repro.wait() == 0
    (line,) = said
    assert line.startswith("waiting for process ")
    assert line.endswith("dvc repro")
    assert_whole(folder, "first")
    assert (folder / "seen").read_text() == ""
    assert "modified:           data/sets" in execute(folder, "dvc", "status")
    execute(folder, "dvc", "repro")
    assert (folder / "seen").read_text() == "data/sets/first/inner/file.txt"


def test_one_process_adds_at_a_time_and_a_killed_one_leaves_nothing(folder: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    assert holder.stdout.readline() == "holds\n"
    (left,) = (folder / SETS).parent.glob(".sets-*.partial")
    said: list[str] = []
    adding = Thread(target=add, args=(folder, "first", said.append))
    adding.start()
    wait_until(lambda: said)
    assert said == ["waiting for another process that adds data here"]
    assert left.exists()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    adding.join()
    assert_whole(folder, "first")


def test_what_a_kill_left_undone_is_completed_from_the_cache(folder: Path) -> None:
    add(folder, "first")
    add(folder, "second")
    execute(folder, "rm", "-r", str(SETS / "first"))
    add(folder, "third")
    assert_whole(folder, "first", "second", "third")


def test_a_batch_that_the_cache_does_not_have_whole_is_left_alone(folder: Path) -> None:
    add(folder, "first")
    execute(folder, "rm", "-r", str(SETS / "first"))
    for path in (folder / ".dvc" / "cache" / "files").rglob("*"):
        if path.is_file() and path.suffix != ".dir":
            path.unlink()
    add(folder, "second")
    assert (folder / SETS / "first.dvc").exists()
    assert not (folder / SETS / "first").exists()


@pytest.mark.parametrize("taken", ["first", "first.dvc"])
def test_what_is_there_already_is_never_replaced(folder: Path, taken: str) -> None:
    """Even if somebody else puts it there while the batch is built."""
    with hold_folder(folder, SETS, print) as held:
        assert not held.holds("first")
        (held.scratch / "first").mkdir()
        (held.scratch / "first" / "file.txt").write_text("new")
        (folder / SETS / taken).write_text("of somebody else")
        with pytest.raises(PipelineError, match=f"{taken} is there already"):
            held.add("first", push=False)
        assert held.holds("first")
    assert set(files_under(folder / SETS)) == {".gitignore", taken}


def test_it_is_on_the_remote_before_it_is_here(folder: Path, tmp_path: Path) -> None:
    execute(folder, "dvc", "remote", "add", "--default", "storage", "../storage")
    add(folder, "first", push=True)
    commit_all(folder)
    execute(tmp_path, "git", "clone", "--quiet", str(folder), "clone")
    execute(tmp_path / "clone", "dvc", "pull", "--quiet", f"{SETS}/first.dvc")
    assert_whole(tmp_path / "clone", "first")


def test_a_remote_that_fails_leaves_all_as_it_was(folder: Path) -> None:
    execute(folder, "dvc", "remote", "add", "--default", "storage", "/proc/no/folder")
    with pytest.raises(PipelineError, match=r"dvc push first.dvc failed: .*; nothing is added"):
        add(folder, "first", push=True)
    assert_whole(folder)


def test_commits_of_two_clones_merge(folder: Path, tmp_path: Path) -> None:
    execute(folder, "dvc", "remote", "add", "--default", "storage", str(tmp_path / "storage"))
    commit_all(folder)
    execute(tmp_path, "git", "clone", "--quiet", str(folder), "clone")
    for root, batch in ((folder, "first"), (tmp_path / "clone", "second")):
        add(root, batch, push=True)
        commit_all(root)
    execute(folder, *GIT, "pull", "--quiet", "--no-rebase", "--no-edit", str(tmp_path / "clone"))
    execute(folder, "dvc", "pull", "--quiet", f"{SETS}/second.dvc")
    assert_whole(folder, "first", "second")
