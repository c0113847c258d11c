"""Refs that move all or none, here and on a Git remote."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.repository.git import OPTIONS, GitError, git, git_common_dir, resolve_ref
from pipeline.repository.processes import (
    RunCancelledError,
    current_scope,
    run_supervised,
    subprocess_environment,
)

JOURNAL = "publish.json"  # in Git's folder: what a run is about to move, and where to


class BranchMovedError(PipelineError):
    """Somebody else moved the branch."""


@dataclass(frozen=True)
class Target:
    """Where a model is published."""

    root: Path
    artifact: str
    branch: str
    remote: str | None  # of Git, by name or address

    @property
    def ref(self) -> str:
        return f"refs/heads/{self.branch}"


def remove_stale_ref_locks(root: Path) -> None:
    """Remove the locks that a killed Git has left on the refs of a dead run.

    The journal names those refs and their new values; a lock with another content is somebody
    else's and stays.
    """
    journal = git_common_dir(root) / JOURNAL
    if not journal.is_file():
        return
    noted = json.loads(journal.read_bytes())
    for ref, new in noted["refs"].items():
        for repository in (git_common_dir(root), *find_local_remote(root, noted["remote"])):
            lock = repository / f"{ref}.lock"
            if lock.is_file() and lock.read_text().strip() in ("", new):
                lock.unlink(missing_ok=True)
    journal.unlink()


def find_local_remote(root: Path, remote: str | None) -> list[Path]:
    """Return Git's folder of the remote, if it is one of this machine."""
    if not remote:
        return []
    url = git(root, "ls-remote", "--get-url", remote).removeprefix("file://")
    folder = Path(git(root, "rev-parse", "--show-toplevel")) / url
    return [git_common_dir(folder)] if folder.is_dir() else []


def update_refs(target: Target, updates: Mapping[str, str], tip: str | None = None) -> None:
    """Set refs here, all or none.

    The branch must still be at `tip`, and a tag must not exist yet. Raises BranchMovedError.
    """
    if not updates:
        return
    old = {target.ref: tip} if tip else {}
    # Zeros, as many as a hash has digits, say that the ref must not exist yet.
    lines = [f"update {ref} {new} {old.get(ref, '0' * len(new))}" for ref, new in updates.items()]
    content = "\n".join(["start", *lines, "commit", ""]).encode()
    try:
        git(target.root, "update-ref", "--stdin", content=content)
    except GitError as error:
        if target.ref in updates and resolve_ref(target.root, target.ref) != tip:
            raise BranchMovedError(f"{target.branch} was moved by somebody else") from error
        raise


def push_refs(target: Target, updates: Mapping[str, str], tip: str | None) -> None:
    """Set refs on the remote, all or none; raise BranchMovedError if its branch left `tip`."""
    if not updates:
        return
    assert target.remote
    refspecs = [f"{new}:{ref}" for ref, new in updates.items()]
    try:
        run_remote_git(
            target, "push", "--quiet", "--atomic", "--no-follow-tags", target.remote, *refspecs
        )
    except GitError as error:
        found = run_remote_git(target, "ls-remote", "--refs", target.remote, target.ref)
        if not any(line.startswith(f"{tip}\t") for line in found) if tip else found:
            raise BranchMovedError(
                f"{target.branch} was moved on {target.remote} by somebody else"
            ) from error
        raise


def run_remote_git(target: Target, *arguments: str) -> list[str]:
    """Run a git command that may wait for another machine; return its lines.

    It ends with the current scope.
    """
    variables = subprocess_environment() | {"GIT_TERMINAL_PROMPT": "0"}
    code, lines = run_supervised(["git", *OPTIONS, *arguments], target.root, variables)
    if code:
        raise_refused(f"git {arguments[0]} {target.remote}", lines)
    return lines


def raise_refused(what: str, lines: list[str]) -> None:
    """Raise GitError with what matters of a failed command's output in one line.

    Raises RunCancelledError if the command failed because the scope was cancelled.
    """
    if current_scope().is_cancelled:
        raise RunCancelledError(f"{what} was stopped")
    telling = [
        line.strip()
        for line in lines
        if re.match(r"remote: \S|fatal: |error: |ERROR: | ! \[", line)
    ]
    raise GitError(f"{what} was refused: {'; '.join(telling or lines[-1:]) or 'it said nothing'}")
