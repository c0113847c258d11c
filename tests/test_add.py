"""The command `add` in real repositories with the sample of real digits."""

import json
import os
import re
import shutil
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
from helpers import files_under
from PIL import Image
from sample import make_sample
from toy import GIT, commit_all, execute

from benchmarks.other_writers import picture, write_pictures
from pipeline.add import Request, add
from pipeline.errors import DataError, ParamsError
from pipeline.mnist.idx import read_raw
from pipeline.options import batch_name
from pipeline.paths import DATA_COUNTS, OWN, RAW
from pipeline.repository.processes import subprocess_environment

NO_SERVER = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the data set and no own images."""
    folder: Path = tmp_path_factory.mktemp("made")
    make_sample(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, a copy of `made` next to pictures of ten digits in ../in."""
    folder = tmp_path / "a workspace é"
    shutil.copytree(made, folder, symlinks=True)
    write_pictures(tmp_path / "in", range(10))
    monkeypatch.chdir(folder)
    return folder


def add_here(*paths: str, label: str | None = None, **options: bool | str) -> None:
    defaults: dict[str, bool | str | None] = {"batch": None, "keep_going": False, "commit": False}
    add(Request(list(paths), label, **(defaults | options)))  # type: ignore[arg-type]


def mnist(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=folder,
        env=subprocess_environment() | NO_SERVER,
        capture_output=True,
        text=True,
    )


def batches() -> list[str]:
    return sorted(path.stem for path in OWN.glob("*.dvc"))


def head(folder: Path) -> str:
    return execute(folder, "git", "log", "-1", "--format=%s")


def test_a_folder_is_added_and_the_command_says_how_to_keep_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_here("../in")
    (batch,) = batches()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-[0-9a-f]{6}", batch)
    counts = ", ".join(f"1 of {digit}" for digit in range(10))
    assert capsys.readouterr().out.splitlines() == [
        f"added 10 images: {counts}, in data/own/{batch}",
        "to keep them:",
        f"  git add data/own/{batch}.dvc",
        f"  git commit --message 'Add 10 images' data/own/{batch}.dvc",
    ]
    assert execute(folder, "git", "status", "--porcelain") == f"?? data/own/{batch}.dvc\n"
    assert execute(folder, "dvc", "status") == "Data and pipelines are up to date.\n"
    execute(folder, "sh", "-c", " && ".join(["git add data/own/*.dvc", git_commit("Add")]))
    assert execute(folder, "git", "status", "--porcelain") == ""


def git_commit(message: str) -> str:
    return f"{' '.join(GIT)} commit --quiet --message {message}"


def test_images_that_are_here_change_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_here("../in", batch="first")
    before = files_under(OWN)
    capsys.readouterr()
    add_here("../in")
    add_here("../in/5/0005.png", "../in/5/0005.png", label="5", batch="second")
    said = "here already, and not added again: {} of the files\n"
    assert capsys.readouterr().out == said.format(10) + said.format(2)
    assert files_under(OWN) == before


def test_a_fault_leaves_everything_as_it_was_unless_the_rest_is_wanted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test_image = read_raw(RAW, "test").images[3, 0]
    Image.fromarray(test_image).save(tmp_path / "in" / "0" / "of the test split.png")
    (tmp_path / "in" / "9" / "text.png").write_text("no image")
    before = files_under(folder)
    with pytest.raises(DataError) as refused:
        add_here("../in")
    assert str(refused.value).split("\nerror: ") == [
        "../in/0/of the test split.png is an image of sample's test split, which no model may be"
        " trained on; leave it out",
        "../in/9/text.png is not an image that can be read, such as PNG or JPEG",
    ]
    assert capsys.readouterr().out == ""
    locks = {".dvc/tmp/add.lock"}
    assert {name: text for name, text in files_under(folder).items() if name not in locks} == before
    with pytest.raises(DataError) as again:
        add_here("../in", keep_going=True, batch="rest")
    assert str(again.value) == str(refused.value)
    assert capsys.readouterr().out.startswith("added 10 images: ")
    assert batches() == ["rest"]


@pytest.mark.parametrize(
    ("paths", "options", "error", "said"),
    [
        (["../in"], {"batch": "old"}, ParamsError, "data/own/old is there already; choose another"),
        (["../in", "../in"], {}, ParamsError, "name one folder with a subfolder for each class"),
        (["../in/5/0005.png"], {}, ParamsError, "or give the class of the images: --label CLASS"),
        (["../in"], {"label": "x"}, DataError, "sample has no class 'x'; its classes are 0, 1, 2"),
        (["../in"], {"label": "5"}, DataError, "../in cannot be read: Is a directory"),
        (["../nowhere"], {}, DataError, "../nowhere cannot be read: No such file or directory"),
        (["../empty"], {}, DataError, "../empty holds no images; it must have folders of classes"),
    ],
)
def test_what_cannot_be_added_is_one_line(
    folder: Path,
    paths: list[str],
    options: dict[str, str],
    error: type[Exception],
    said: str,
) -> None:
    Path("../empty").mkdir()
    (OWN / "old.dvc").touch()
    (OWN / "old").mkdir()
    before = files_under(OWN)
    with pytest.raises(error) as raised:
        add_here(*paths, **options)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert files_under(OWN) == before


@pytest.mark.parametrize("name", ["a/b", "..", ".x", "-x", "a.dvc", "a b", "é", "", "x" * 101])
def test_a_batch_has_a_plain_name(name: str) -> None:
    with pytest.raises(ArgumentTypeError, match="must be letters, digits, dots, dashes and"):
        batch_name(name)


def test_without_the_data_set_one_line_says_how_to_get_it(folder: Path) -> None:
    """So it does in a subfolder of the repository, as other commands do."""
    result = mnist(folder / "data", "add", "../../in")
    said = "error: data/raw/dataset.json is missing; run the fetch stage: dvc repro fetch\n"
    assert (result.returncode, result.stderr) == (3, said)
    assert not (folder / "data" / "data").exists()


def test_files_of_any_name_in_any_locale(folder: Path, tmp_path: Path) -> None:
    inside = tmp_path / "in" / "5"
    (inside / "0005.png").rename(inside / "é\n.png")
    picture(15).save(inside / "15.png")
    (inside / "15.png").rename(inside / os.fsdecode(b"\xff.png"))
    (inside / "text\n.png").write_text("no image")
    command = [sys.executable, "-m", "pipeline", "add", "../in", "--keep-going"]
    result = subprocess.run(
        command, cwd=folder, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}, capture_output=True
    )
    assert result.returncode == 3, result.stderr
    assert result.stdout.startswith(b"added 11 images: ")
    (line,) = result.stderr.splitlines()
    assert line.startswith(b"error: '../in/5/text\\n.png' is not an image")


def test_a_commit_holds_the_batch_and_nothing_else(folder: Path) -> None:
    (folder / "staged").touch()
    execute(folder, "git", "add", "staged")
    (folder / ".gitignore").write_text("*.pyc\n")
    hook = folder / ".git" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    result = mnist(folder, "add", "../in", "--batch", "first", "--commit")
    assert result.returncode == 0, result.stderr
    commit = execute(folder, "git", "rev-parse", "--short=7", "HEAD").strip()
    assert result.stdout.splitlines()[1:] == [f"committed {commit} on main"]
    shown = execute(folder, "git", "show", "--name-status", "--format=%B")
    assert shown.splitlines()[0] == "Add 10 images"
    assert shown.splitlines()[-1] == "A\tdata/own/first.dvc"
    changed = execute(folder, "git", "status", "--porcelain").splitlines()
    assert changed == [" M .gitignore", "A  staged"]


def test_a_team_gets_what_is_committed(folder: Path, tmp_path: Path) -> None:
    execute(folder, "dvc", "remote", "add", "--default", "storage", "../storage")
    commit_all(folder)
    result = mnist(folder, "add", "../in", "--batch", "first")
    assert result.stdout.splitlines()[2] == "  dvc push data/own/first.dvc"
    picture(15).save(tmp_path / "15.png")
    result = mnist(folder, "add", "--label", "5", "../15.png", "--batch", "second", "--commit")
    assert result.stdout.splitlines()[1] == "pushed to DVC's remote"
    execute(tmp_path, "git", "clone", "--quiet", str(folder), "clone")
    execute(tmp_path / "clone", "dvc", "pull", "--quiet")
    pulled = {path.parent.parent.name for path in (tmp_path / "clone" / OWN).rglob("*.png")}
    assert pulled == {"first", "second"}  # what was left uncommitted, too


def test_a_remote_that_fails_leaves_nothing_to_commit(folder: Path) -> None:
    execute(folder, "dvc", "remote", "add", "--default", "storage", "/proc/no/folder")
    commit_all(folder)
    result = mnist(folder, "add", "../in", "--commit")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert re.fullmatch(r"error: dvc push \S+\.dvc failed: .+; nothing is added", line)
    assert batches() == []
    assert head(folder) == "all\n"
    assert execute(folder, "git", "status", "--porcelain") == ""
    add_here("../in", batch="first")
    result = mnist(folder, "add", "../in", "--commit")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: dvc push data/own/first.dvc failed: ")
    assert line.endswith("; nothing is added, and nothing committed")
    assert head(folder) == "all\n"


def test_what_a_kill_left_uncommitted_is_committed_and_named(folder: Path, tmp_path: Path) -> None:
    """Also what was staged, and what lies here when other images are added."""
    add_here("../in", batch="first")
    (OWN / "README.md").write_text("changed")
    said = [
        "committed {} on main",
        "not committed before, and in this commit: data/own/first.dvc",
        "here already, and not added again: 10 of the files",
    ]
    again = ("add", "../in", "--batch", "first", "--commit")
    assert mnist(folder, *again).stdout.splitlines() == with_commit(folder, said)
    assert head(folder) == "Add first\n"
    assert mnist(folder, *again).stdout.splitlines() == said[2:]
    execute(folder, "git", "reset", "--quiet", "--soft", "HEAD~")
    assert mnist(folder, *again).stdout.splitlines() == with_commit(folder, said)
    assert execute(folder, "git", "status", "--porcelain") == "?? data/own/README.md\n"
    execute(folder, "git", "reset", "--quiet", "HEAD~")
    picture(15).save(tmp_path / "15.png")
    new = mnist(folder, "add", "--label", "5", "../15.png", "--batch", "second", "--commit")
    assert new.stdout.splitlines()[1:] == with_commit(folder, said[:2])
    assert head(folder) == "Add 1 image\n"
    assert execute(folder, "git", "status", "--porcelain") == "?? data/own/README.md\n"


def with_commit(folder: Path, lines: list[str]) -> list[str]:
    commit = execute(folder, "git", "rev-parse", "--short=7", "HEAD").strip()
    return [line.format(commit) for line in lines]


def test_a_workspace_in_a_subfolder_of_a_git_repository(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = folder / "inside"
    inside.mkdir()
    execute(folder, "git", "rm", "--quiet", "--cached", "-r", ".dvc", "data")
    for name in (".dvc", "data"):
        shutil.move(folder / name, inside / name)
    monkeypatch.chdir(inside)
    execute(inside, "dvc", "init", "--force", "--quiet", "--subdir")
    commit_all(folder)
    add_here("../../in", batch="first")
    capsys.readouterr()
    result = mnist(inside, "add", "../../in", "--commit")
    assert result.stdout.splitlines()[1].endswith(": data/own/first.dvc"), result.stderr
    shown = execute(folder, "git", "show", "--name-only", "--format=")
    assert shown == "inside/data/own/first.dvc\n"


def merge(folder: Path) -> None:
    """Begin a merge with a conflict."""
    for branch in ("main", "other"):
        execute(folder, "git", "switch", "--quiet", *["--create"] * (branch == "other"), branch)
        (folder / "file").write_text(branch)
        commit_all(folder)
        if branch == "main":
            execute(folder, "git", "branch", "base", "HEAD~")
    execute(folder, "git", "switch", "--quiet", "main")
    (folder / "file").write_text("third")
    commit_all(folder)
    assert subprocess.run([*GIT, "merge", "other"], cwd=folder, capture_output=True).returncode


def lock_index(folder: Path) -> None:
    (folder / ".git" / "index.lock").touch()


@pytest.mark.parametrize("hinder", [merge, lock_index])
def test_where_git_refuses_the_batch_is_added_and_not_staged(folder: Path, hinder: object) -> None:
    assert callable(hinder)
    hinder(folder)
    before = execute(folder, "git", "ls-files", "--stage")
    result = mnist(folder, "add", "../in", "--batch", "first", "--commit")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert re.fullmatch(
        r"error: they are not committed: git .+; do it later: git add data/own/first.dvc"
        r" && git commit --message 'Add 10 images' data/own/first.dvc",
        line,
    )
    assert execute(folder, "git", "ls-files", "--stage") == before
    assert batches() == ["first"]
    assert len(list((OWN / "first").rglob("*.png"))) == 10


def test_on_no_branch_and_on_an_unborn_one(folder: Path, tmp_path: Path) -> None:
    execute(folder, "git", "checkout", "--quiet", "--detach")
    picture(15).save(tmp_path / "15.png")
    result = mnist(folder, "add", "--label", "5", "../15.png", "--commit")
    assert "on no branch; git switch --create NAME keeps it" in result.stdout
    assert head(folder) == "Add 1 image\n"
    execute(folder, "git", "checkout", "--quiet", "--orphan", "new")
    result = mnist(folder, "add", "../in", "--batch", "first", "--commit")
    assert "on new" in result.stdout, result.stderr
    committed = execute(folder, "git", "ls-tree", "-r", "--name-only", "HEAD").splitlines()
    assert sorted(committed) == [f"data/own/{batch}.dvc" for batch in batches()]


def test_without_git_there_is_nothing_to_commit(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(folder / ".git")
    execute(folder, "dvc", "config", "core.no_scm", "true")
    add_here("../in", batch="first")
    assert len(capsys.readouterr().out.splitlines()) == 1
    with pytest.raises(ParamsError, match="--commit needs a Git repository"):
        add_here("../in", commit=True)


def test_a_batch_that_is_not_pulled_is_named(folder: Path) -> None:
    """Its images could be here under another label."""
    add_here("../in", batch="first")
    shutil.rmtree(OWN / "first")
    shutil.rmtree(folder / ".dvc" / "cache")
    with pytest.raises(DataError, match=r"first.dvc is here, but not its images; .*dvc pull"):
        add_here("../in/5/0005.png", label="5")
    assert batches() == ["first"]


def test_what_was_imported_is_known(folder: Path, tmp_path: Path) -> None:
    execute(folder, "dvc", "import-url", "--quiet", str(tmp_path / "in"), "data/own/imported")
    with pytest.raises(DataError, match=r"labelled 4, .* labelled 5 in data/own/imported/5/0005"):
        add_here("../in/5/0005.png", label="4")
    picture(15).save(tmp_path / "15.png")
    add_here("../in/5/0005.png", "../15.png", label="5", batch="first")
    assert len(list((OWN / "first").rglob("*.png"))) == 1
    picture(16).save(tmp_path / "16.png")
    with pytest.raises(ParamsError, match="data/own/imported is there already"):
        add_here("../16.png", label="6", batch="imported")


def test_the_graph_runs_with_what_is_added_and_is_as_before_without(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`git rm` and `dvc checkout` take a batch away."""
    monkeypatch.chdir(repository)
    before = Path("dvc.lock").read_bytes()
    write_pictures(tmp_path / "in", range(60))
    add_here("../in", batch="first")
    assert "Running stage 'preprocess'" in execute(repository, "dvc", "repro", "preprocess")
    counts = json.loads(DATA_COUNTS.read_text())["images"]["own"]
    assert sum(number for split in counts.values() for number in split.values()) == 60
    commit_all(repository)
    execute(repository, "git", "rm", "--quiet", "data/own/first.dvc")
    execute(repository, "dvc", "checkout")
    assert not (OWN / "first").exists()
    assert "Stage 'preprocess' is cached" in execute(repository, "dvc", "repro")
    assert Path("dvc.lock").read_bytes() == before
