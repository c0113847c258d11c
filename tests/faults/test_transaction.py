"""Retraining that is killed, raced or disturbed, in real repositories with real remotes.

Some moments are too short to hit from outside. For them a program called git is first on PATH. It
does part of a command in real Git and then kills the run. The product knows nothing of it.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect_api import Api, message
from ruamel.yaml import YAML
from servers import SshServer, ssh_server
from toy import (
    commit_all,
    execute,
    make_model_workspace,
    processes_under,
    start_pipeline,
    wait_until,
)

from pipeline.release.versions import list_versions
from pipeline.repository.git import git

pytestmark = pytest.mark.slow

SHIM = Path(__file__).with_name("shim-git")
OLD, NEW = "150", "170"  # images that the champion reads right, and that the one after it does
REFS_WHOLE = ["toy#prod#1", "toy#prod#2", "toy@v1.0.0", "toy@v1.1.0"]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, prefect_server: Api) -> Path:
    """Return a folder with a checkout and its two remotes, all with a champion."""
    root = tmp_path_factory.mktemp("published")
    folder = make_model_workspace(root / "checkout")
    execute(root, "git", "init", "--quiet", "--bare", "remote.git")
    execute(folder, "git", "remote", "add", "origin", "../remote.git")
    execute(folder, "dvc", "remote", "add", "--default", "storage", "../storage")
    commit_all(folder)
    execute(folder, "git", "push", "--quiet", "origin", "main")
    assert retrain(folder, prefect_server, "--push", "origin")["state"]["name"] == "Published"
    return root


@pytest.fixture
def root(published: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a copy of that folder; no process may be left in it at the end."""
    shutil.copytree(published, tmp_path / "root", symlinks=True)
    yield tmp_path / "root"
    wait_until(lambda: not processes_under(tmp_path))


def retrain(folder: Path, api: Api, *arguments: str) -> dict[str, Any]:
    """Retrain to the end; return the flow run."""
    before = {run["id"] for run in api.runs()}
    process = start_pipeline(folder, api.url, "retrain", *arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return api.ended(api.last_run(before))


def model_in(repository: Path, storage: Path) -> str:
    """Return how many images the champion reads right.

    Each of its files must be in the storage and be what its dvc.lock says.
    """
    lock = YAML(typ="safe").load(execute(repository, "git", "show", "champion:dvc.lock"))
    outs = {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}
    for md5 in (outs["model.txt"], outs["reports/predictions.csv"]):
        assert (storage / "files" / "md5" / md5[:2] / md5[2:]).is_file()
    params = YAML(typ="safe").load(execute(repository, "git", "show", "champion:params.yaml"))
    metrics = execute(repository, "git", "show", "champion:reports/metrics.json")
    skill = params["train"]["skill"]
    assert metrics == f'{{"accuracy": {skill / 200}}}'
    md5 = outs["model.txt"]
    assert (storage / "files" / "md5" / md5[:2] / md5[2:]).read_text() == f"{skill} 0"
    return str(skill)


def assert_that_all_is_well(root: Path, champion: str) -> None:
    """Check that there are two versions in a line, here and on the remote, and nothing else."""
    folder, remote = root / "checkout", root / "remote.git"
    assert (
        model_in(folder, folder / ".dvc" / "cache")
        == model_in(remote, root / "storage")
        == champion
    )
    assert execute(folder, "git", "for-each-ref", "refs/heads/champion", "refs/tags") == execute(
        remote, "git", "for-each-ref", "refs/heads/champion", "refs/tags"
    )
    assert execute(folder, "git", "tag").split() == REFS_WHOLE
    assert len(execute(folder, "git", "rev-list", "champion").split()) == 4, (
        "two commits on main, two versions"
    )
    assert execute(folder, "git", "rev-list", "--merges", "champion") == ""
    assert [path.name for path in (folder / ".dvc" / "tmp" / "worktrees").iterdir()] == ["lock"]
    assert [
        path for top in (folder / ".git", remote) for path in (top / "refs").rglob("*.lock")
    ] == []
    assert execute(folder, "git", "worktree", "list").count("\n") == 1
    assert execute(folder, "git", "status", "--porcelain") == ""


def start_faulty(
    root: Path, api: Api, at: str, do: str, *arguments: str, **more: str
) -> "subprocess.Popen[str]":
    """Start a retraining that gives the new model; at its Git command `at`, `do` happens."""
    faults = {
        "PATH": f"{SHIM}{os.pathsep}{os.environ['PATH']}",
        "FAULT_AT": at,
        "FAULT_DO": do,
        "FAULT_GIT": shutil.which("git") or "",
        "FAULT_PYTHON": sys.executable,
        "FAULT_VICTIM": str(root / "victim"),
    }
    command = ("retrain", "--set", f"train.skill={NEW}", *arguments)
    process = start_pipeline(root / "checkout", api.url, *command, variables=faults | more)
    (root / "victim").write_text(str(process.pid))
    return process


# A Git command, what happens there, and the champion afterwards in the checkout and on the remote
STEPS = {
    "before the commit is made": ("read-tree", "before", OLD, OLD),
    "the commit is made": ("commit-tree", "after", OLD, OLD),
    "while the data is pushed": ("none", "before", OLD, OLD),
    "the data is pushed": ("push", "before", OLD, OLD),
    "the remote's branch is moved, its tags are not": ("push", "half", OLD, NEW),
    "the remote is whole": ("push", "after", OLD, NEW),
    "the refs are locked": ("update-ref", "locks", OLD, NEW),
    "the branch is moved, the tags are not": ("update-ref", "half", NEW, NEW),
    "the refs are moved": ("update-ref", "after", NEW, NEW),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_leaves_a_whole_champion(root: Path, api: Api, step: str) -> None:
    at, do, here, there = STEPS[step]
    process = start_faulty(root, api, at, do, "--push", "origin")
    if at == "none":
        wait_until(
            lambda: any((root / "checkout/.dvc/tmp/worktrees").glob("publish-*/publish-*/dvc.lock"))
        )
        process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: not processes_under(root))
    assert model_in(root / "checkout", root / "checkout" / ".dvc" / "cache") == here
    assert model_in(root / "remote.git", root / "storage") == there
    flow_run = retrain(root / "checkout", api, "--set", f"train.skill={NEW}", "--push", "origin")
    assert flow_run["state"]["name"] == (
        "Published" if (here, there) == (OLD, OLD) else "Unchanged"
    )
    assert_that_all_is_well(root, NEW)


def test_a_kill_in_a_stage_leaves_the_champion_and_its_worktree_is_removed(
    root: Path, api: Api
) -> None:
    process = start_faulty(root, api, "none", "before", "--push", "origin")
    wait_until(
        lambda: any((root / "checkout/.dvc/tmp/worktrees").glob("retrain-*/retrain-*/model.txt"))
    )
    process.kill()
    process.communicate()
    wait_until(lambda: not processes_under(root))
    assert model_in(root / "checkout", root / "checkout" / ".dvc" / "cache") == OLD
    flow_run = retrain(root / "checkout", api, "--set", f"train.skill={NEW}", "--push", "origin")
    assert flow_run["state"]["name"] == "Published"
    assert_that_all_is_well(root, NEW)


def test_a_remote_whose_git_is_killed_with_its_refs_locked(root: Path, api: Api) -> None:
    """A hook of the remote kills the Git that called it, and then the run."""
    hook = root / "remote.git" / "hooks" / "reference-transaction"
    hook.write_text('#!/bin/sh\n[ "$1" = prepared ] && kill -9 $PPID "$(cat "$FAULT_VICTIM")"\n')
    hook.chmod(0o755)
    process = start_faulty(root, api, "none", "before", "--push", "origin")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    hook.unlink()
    assert (root / "remote.git" / "refs" / "heads" / "champion.lock").exists()
    assert model_in(root / "remote.git", root / "storage") == OLD
    wait_until(lambda: not processes_under(root))
    flow_run = retrain(root / "checkout", api, "--set", f"train.skill={NEW}", "--push", "origin")
    assert flow_run["state"]["name"] == "Published"
    assert_that_all_is_well(root, NEW)


def test_another_branch_takes_the_version_of_a_killed_run(root: Path, api: Api) -> None:
    """The kill leaves the remote's branch without its tags, and another clone publishes then."""
    process = start_faulty(root, api, "push", "half", "--push", "origin")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    execute(root, "git", "clone", "--quiet", "--branch", "main", "remote.git", "other")
    publish_to_team = ("--set", "train.skill=165", "--publish", "team", "--push", "origin")
    flow_run = retrain(root / "other", api, *publish_to_team)
    assert message(flow_run).startswith("toy@v1.1.0: accuracy 82.50%, and no champion yet")
    flow_run = retrain(root / "checkout", api, "--set", f"train.skill={NEW}", "--push", "origin")
    assert flow_run["state"]["name"] == "Unchanged"
    for repository in (root / "checkout", root / "remote.git"):
        versions = {version.name: version for version in list_versions(repository, "toy")}
        champions = {name: version.stages for name, version in versions.items() if version.stages}
        assert champions == {"v1.2.0": ("prod",), "v1.1.0": ("team",)}
        assert versions["v1.2.0"].commit == git(repository, "rev-parse", "champion")
        assert versions["v1.1.0"].commit == git(root / "other", "rev-parse", "team")
    assert model_in(root / "remote.git", root / "storage") == NEW


def test_two_retrainings_at_once_publish_in_turn(root: Path, api: Api) -> None:
    """The second is judged against the first."""
    arguments = [
        ("retrain", "--set", f"train.skill={skill}", "--push", "origin") for skill in (NEW, 180)
    ]
    processes = [start_pipeline(root / "checkout", api.url, *command) for command in arguments]
    for process in processes:
        process.communicate()
    first, second = sorted(message(run) for run in api.runs())
    assert first.startswith("toy@v1.1.0: accuracy")
    assert re.match(
        r"toy@v1\.2\.0: accuracy 90\.00% against the champion's 85|worse than the champion by more",
        second,
    )
    assert execute(root / "checkout", "git", "rev-list", "--merges", "champion") == ""
    assert model_in(root / "remote.git", root / "storage") == "180"


@pytest.mark.parametrize(("other", "state"), [("165", "Published"), ("195", "Rejected")])
def test_the_loser_of_a_race_is_judged_again_against_the_winner(
    root: Path, api: Api, other: str, state: str
) -> None:
    """Between this run's judgement and its push, another clone publishes."""
    execute(root, "git", "clone", "--quiet", "--branch", "main", "remote.git", "other")
    retraining = f"-m pipeline retrain --set train.skill={other} --push origin"
    command = f"cd '{root / 'other'}' && '{sys.executable}' {retraining}"
    once = f"[ -e '{root / 'once'}' ] || {{ touch '{root / 'once'}'; {command}; }}"
    process = start_faulty(root, api, "push", "wait", "--push", "origin", FAULT_MEANWHILE=once)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "champion was moved on origin by somebody else; judging again" in output
    assert f"against the champion's {int(other) / 2:.2f}%" in output
    assert state in {run["state"]["name"] for run in api.runs()}
    winner = NEW if state == "Published" else other
    assert model_in(root / "remote.git", root / "storage") == winner
    assert execute(root / "remote.git", "git", "rev-list", "--merges", "champion") == ""
    assert execute(root / "checkout", "git", "rev-parse", "champion") == execute(
        root / "remote.git", "git", "rev-parse", "champion"
    )


def test_a_person_works_on_while_it_retrains(root: Path, api: Api) -> None:
    """Edits, staged files, commits and a new branch stay, and none of them is in the model."""
    folder = root / "checkout"
    go = root / "go"
    slow = f"import time\nwhile not Path({str(go)!r}).exists(): time.sleep(0.05)\n"
    (folder / "train.py").write_text((folder / "train.py").read_text() + slow)
    commit_all(folder)
    source = git(folder, "rev-parse", "HEAD")
    process = start_pipeline(
        folder, api.url, "retrain", "--set", f"train.skill={NEW}", "--push", "origin"
    )
    wait_until(lambda: any((folder / ".dvc/tmp/worktrees").glob("retrain-*/retrain-*/model.txt")))
    execute(folder, "git", "switch", "--quiet", "--create", "feature")
    (folder / "params.yaml").write_text((folder / "params.yaml").read_text().replace("150", "10"))
    commit_all(folder)
    (folder / "evaluate.py").write_text("half an edit")
    execute(folder, "git", "add", "evaluate.py")
    (folder / "notes").write_text("unstaged")
    before = {path: path.read_bytes() for path in files_of_a_person(folder)}
    go.touch()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "Published" in output
    assert {path: path.read_bytes() for path in files_of_a_person(folder)} == before
    assert model_in(root / "remote.git", root / "storage") == NEW
    assert f"Retrained-from: {source}" in execute(
        folder, "git", "log", "-1", "--format=%B", "champion"
    )
    assert execute(folder, "git", "diff", "--name-only", source, "champion", "--", "*.py") == ""


def files_of_a_person(folder: Path) -> list[Path]:
    """Return the files outside .git and .dvc, and Git's files about its index and branches."""
    files = [
        path
        for path in folder.rglob("*")
        if not {".git", ".dvc"} & set(path.relative_to(folder).parts)
    ]
    of_git = [
        folder / ".git" / name
        for name in ("HEAD", "index", "config", "refs/heads/main", "refs/heads/feature")
    ]
    return [path for path in [*files, *of_git] if path.is_file()]


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[SshServer]:
    with ssh_server(tmp_path) as server:
        yield server


def test_a_remote_over_ssh(
    root: Path, api: Api, ssh: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed in its push leaves no process, and the next run publishes."""
    monkeypatch.setenv("GIT_SSH_COMMAND", ssh.command())
    url = ssh.url(root / "remote.git")
    execute(root / "checkout", "git", "remote", "set-url", "origin", url)
    hook = root / "remote.git" / "hooks" / "pre-receive"
    hook.write_text(f"#!/bin/sh\ntouch '{root / 'pushing'}'\nsleep 600\n")
    hook.chmod(0o755)
    process = start_pipeline(
        root / "checkout", api.url, "retrain", "--set", f"train.skill={NEW}", "--push", "origin"
    )
    wait_until((root / "pushing").exists)
    process.kill()
    process.communicate()
    wait_until(lambda: not processes_under(root, named=("git", "ssh")))
    hook.unlink()
    for left in processes_under(root):
        with suppress(psutil.NoSuchProcess):
            left.kill()  # the hook, which is the server's
    assert model_in(root / "remote.git", root / "storage") == OLD
    flow_run = retrain(root / "checkout", api, "--set", f"train.skill={NEW}", "--push", "origin")
    assert flow_run["state"]["name"] == "Published"
    assert_that_all_is_well(root, NEW)


def test_a_killed_training_is_resumed_and_its_model_verified(repository: Path, api: Api) -> None:
    """On real digits: the killed run has left its checkpoint in its worktree."""
    command = ("retrain", "--set", "train.epochs=5", "--publish", "champion")
    process = start_pipeline(repository, api.url, *command)
    wait_until(
        lambda: any((repository / ".dvc/tmp/worktrees").glob("retrain-*/checkpoints/*.safetensors"))
    )
    process.kill()
    process.communicate()
    process = start_pipeline(repository, api.url, *command)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert re.search(r"resuming after epoch [1-4] of 5", output), output
    assert "Published" in output
    assert list((repository / ".checkpoints").glob("*")) == []
    verify = start_pipeline(repository, api.url, "verify", "--rev", "champion")
    output, _ = verify.communicate()
    assert verify.returncode == 0, output
    assert output.splitlines()[-1].startswith("same: ")
