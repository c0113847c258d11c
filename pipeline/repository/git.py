"""Git's command line in a subprocess, without the repository's hooks."""

import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.repository.processes import subprocess_environment

OPTIONS = (
    *("-c", "core.hooksPath=/dev/null"),  # DVC's hooks would check its files out
    *("-c", "gc.auto=0", "-c", "maintenance.auto=false"),  # they would go on after the command
    *("-c", "core.filesRefLockTimeout=2000"),  # milliseconds, for another Git to release a ref
)


class GitError(PipelineError):
    """Git refused, in its own words."""


def git(
    root: Path,
    *arguments: str,
    content: bytes = b"",
    variables: Mapping[str, str] | None = None,
) -> str:
    """Return what `git ARGUMENTS` prints in `root`, given `content` on its standard input."""
    result = subprocess.run(
        ["git", *OPTIONS, *arguments],
        cwd=root,
        env=subprocess_environment() | dict(variables or {}),
        input=content,
        capture_output=True,
    )
    if result.returncode:
        reason = result.stderr.decode(errors="replace").strip().removeprefix("fatal: ")
        raise GitError(f"git {' '.join(arguments)}: {reason or f'exit code {result.returncode}'}")
    return result.stdout.decode(errors="surrogateescape").strip()


def resolve_commit(root: Path, rev: str) -> str:
    """Return the full hash of the commit that `rev` names."""
    try:
        return git(
            root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}"
        )
    except GitError as error:
        raise GitError(f"{rev} is no commit here; name one that git log shows") from error


def git_common_dir(root: Path) -> Path:
    """Return Git's own folder, which all worktrees of a repository share."""
    return (root / git(root, "rev-parse", "--git-common-dir")).resolve()


def has_git(root: Path) -> bool:
    """Whether the folder is in a Git repository."""
    try:
        return bool(git_common_dir(root))
    except GitError:
        return False


def read_file(root: Path, commit: str, path: str | Path) -> str:
    """Return a file's text in a commit, empty if it has no such file; `path` starts at `root`."""
    try:
        return git(root, "cat-file", "blob", f"{commit}:./{path}")
    except GitError:
        return ""


def resolve_ref(root: Path, ref: str) -> str | None:
    """Return the hash that a full ref name points to, if it exists."""
    return git(root, "for-each-ref", "--format=%(objectname)", ref) or None


def is_ancestor(root: Path, one: str, other: str) -> bool:
    """Whether `other` holds the commit `one`."""
    return git(root, "rev-list", "--max-count=1", one, f"^{other}") == ""


def make_commit(
    root: Path,
    source: str,
    files: Mapping[str, bytes],
    parent: str,
    message: str,
    after: int = 0,
) -> str:
    """Make a commit of `source`'s tree with `files` in it; no ref and no index changes.

    Its date is later than `after`, in seconds since 1970, whatever this machine's clock says.
    """
    prefix = git(root, "rev-parse", "--show-prefix")
    with tempfile.TemporaryDirectory(prefix="publish-") as name:
        index = {"GIT_INDEX_FILE": str(Path(name) / "index")}
        git(root, "read-tree", source, variables=index)
        for path, content in files.items():
            blob = git(root, "hash-object", "-w", "--stdin", content=content)
            git(
                root,
                "update-index",
                "--add",
                "--cacheinfo",
                f"100644,{blob},{prefix}{path}",
                variables=index,
            )
        tree = git(root, "write-tree", variables=index)
    is_behind = time.time() < after + 1
    date = {"GIT_COMMITTER_DATE": f"@{after + 1} +0000"} if is_behind else {}
    return git(
        root,
        "commit-tree",
        tree,
        "-p",
        parent,
        content=message.encode(),
        variables=committer_identity(root) | date,
    )


def uncommitted_files(root: Path, folder: Path) -> list[Path]:
    """Return the files in a folder that differ from the last commit, or are in none.

    Their paths start at `root`, as `folder` does. Files that are gone or in conflict are left out.
    """
    options = ("--porcelain", "-z", "--no-renames", "--untracked-files=all")
    prefix = git(root, "rev-parse", "--show-prefix")  # Git's paths start at its own root
    found = []
    for entry in filter(None, git(root, "status", *options, "--", str(folder)).split("\0")):
        state, name = entry.split(maxsplit=1)
        path = Path(name.removeprefix(prefix))
        if "U" not in state and state != "AA" and (root / path).exists():
            found.append(path)
    return found


def commit_files(root: Path, paths: Sequence[Path], message: str) -> str:
    """Commit files as they are, and nothing else that is staged or modified; return the commit.

    Raises GitError, and then the index is as it was.
    """
    names = [str(path) for path in paths]
    staged = git(root, "diff", "--cached", "--name-only", "--relative", "-z", "--", *names)
    unstaged = [name for name in names if name not in staged.split("\0")]
    if unstaged:
        git(root, "add", "--", *unstaged)
    try:
        options = ("--quiet", "--only", "--file", "-")
        who = committer_identity(root)
        git(root, "commit", *options, "--", *names, content=message.encode(), variables=who)
    except GitError:
        if unstaged:
            with suppress(GitError):
                git(root, "reset", "--quiet", "--", *unstaged)
        raise
    return git(root, "rev-parse", "HEAD")


def committer_identity(root: Path) -> dict[str, str]:
    """Return the variables that name the committer, if Git's settings name nobody."""
    try:
        git(root, "var", "GIT_COMMITTER_IDENT"), git(root, "var", "GIT_AUTHOR_IDENT")
        return {}
    except GitError:
        who = {"NAME": "mnist pipeline", "EMAIL": "pipeline@localhost"}
        return {
            f"GIT_{role}_{name}": value
            for role in ("AUTHOR", "COMMITTER")
            for name, value in who.items()
        }
