"""What a worker clones, and whether it can."""

from pathlib import Path

import pytest
from toy import commit_all, execute, make_model_workspace

from pipeline.errors import PipelineError
from pipeline.repository.git import resolve_commit
from pipeline.sweep.dask_cluster import CloneSource, find_clone_source


def test_the_dvc_remote_is_the_one_that_a_clone_has(tmp_path: Path) -> None:
    """A remote of this folder's own settings, or one that is not the default, is none there."""
    folder = make_model_workspace(tmp_path / "toy")
    execute(tmp_path, "git", "init", "--quiet", "--bare", "remote.git")
    execute(folder, "git", "remote", "add", "origin", str(tmp_path / "remote.git"))

    def push_and_find() -> CloneSource:
        execute(folder, "git", "push", "--quiet", "origin", "main")
        return find_clone_source(folder, resolve_commit(folder, "HEAD"))

    add = ("dvc", "remote", "add")
    for command in (
        (*add, "--local", "--default", "mine", "../mine"),
        (*add, "other", "../other"),
        (*add, "--default", "storage", "../storage"),
    ):
        execute(folder, *command)
        if "other" in command:
            commit_all(folder)
        with pytest.raises(PipelineError, match="has no default one in"):
            push_and_find()
    commit_all(folder)
    assert push_and_find() == CloneSource(str(tmp_path / "remote.git"), "")
