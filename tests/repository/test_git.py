"""Worktrees in real repositories: what they share, what they leave alone, and what becomes of them."""

from pathlib import Path

import pytest

from pipeline.repository.git import GitError, resolve


def test_no_such_commit_is_one_line(folder: Path) -> None:
    for rev in ("nowhere", "--help", "HEAD~9"):
        with pytest.raises(GitError) as raised:
            resolve(folder, rev)
        assert str(raised.value) == f"{rev} is no commit here; name one that git log shows"
