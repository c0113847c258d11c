"""Refs that move all or none, here and on a Git remote."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.repository.git import OPTIONS, GitError, common_folder, git, look_up
from pipeline.repository.processes import Command, Lifeline, StoppedError, environment

JOURNAL = "publish.json"  # in Git's folder: what a run is about to move, and where to


class RaceLostError(PipelineError):
    """Somebody else moved the branch."""


@dataclass(frozen=True)
class Target:
    """Where a model is published."""

    root: Path
    artifact: str
    branch: str
    remote: str | None  # of Git, by name or address
    lifeline: Lifeline

    @property
    def ref(self) -> str:
        return f"refs/heads/{self.branch}"


def free_refs(root: Path) -> None:
    """Remove the locks of a killed Git: those on the refs that a dead run was to move, to where it
    was to move them.
    """
    journal = common_folder(root) / JOURNAL
    if not journal.is_file():
        return
    noted = json.loads(journal.read_bytes())
    for ref, new in noted["refs"].items():
        for repository in (common_folder(root), *remote_folder(root, noted["remote"])):
            lock = repository / f"{ref}.lock"
            if lock.is_file() and lock.read_text().strip() in ("", new):
                lock.unlink(missing_ok=True)
    journal.unlink()


def remote_folder(root: Path, remote: str | None) -> list[Path]:
    """Git's folder of the remote, where that is a folder of this machine."""
    if not remote:
        return []
    url = git(root, "ls-remote", "--get-url", remote).removeprefix("file://")
    folder = Path(git(root, "rev-parse", "--show-toplevel")) / url
    return [common_folder(folder)] if folder.is_dir() else []


def move(target: Target, updates: Mapping[str, str], tip: str | None = None) -> None:
    """Set refs, all or none: the branch if it still is at `tip`, a tag if it is not there yet;
    raise RaceLostError.
    """
    if not updates:
        return
    old = {target.ref: tip} if tip else {}
    # zeros, as many as a hash has digits: the ref must not be there yet
    lines = [f"update {ref} {new} {old.get(ref, '0' * len(new))}" for ref, new in updates.items()]
    try:
        git(
            target.root,
            "update-ref",
            "--stdin",
            content="\n".join(["start", *lines, "commit", ""]).encode(),
        )
    except GitError as error:
        if target.ref in updates and look_up(target.root, target.ref) != tip:
            raise RaceLostError(f"{target.branch} was moved by somebody else") from error
        raise


def push(target: Target, updates: Mapping[str, str], tip: str | None) -> None:
    """The same on the remote; raise RaceLostError where its branch is no longer at `tip`."""
    if not updates:
        return
    assert target.remote
    refspecs = [f"{new}:{ref}" for ref, new in updates.items()]
    try:
        talk(target, "push", "--quiet", "--atomic", "--no-follow-tags", target.remote, *refspecs)
    except GitError as error:
        found = talk(target, "ls-remote", "--refs", target.remote, target.ref)
        if not any(line.startswith(f"{tip}\t") for line in found) if tip else found:
            raise RaceLostError(
                f"{target.branch} was moved on {target.remote} by somebody else"
            ) from error
        raise


def talk(target: Target, *arguments: str) -> list[str]:
    """Run a git command that may wait for another machine, and that ends with this process; return
    its lines.
    """
    variables = environment() | {"GIT_TERMINAL_PROMPT": "0"}
    code, lines = Command(
        ["git", *OPTIONS, *arguments], target.lifeline, target.root, variables
    ).read()
    if code:
        complain(target, f"git {arguments[0]} {target.remote}", lines)
    return lines


def complain(target: Target, what: str, lines: list[str]) -> None:
    """Raise, with what matters of a failed command's output in one line."""
    if target.lifeline.is_cut:
        raise StoppedError(f"{what} was stopped")
    telling = [
        line.strip()
        for line in lines
        if re.match(r"remote: \S|fatal: |error: |ERROR: | ! \[", line)
    ]
    raise GitError(f"{what} was refused: {'; '.join(telling or lines[-1:]) or 'it said nothing'}")
