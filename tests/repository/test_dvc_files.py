"""The `meta` of stages, and the configuration of DVC in a worktree."""

from pathlib import Path

import pytest
from toy import GIT, commit_all, execute, make_workspace

from pipeline.errors import ParamsError
from pipeline.repository.dvc_files import configure_dvc, read_settings
from pipeline.repository.git import git
from pipeline.repository.worktree import worktree


def test_settings_are_the_meta_of_a_stage() -> None:
    assert read_settings({"timeout": 3, "owner": "someone"}, "dvc.yaml", "only").timeout == 3
    assert read_settings({}, "dvc.yaml", "only").retries == 3
    with pytest.raises(ParamsError) as error:
        read_settings({"timeout": -3}, "sub/dvc.yaml", "only")
    expected = "sub/dvc.yaml: stages.only.meta.timeout must be greater than 0, got -3"
    assert str(error.value) == expected


def test_dvc_has_there_the_cache_and_the_remotes_of_the_checkout(tmp_path: Path) -> None:
    """In the checkout one path is configured for all and one for this machine, both relative."""
    folder = make_workspace(tmp_path / "a checkout é", {"only": ""})
    execute(folder, "dvc", "remote", "add", "--default", "shared", "../shared")
    execute(folder, "dvc", "remote", "add", "--local", "own", "../own")
    execute(folder, *GIT, "commit", "-qam", "remote")
    execute(folder, "dvc", "repro")
    commit_all(folder)
    with worktree(folder, "HEAD", "try") as (tree, scratch):
        configure_dvc(tree, scratch, inherit=folder)
        execute(tree, "dvc", "checkout")
        assert (tree / "only.txt").read_text() == "only"
        execute(tree, "dvc", "push")
        execute(tree, "dvc", "push", "--remote", "own")
        assert git(tree, "status", "--porcelain") == ""
    for remote in ("shared", "own"):
        assert [path.read_text() for path in (tmp_path / remote).rglob("*") if path.is_file()] == [
            "only"
        ]
