"""Imported data that change where they were imported from, against a real server and real DVC."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect_api import Api, calling
from ruamel.yaml import YAML
from test_retrain import retrain_now
from toy import GIT, append, commit_all, execute, make_model_workspace, start_pipeline

# At the end of train: each image teaches to read four more
LEARN = """
skill = params["skill"] + 4 * len(list(Path("data").rglob("*.png")))
Path("model.txt").write_text(f"{skill} {params['shift']}")
"""

NAMES = ("bucket", "share", "digits")


def make_importing_workspace(folder: Path) -> Path:
    """A model workspace with three imports: of folders, by a relative and by an absolute path, and
    of another repository's data. Everything is committed, and nothing has run.
    """
    bucket, other = folder.parent / "bucket", folder.parent / "other"
    for source in (bucket, folder.parent / "share", other / "digits"):
        source.mkdir(parents=True)
        (source / "first.png").write_text("first")
    for program in ("git", "dvc"):
        execute(other, program, "init", "--quiet")
    execute(other, "dvc", "add", "--quiet", "digits")
    commit_all(other)
    make_model_workspace(folder)
    (folder / "data").mkdir()
    graph = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(graph.replace("deps: [train.py]", "deps: [train.py, data]"))
    append(folder / "train.py", LEARN)
    for command in (
        ("import-url", "../../bucket", "data/bucket"),
        ("import-url", str(folder.parent / "share"), "data/share"),
        ("import", "../other", "digits", "--out", "data/digits"),
    ):
        execute(folder, "dvc", *command, "--quiet")
    commit_all(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = make_importing_workspace(tmp_path / "toy")
    monkeypatch.chdir(folder)
    with calling(api):
        yield folder


def add_image(source: Path, name: str) -> None:
    (source / name).write_text(name)
    if source.name == "digits":
        execute(source.parent, "dvc", "add", "--quiet", "digits")
        execute(source.parent, *GIT, "commit", "--quiet", "--all", "-m", "more")


def sources_of(folder: Path) -> list[Path]:
    return [folder.parent / name for name in ("bucket", "share", "other/digits")]


def imported(folder: Path, commit: str) -> list[str]:
    """The .dvc files of the imports in a commit."""
    return [execute(folder, "git", "show", f"{commit}:data/{name}.dvc") for name in NAMES]


def test_each_night_takes_what_the_sources_have_then(folder: Path, api: Api) -> None:
    """The new data are the champion's, and reach a clone; HEAD keeps the older .dvc files."""
    execute(folder, "dvc", "remote", "add", "--default", "storage", "../storage")
    commit_all(folder)
    before = imported(folder, "HEAD")
    assert retrain_now(update=True) == (
        "Published",
        "toy@v1.0.0: accuracy 81.00%, and no champion yet",
    )
    for source in sources_of(folder):
        add_image(source, "second.png")
    assert retrain_now() == ("Unchanged", "champion has this model already")
    name, message = retrain_now(update=True)
    assert (name, message[:27]) == ("Published", "toy@v1.1.0: accuracy 87.00%")
    lines = api.logs(api.last_run(), containing="new data")
    assert sum(line.endswith(".dvc: new data") for line in lines) == 3
    assert retrain_now(update=True) == ("Unchanged", "champion has this model already")
    assert imported(folder, "HEAD") == before
    assert not set(imported(folder, "champion")) & set(before)
    assert execute(folder, "git", "status", "--porcelain") == ""

    for source in sources_of(folder)[:2]:
        shutil.rmtree(source)
    execute(folder.parent, "git", "clone", "--quiet", "--branch", "champion", "toy", "clone")
    execute(folder.parent / "clone", "dvc", "pull")
    images = (folder.parent / "clone" / "data").rglob("*.png")
    assert sorted(path.name for path in images) == ["first.png"] * 3 + ["second.png"] * 3


def test_a_source_that_is_away_costs_no_night(folder: Path, api: Api) -> None:
    """The others are updated. Its last state is used, which is the champion's if that is newer."""
    bucket, share, digits = sources_of(folder)
    bucket.rename(folder / "away")
    add_image(share, "second.png")
    assert retrain_now(update=True)[1].startswith("toy@v1.0.0: accuracy 83.00%")
    lines = api.logs(api.last_run(), containing="is not updated")
    assert [line for line in lines if "is not updated" in line] == [
        "data/bucket.dvc is not updated, its last state is used:"
        f" dependency '{bucket}' does not exist"
    ]
    assert "data/share.dvc: new data" in lines

    for source in (share, digits.parent):
        source.rename(folder / source.name)
    assert retrain_now(update=True) == ("Unchanged", "champion has this model already")
    lines = api.logs(api.last_run(), containing="is not updated")
    assert sum("is not updated" in line for line in lines) == 3
    assert any(str(digits.parent) in line or "../other" in line for line in lines)


@pytest.mark.slow
def test_a_source_that_fails_half_way_leaves_its_last_state(folder: Path, api: Api) -> None:
    bucket = sources_of(folder)[0]
    (bucket / "second.png").symlink_to("nowhere")
    assert retrain_now(update=True)[1].startswith("toy@v1.0.0: accuracy 81.00%")
    [line] = [
        line
        for line in api.logs(api.last_run(), containing="is not updated")
        if "is not updated" in line
    ]
    assert line.startswith("data/bucket.dvc is not updated")
    assert "second.png" in line


@pytest.mark.slow
def test_a_retraining_that_asks_no_source_keeps_the_champions_data(folder: Path, api: Api) -> None:
    """HEAD's .dvc file is older."""
    add_image(sources_of(folder)[1], "second.png")
    retrain_now(update=True)
    newest = imported(folder, "champion")
    assert newest != imported(folder, "HEAD")
    assert retrain_now(changes={"train.skill": 160})[1].startswith("toy@v1.1.0: accuracy 88.00%")
    assert imported(folder, "champion") == newest
    assert "data/share.dvc: the champion's, which is newer" in api.logs(
        api.last_run(), containing="champion's"
    )


@pytest.mark.slow
def test_a_sweep_is_on_the_champions_data(folder: Path, api: Api) -> None:
    """Both its trials and what it publishes."""
    add_image(sources_of(folder)[1], "second.png")
    retrain_now(update=True)
    newest = imported(folder, "champion")
    process = start_pipeline(folder, api.url, "sweep", "--set", "train.skill=170", "--publish")
    output = process.communicate()[0]
    assert "toy@v1.1.0: accuracy 93.00%" in output, output
    assert output.count("Running stage 'train'") == 1, output
    assert imported(folder, "champion") == newest


@pytest.mark.slow
def test_newer_data_that_are_gone_cost_no_retraining(folder: Path, api: Api) -> None:
    share = sources_of(folder)[1]
    older = imported(folder, "HEAD")
    add_image(share, "second.png")
    retrain_now(update=True)
    record = YAML(typ="safe").load(imported(folder, "champion")[NAMES.index("share")])
    hash_value = record["outs"][0]["md5"]
    (folder / ".dvc/cache/files/md5" / hash_value[:2] / hash_value[2:]).unlink()
    shutil.rmtree(share)
    assert retrain_now(changes={"train.skill": 170})[1].startswith("toy@v1.1.0: accuracy 91.00%")
    gone = "data/share.dvc: the champion's newer data are gone; the commit's are used"
    assert gone in api.logs(api.last_run(), containing="gone")
    assert imported(folder, "champion") == older


@pytest.mark.slow
def test_what_a_person_has_updated_since_is_newer_than_the_champion(folder: Path) -> None:
    share = sources_of(folder)[1]
    add_image(share, "second.png")
    assert retrain_now(update=True)[1].startswith("toy@v1.0.0: accuracy 83.00%")
    add_image(share, "third.png")
    execute(folder, "dvc", "update", "--quiet", "data/share.dvc")
    commit_all(folder)
    share.rename(folder / "away")
    assert retrain_now(update=True)[1].startswith("toy@v1.1.0: accuracy 85.00%")


@pytest.mark.slow
def test_runs_on_updated_data_are_shared(tmp_path: Path, api: Api) -> None:
    """Another machine restores what this one has run on data that no commit has."""
    folder = make_importing_workspace(tmp_path / "toy")
    execute(folder, "dvc", "remote", "add", "--default", "storage", "../storage")
    commit_all(folder)
    execute(tmp_path, "git", "clone", "--quiet", "--depth", "1", f"file://{folder}", "second")
    for source in sources_of(folder):
        add_image(source, "second.png")
    outputs = []
    for clone in (folder, tmp_path / "second"):
        process = start_pipeline(clone, api.url, "retrain", "--update", "--set", "gate.minimum=0.9")
        outputs.append(process.communicate()[0])
        assert process.returncode == 0, outputs
    assert "Running stage 'train'" in outputs[0]
    assert "Running stage" not in outputs[1], outputs[1]
    assert all("accuracy 87.00% is below" in output for output in outputs)
