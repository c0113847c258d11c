"""Git's answers, of a real repository."""

from pathlib import Path

import pytest
from toy import make_workspace

from pipeline.repository.git import GitError, resolve_commit


def test_no_such_commit_is_one_line(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "a checkout", {"only": ""})
    for rev in ("nowhere", "--help", "HEAD~9"):
        with pytest.raises(GitError) as raised:
            resolve_commit(folder, rev)
        assert str(raised.value) == f"{rev} is no commit here; name one that git log shows"
