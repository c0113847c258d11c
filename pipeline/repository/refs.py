"""Refs that move all or none, here and on a Git remote.

A RefUpdate says where the refs of a target are, here and on the remote, and where they shall be.
`update_refs` moves those here, `push_refs` those on the remote. A journal names the refs on their
way, so that the locks of a killed Git can be told from anybody else's.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import atomic_write
from pipeline.repository.git import OPTIONS, GitError, git, git_common_dir, resolve_ref
from pipeline.repository.processes import (
    RunCancelledError,
    current_scope,
    run_supervised,
    subprocess_environment,
)

JOURNAL = "publish.json"  # in Git's folder

Refs = dict[str, str]  # the hash that each ref points to, by its full name


class BranchMovedError(PipelineError):
    """Somebody else moved the branch, or took the version."""


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

    @property
    def tag_patterns(self) -> tuple[str, str]:
        """The tags of the model's versions, and those of its stages."""
        return f"refs/tags/{self.artifact}@*", f"refs/tags/{self.artifact}#*"

    def branch_at(self, commit: str | None) -> Refs:
        """Return the branch as a ref at `commit`; no ref if there is no branch yet."""
        return {self.ref: commit} if commit else {}


@dataclass(frozen=True)
class RefUpdate:
    """The refs of a target: as they are here and on its Git remote, and as they shall be."""

    here: Refs
    there: Refs  # empty without a remote
    wanted: Refs

    @property
    def changes_here(self) -> Refs:
        return {ref: new for ref, new in self.wanted.items() if self.here.get(ref) != new}

    @property
    def changes_there(self) -> Refs:
        return {ref: new for ref, new in self.wanted.items() if self.there.get(ref) != new}


def list_refs(target: Target) -> Refs:
    """Return the branch and the tags of the target here."""
    lines = git(
        target.root,
        "for-each-ref",
        "--format=%(refname) %(objectname)",
        *target.tag_patterns,
    )
    tags = dict(line.split(" ") for line in lines.splitlines())
    return target.branch_at(resolve_ref(target.root, target.ref)) | tags


def list_remote_refs(target: Target, *patterns: str) -> Refs:
    """Return the remote's refs that match; a server's own messages are left out."""
    assert target.remote
    lines = run_remote_git(target, "ls-remote", "--refs", target.remote, *patterns)
    found = [re.fullmatch(r"([0-9a-f]{40,64})\t(.+)", line) for line in lines]
    return {match[2]: match[1] for match in found if match}


def fetch_refs(target: Target) -> Refs:
    """Return the branch and the tags of the target on its remote; none without a remote.

    Their objects are fetched, and the tags are then set here. The branch here stays where it is.
    """
    if not target.remote:
        return {}
    there = list_remote_refs(target, target.ref, *target.tag_patterns)
    if there:
        branch = [target.ref] if target.ref in there else []
        tags = [f"{pattern}:{pattern}" for pattern in target.tag_patterns]
        options = ("--quiet", "--no-tags", "--no-write-fetch-head", "--refmap=")
        run_remote_git(target, "fetch", *options, target.remote, *branch, *tags)
    return there


def update_refs(target: Target, update: RefUpdate) -> None:
    """Set the wanted refs here, all or none.

    Raises BranchMovedError if the branch is not where the update has it.
    """
    changes = update.changes_here
    if not changes:
        return
    # Zeros, as many as a hash has digits, say that the ref must not exist yet.
    lines = [
        f"update {ref} {new} {update.here.get(ref, '0' * len(new))}" for ref, new in changes.items()
    ]
    content = "\n".join(["start", *lines, "commit", ""]).encode()
    try:
        git(target.root, "update-ref", "--stdin", content=content)
    except GitError as error:
        found = resolve_ref(target.root, target.ref)
        if target.ref in changes and found != update.here.get(target.ref):
            raise BranchMovedError(f"{target.branch} was moved by somebody else") from error
        raise


def push_refs(target: Target, update: RefUpdate) -> None:
    """Set the wanted refs on the remote, all or none; do nothing without a remote.

    Raises BranchMovedError if one of them is not where the update has it: the remote's branch was
    moved, or its version was published on another branch.
    """
    changes = update.changes_there
    if not target.remote or not changes:
        return
    refspecs = [f"{new}:{ref}" for ref, new in changes.items()]
    options = ("--quiet", "--atomic", "--no-follow-tags")
    try:
        run_remote_git(target, "push", *options, target.remote, *refspecs)
    except GitError as error:
        found = list_remote_refs(target, *changes)
        if found.get(target.ref) != update.there.get(target.ref):
            raise BranchMovedError(
                f"{target.branch} was moved on {target.remote} by somebody else"
            ) from error
        if any(found.get(ref, new) != new for ref, new in changes.items() if ref != target.ref):
            raise BranchMovedError(
                f"somebody else published this version on {target.remote}, on another branch"
            ) from error
        raise


def write_journal(target: Target, refs: Refs) -> None:
    """Note the refs that are about to move, and their new values."""
    with atomic_write(git_common_dir(target.root) / JOURNAL) as temporary:
        temporary.write_text(json.dumps({"remote": target.remote, "refs": refs}))


def remove_journal(target: Target) -> None:
    (git_common_dir(target.root) / JOURNAL).unlink()


def remove_stale_ref_locks(root: Path) -> None:
    """Remove the locks that a killed Git has left on the refs of the journal, and the journal.

    A lock that holds anything else than the ref's new value is somebody else's and stays.
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
