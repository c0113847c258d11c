"""Publishing in real repositories with real remotes: what moves, what stays, what is completed."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gto.constants import name_re
from toy import GIT, commit_all, execute

from pipeline.errors import PipelineError
from pipeline.release.champion import (
    check_target,
    promote,
    publish,
    publish_lock,
    reconcile,
)
from pipeline.release.tags import SOURCE_TRAILER, champion_version, read_trailer, stage_of
from pipeline.release.versions import list_versions
from pipeline.repository.git import GitError, git
from pipeline.repository.refs import BranchMovedError, Target


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    execute(tmp_path, "cp", "-r", str(trained), "checkout")
    return tmp_path / "checkout"


MADE_FROM = "Retrained-from: 486c5a5c8f3f01b66ae6502171f7b462856f471c"
REFS = ["refs/heads/champion", "refs/tags/toy#prod#1", "refs/tags/toy@v1.0.0"]


@pytest.fixture
def target(folder: Path) -> Target:
    return Target(folder, "toy", "champion", None)


@pytest.fixture
def shared(folder: Path, tmp_path: Path) -> Target:
    """A target with a Git remote and a DVC remote, which are folders."""
    execute(tmp_path, "git", "init", "--quiet", "--bare", "remote.git")
    execute(folder, "git", "remote", "add", "origin", "../remote.git")
    execute(folder, "dvc", "remote", "add", "--default", "storage", "../storage")
    commit_all(folder)
    return Target(folder, "toy", "champion", "origin")


def publish_now(target: Target, **files: str) -> str:
    with publish_lock(target):
        tip = reconcile(target)
        content = {name.replace("_", "."): text.encode() for name, text in files.items()}
        return publish(
            target, "HEAD", content, tip, "Publish {version}", f"For a reason\n\n{MADE_FROM}"
        )


def refs(repository: Path) -> dict[str, str]:
    lines = execute(
        repository, "git", "for-each-ref", "--format=%(refname) %(objectname)"
    ).splitlines()
    return dict(
        line.split() for line in lines if not line.startswith(("refs/heads/main", "refs/remotes"))
    )


def state_of_checkout(folder: Path) -> tuple[Any, ...]:
    kept = ("HEAD", "index", "refs/heads/main")
    return execute(folder, "git", "status", "--porcelain"), [
        (folder / ".git" / name).read_bytes() for name in kept
    ]


def test_a_version_is_a_commit_on_the_branch_and_two_tags(target: Target, folder: Path) -> None:
    (folder / "train.py").write_text("half an edit")
    execute(folder, "git", "add", "train.py")
    before = state_of_checkout(folder)
    assert publish_now(target, notes_md="one") == "toy@v1.0.0"
    assert publish_now(target, notes_md="two") == "toy@v1.1.0"
    assert state_of_checkout(folder) == before
    log = execute(folder, "git", "log", "--format=%s|%p", "champion").splitlines()
    assert [line.split("|")[0] for line in log] == [
        "Publish toy@v1.1.0",
        "Publish toy@v1.0.0",
        "all",
        "all",
    ]
    assert all(" " not in line.split("|")[1] for line in log), "history is a line"
    assert execute(folder, "git", "show", "champion:notes.md") == "two"
    assert execute(folder, "git", "diff", "--name-only", "main", "champion") == "notes.md\n"
    for tag in ("toy@v1.1.0", "toy#prod#2"):
        assert git(folder, "cat-file", "-t", tag) == "tag"
        assert git(folder, "rev-parse", f"{tag}^{{commit}}") == git(folder, "rev-parse", "champion")
    assert champion_version(folder, "champion") == "toy@v1.1.0"
    assert reconcile(target) == git(folder, "rev-parse", "champion")
    assert len(refs(folder)) == 5


def test_a_champion_follows_the_champion_or_the_code_that_holds_it(
    target: Target, folder: Path
) -> None:
    """The parent is the champion, unless the code holds the champion already."""
    publish_now(target, notes_md="one")
    execute(folder, *GIT, "commit", "-q", "--allow-empty", "-m", "newer")
    publish_now(target, notes_md="two")
    assert git(folder, "rev-parse", "champion~1") == git(folder, "rev-parse", "toy@v1.0.0^{commit}")
    execute(folder, "git", "reset", "--quiet", "--hard", "champion")
    publish_now(target, notes_md="three")
    assert git(folder, "rev-parse", "champion~1") == git(folder, "rev-parse", "HEAD")


@pytest.mark.slow
def test_dvc_fetches_a_version_or_what_is_in_production(
    target: Target, folder: Path, tmp_path: Path
) -> None:
    publish_now(target)
    (folder / "params.yaml").write_text((folder / "params.yaml").read_text().replace("150", "160"))
    execute(folder, "dvc", "repro")
    commit_all(folder)
    publish_now(target)
    get = ("dvc", "artifacts", "get", str(folder), "toy")
    for number, (wanted, model) in enumerate(
        [(("--rev", "v1.0.0"), "150 0"), (("--stage", "prod"), "160 0")]
    ):
        execute(tmp_path, *get, *wanted, "--out", f"model-{number}")
        assert (tmp_path / f"model-{number}").read_text() == model
    assert promote(target, "v1.0.0") == "toy@v1.0.0 is now the champion of the branch champion"
    execute(tmp_path, *get, "--stage", "prod", "--out", "again")
    assert (tmp_path / "again").read_text() == "150 0"
    shown = execute(folder, sys.executable, "-m", "pipeline", "models").splitlines()
    assert [line.split()[:2] + line.split()[-1:] for line in shown] == [
        ["version", "stage", "accuracy"],
        ["v1.1.0", "-", "0.8"],
        ["v1.0.0", "prod", "0.75"],
    ]
    assert [(v.name, v.stages, v.metrics) for v in list_versions(folder, "toy")] == [
        ("v1.1.0", (), {"accuracy": 0.8}),
        ("v1.0.0", ("prod",), {"accuracy": 0.75}),
    ]


def test_a_promotion_follows_the_champion(target: Target, folder: Path) -> None:
    publish_now(target, notes_md="one")
    publish_now(target, notes_md="two")
    before = git(folder, "rev-parse", "champion")
    promote(target, "v1.0.0")
    assert git(folder, "rev-parse", "champion~1") == before
    assert git(folder, "rev-parse", "champion^{tree}") == git(
        folder, "rev-parse", "toy@v1.0.0^{tree}"
    )
    assert_it_says_what_it_was_made_from(folder, "champion")
    after = refs(folder)
    already = "toy@v1.0.0 is the champion of the branch champion already"
    assert promote(target, "toy@v1.0.0") == already
    assert refs(folder) == after
    assert publish_now(target, notes_md="three") == "toy@v1.2.0"
    with pytest.raises(PipelineError) as raised:
        promote(target, "v9.0.0")
    assert (
        str(raised.value) == "there is no version v9.0.0 of toy; there are: v1.0.0, v1.1.0, v1.2.0"
    )


def assert_it_says_what_it_was_made_from(folder: Path, branch: str) -> None:
    assert read_trailer(folder, branch, SOURCE_TRAILER) == MADE_FROM.split()[1]


def test_a_branch_that_somebody_has_checked_out_is_refused(
    target: Target, folder: Path, tmp_path: Path
) -> None:
    check_target(target)
    execute(
        folder, "git", "worktree", "add", "--quiet", "-b", "champion", str(tmp_path / "elsewhere")
    )
    for branch, where in (("champion", tmp_path / "elsewhere"), ("main", folder)):
        with pytest.raises(PipelineError) as raised:
            check_target(Target(folder, "toy", branch, None))
        assert str(raised.value).startswith(f"{branch} is checked out in {where}, ")
        assert "\n" not in str(raised.value)
    with pytest.raises(PipelineError, match=r"a\.\.b is no name for a branch"):
        check_target(Target(folder, "toy", "a..b", None))


def test_a_branch_that_was_moved_is_left_alone(target: Target, folder: Path) -> None:
    publish_now(target, notes_md="one")
    outdated = git(folder, "rev-parse", "champion")
    publish_now(target, notes_md="two")
    before = refs(folder)
    with publish_lock(target), pytest.raises(BranchMovedError):
        publish(target, "HEAD", {}, outdated, "Publish {version}", "")
    with publish_lock(target), pytest.raises(BranchMovedError):
        publish(target, "HEAD", {}, None, "Publish {version}", "")
    assert refs(folder) == before
    assert publish_now(target, notes_md="three") == "toy@v1.2.0"


def test_both_remotes_get_what_they_need(shared: Target, folder: Path, tmp_path: Path) -> None:
    publish_now(shared)
    assert refs(folder) == refs(tmp_path / "remote.git")
    assert sorted(refs(folder)) == REFS
    execute(tmp_path, "git", "clone", "--quiet", "--branch", "champion", "remote.git", "clone")
    execute(tmp_path / "clone", "dvc", "pull")
    assert (tmp_path / "clone" / "model.txt").read_text() == "150 0"


def test_a_push_that_is_refused_changes_nothing(
    shared: Target, folder: Path, tmp_path: Path
) -> None:
    publish_now(shared, notes_md="one")
    before = refs(folder)
    hook = tmp_path / "remote.git" / "hooks" / "update"
    hook.write_text("#!/bin/sh\ncase $1 in refs/tags/*@*) echo no more versions; exit 1;; esac\n")
    hook.chmod(0o755)
    with pytest.raises(GitError) as raised:
        publish_now(shared, notes_md="two")
    assert "remote: no more versions" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert refs(folder) == refs(tmp_path / "remote.git") == before
    hook.unlink()
    assert publish_now(shared, notes_md="two") == "toy@v1.1.0"
    assert refs(folder) == refs(tmp_path / "remote.git") != before


def test_data_that_cannot_be_pushed_is_not_published(
    shared: Target, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "storage").write_text("no folder")
    with pytest.raises(GitError, match="dvc push was refused: ERROR: "):
        publish_now(shared)
    assert refs(folder) == refs(tmp_path / "remote.git") == {}


def test_a_branch_that_moved_on_the_remote_is_left_alone_and_followed(
    shared: Target, folder: Path, tmp_path: Path
) -> None:
    publish_now(shared, notes_md="one")
    execute(folder, "git", "push", "--quiet", "origin", "main")
    execute(tmp_path, "git", "clone", "--quiet", "remote.git", "other", "--branch", "main")
    execute(tmp_path / "other", "git", "fetch", "--quiet", "origin", "champion:champion")
    other = Target(tmp_path / "other", "toy", "champion", "origin")
    tip = reconcile(shared)
    publish_now(other, notes_md="other")
    with publish_lock(shared), pytest.raises(BranchMovedError):
        publish(shared, "HEAD", {"notes.md": b"late"}, tip, "Publish {version}", "")
    assert refs(tmp_path / "remote.git") == refs(tmp_path / "other")
    assert reconcile(shared) == git(tmp_path / "other", "rev-parse", "champion")
    assert refs(folder) == refs(tmp_path / "remote.git")
    assert publish_now(shared, notes_md="late") == "toy@v1.2.0"


def test_branches_that_parted_are_refused_in_one_line(shared: Target, folder: Path) -> None:
    publish_now(shared, notes_md="one")
    local = Target(folder, "toy", "champion", None)
    base = git(folder, "rev-parse", "champion")
    publish_now(local, notes_md="two")
    execute(
        folder,
        "git",
        "push",
        "--quiet",
        "origin",
        f"{git(folder, *GIT[1:], 'commit-tree', base + '^{tree}', '-p', base)}:refs/heads/champion",
    )
    with pytest.raises(
        PipelineError, match="champion here and on origin have each what the other has not"
    ) as raised:
        reconcile(shared)
    assert "\n" not in str(raised.value)


def delete_refs(folder: Path, *names: str) -> None:
    for name in names:
        execute(folder, "git", "update-ref", "-d", name)


@pytest.mark.parametrize(
    ("lost_here", "lost_there"),
    [(REFS[1:], REFS), (REFS[2:], []), ([], REFS[1:]), (REFS, REFS[1:]), (REFS, []), (REFS, REFS)],
    ids=[
        "branch here",
        "tag missing here",
        "branch there",
        "branch there alone",
        "nothing here",
        "nothing",
    ],
)
def test_what_a_kill_left_out_is_completed(
    shared: Target, folder: Path, tmp_path: Path, lost_here: list[str], lost_there: list[str]
) -> None:
    publish_now(shared)
    whole = refs(folder)
    delete_refs(folder, *lost_here)
    delete_refs(tmp_path / "remote.git", *lost_there)
    reconcile(shared)
    assert (
        refs(folder)
        == refs(tmp_path / "remote.git")
        == ({} if lost_here == lost_there == REFS else whole)
    )


def champions(folder: Path) -> dict[str, str]:
    """Return the version that GTO has for each stage, as it and DVC choose it: the latest."""
    return {
        stage: version.name for version in list_versions(folder, "toy") for stage in version.stages
    }


def on_branch(target: Target, branch: str) -> Target:
    return replace(target, branch=branch)


def test_each_branch_has_its_own_line_of_champions(target: Target, folder: Path) -> None:
    team = on_branch(target, "team")
    publish_now(target, notes_md="one")
    assert publish_now(team, notes_md="two") == "toy@v1.1.0", "the versions are of all branches"
    assert champions(folder) == {"prod": "v1.0.0", "team": "v1.1.0"}
    assert {version.name: version.branch for version in list_versions(folder, "toy")} == {
        "v1.0.0": "champion",
        "v1.1.0": "team",
    }
    before = refs(folder)
    for each, version in ((target, "v1.0.0"), (team, "v1.1.0")):
        already = f"toy@{version} is the champion of the branch {each.branch} already"
        assert promote(each, version) == already
    assert refs(folder) == before


def test_a_version_of_another_branch_is_promoted(target: Target, folder: Path) -> None:
    """Also on a branch that is not there yet."""
    team, new = on_branch(target, "team"), on_branch(target, "new")
    publish_now(target, notes_md="one")
    publish_now(team, notes_md="two")
    now = "is now the champion of the branch"
    assert promote(target, "v1.1.0") == f"toy@v1.1.0 {now} champion"
    assert execute(folder, "git", "show", "champion:notes.md") == "two"
    assert promote(new, "v1.0.0") == f"toy@v1.0.0 {now} new"
    assert champions(folder) == {"prod": "v1.1.0", "team": "v1.1.0", "new": "v1.0.0"}
    shown = execute(folder, sys.executable, "-m", "pipeline", "models").splitlines()
    assert [re.split("  +", line)[:3] for line in shown] == [
        ["version", "stage", "branch"],
        ["v1.1.0", "prod, team", "team"],
        ["v1.0.0", "new", "champion"],
    ]
    command = ("promote", "v1.0.0", "--branch", "team")
    said = execute(folder, sys.executable, "-m", "pipeline", *command)
    assert said == f"toy@v1.0.0 {now} team\n"
    assert champions(folder) == {"prod": "v1.1.0", "team": "v1.0.0", "new": "v1.0.0"}


def test_a_branch_gives_its_stage_a_name_that_gto_and_git_find() -> None:
    assert [stage_of(branch) for branch in ("champion", "team", "my-team_2")] == [
        "prod",
        "team",
        "my-team_2",
    ]
    others = ["prod", "release/1.2", "release-1.2", "-x", "über", "é", "a#b"]
    stages = [stage_of(branch) for branch in others]
    assert len({*stages, *others}) == len(stages) + len(others)
    for stage in stages:
        assert name_re.fullmatch(stage)
        assert "/" not in stage


def test_a_branch_whose_name_is_no_stage_has_one(target: Target, folder: Path) -> None:
    for branch in ("prod", "release/1.2"):
        each = on_branch(target, branch)
        publish_now(each)
        whole = refs(folder)
        reconcile(each)
        assert refs(folder) == whole
    assert champions(folder) == {stage_of("prod"): "v1.0.0", stage_of("release/1.2"): "v1.1.0"}


def test_a_stage_that_another_branch_took_comes_back(target: Target, folder: Path) -> None:
    """Before each branch had a stage, every branch moved the stage prod."""
    publish_now(target, notes_md="one")
    publish_now(on_branch(target, "team"), notes_md="two")
    assigned = git(folder, "for-each-ref", "--format=%(refname)", "refs/tags/toy#team#2")
    execute(folder, "git", "update-ref", "-d", assigned)
    later = "GIT_COMMITTER_DATE=@3786912000 +0000"
    execute(folder, "env", later, *GIT, "tag", "-a", "-m", "-", "toy#prod#2", "team")
    assert champions(folder) == {"prod": "v1.1.0"}
    for branch in ("champion", "team", "champion"):
        reconcile(on_branch(target, branch))
    assert champions(folder) == {"prod": "v1.0.0", "team": "v1.1.0"}
    assert len(execute(folder, "git", "log", "--format=%s", "champion").splitlines()) == 4
    assert git(folder, "log", "-1", "--format=%s", "champion") == "Promote toy@v1.0.0"
    assert_it_says_what_it_was_made_from(folder, "champion")


def test_the_loser_of_a_race_between_branches_takes_the_next_version(
    shared: Target, folder: Path, tmp_path: Path
) -> None:
    publish_now(shared, notes_md="one")
    execute(folder, "git", "push", "--quiet", "origin", "main")
    execute(tmp_path, "git", "clone", "--quiet", "remote.git", "other", "--branch", "main")
    tip = reconcile(shared)
    publish_now(Target(tmp_path / "other", "toy", "team", "origin"), notes_md="other")
    before = refs(folder), refs(tmp_path / "remote.git")
    with publish_lock(shared), pytest.raises(BranchMovedError, match="on another branch"):
        publish(shared, "HEAD", {"notes.md": b"late"}, tip, "Publish {version}", "")
    assert (refs(folder), refs(tmp_path / "remote.git")) == before
    assert publish_now(shared, notes_md="late") == "toy@v1.2.0"
    assert champions(folder) == {"prod": "v1.2.0", "team": "v1.1.0"}


@pytest.mark.parametrize("lost_here", [True, False], ids=["before it moved here", "after that"])
def test_a_version_that_another_branch_took_after_a_kill_is_renewed(
    shared: Target, folder: Path, tmp_path: Path, lost_here: bool
) -> None:
    """The kill left the branch without its tags; another clone publishes before it is mended."""
    execute(folder, "git", "push", "--quiet", "origin", "main")
    execute(tmp_path, "git", "clone", "--quiet", "remote.git", "other", "--branch", "main")
    publish_now(shared, notes_md="one")
    delete_refs(tmp_path / "remote.git", *REFS[1:])
    delete_refs(folder, *(REFS if lost_here else REFS[1:]))
    other = Target(tmp_path / "other", "toy", "team", "origin")
    assert publish_now(other, notes_md="other") == "toy@v1.0.0"
    tip = reconcile(shared)
    assert tip
    assert champion_version(folder, tip) == "toy@v1.1.0"
    assert (
        champions(folder)
        == champions(tmp_path / "remote.git")
        == {
            "prod": "v1.1.0",
            "team": "v1.0.0",
        }
    )
    assert execute(folder, "git", "show", "toy@v1.1.0:notes.md") == "one"
    assert_it_says_what_it_was_made_from(folder, tip)
    assert reconcile(shared) == tip
    reconcile(other)
    for branch in ("champion", "team"):
        reconcile(on_branch(shared, branch))
    assert refs(folder) == refs(tmp_path / "remote.git")


@pytest.mark.slow
def test_locks_of_a_dead_git_are_removed_and_others_are_not(
    shared: Target, folder: Path, tmp_path: Path
) -> None:
    publish_now(shared, notes_md="one")
    new = {
        ref: "1" * 40
        for ref in ("refs/heads/champion", "refs/tags/toy@v1.1.0", "refs/tags/toy#prod#2")
    }
    (folder / ".git" / "publish.json").write_text(json.dumps({"remote": "origin", "refs": new}))
    here, there = folder / ".git", tmp_path / "remote.git"
    stale = [
        here / "refs/heads/champion.lock",
        here / "refs/tags/toy@v1.1.0.lock",
        there / "refs/heads/champion.lock",
    ]
    for lock, content in zip(stale, ["1" * 40 + "\n", "", "1" * 40 + "\n"], strict=True):
        lock.write_text(content)
    foreign = here / "refs/heads/main.lock"
    foreign.write_text("")
    assert publish_now(shared, notes_md="two") == "toy@v1.1.0"
    assert not any(lock.exists() for lock in stale)
    assert foreign.exists()
    (here / "refs/heads/champion.lock").write_text("2" * 40)
    with pytest.raises(GitError, match="cannot lock ref"):
        publish_now(Target(folder, "toy", "champion", None), notes_md="three")


def test_without_a_name_in_gits_settings_the_pipeline_commits_as_itself(
    target: Target, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    execute(folder, "git", "config", "user.useConfigOnly", "true")
    publish_now(target)
    assert git(folder, "log", "-1", "--format=%an", "champion") == "mnist pipeline"


def test_only_one_run_publishes_at_a_time(target: Target) -> None:
    with publish_lock(target):
        second = subprocess.run(
            ["flock", "--nonblock", str(target.root / ".git" / "publish.lock"), "true"],
            capture_output=True,
        )
        assert second.returncode == 1
