"""A temporary Git worktree of a commit: whatever happens there, the person's checkout and index stay as they are.

It lies in .dvc/tmp/worktrees, on the same disk as the checkout, so that DVC can link files instead of copying them.
The kernel frees its lock file with the process that holds it: what no living run holds is removed by the next.
"""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.git import common_folder, git
from pipeline.graph import read_yaml

FOLDER = Path(".dvc/tmp/worktrees")
CHECKPOINTS = Path(".checkpoints")
SHARED, FOUND = "checkpoints", "checkpoints-found"  # beside a worktree: its own, and the names of those it was given


@contextmanager
def worktree(root: Path, commit: str, purpose: str) -> Iterator[tuple[Path, Path]]:
    """Yield the pipeline's folder in a worktree of `commit`, and the temporary folder around it; remove both."""
    prefix = git(root, "rev-parse", "--show-prefix")
    folder = (root / FOLDER).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{purpose}-{secrets.token_hex(4)}"
    lock = FileLock(folder / f"{name}.lock")
    with FileLock(folder / "lock"):  # nobody prunes between the making of a lock file and its locking
        prune(root)
        lock.acquire()
    try:
        git(root, "worktree", "add", "--quiet", "--detach", str(folder / name / name), commit)
        yield folder / name / name / prefix, folder / name
    finally:
        remove(root, folder, name)
        lock.release()


def prune(root: Path) -> None:
    """Remove the worktrees whose owners are dead."""
    for path in (root / FOLDER).resolve().glob("*-*.lock"):
        lock = FileLock(path)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        remove(root, path.parent, path.stem)
        lock.release()


def remove(root: Path, folder: Path, name: str) -> None:
    """Do what `git worktree remove` does, also where a kill left only half of it; checkpoints are kept."""
    keep_checkpoints(folder / name, root / CHECKPOINTS)
    shutil.rmtree(folder / name, ignore_errors=True)
    shutil.rmtree(common_folder(root) / "worktrees" / name, ignore_errors=True)
    (folder / f"{name}.lock").unlink(missing_ok=True)


def share_cache(root: Path, tree: Path, beside: Path) -> None:
    """Let DVC work in `tree` as in `root`, with its cache and remotes, and keep its notes in `beside`."""
    from dvc.config import Config, merge  # only now: verify does without

    (tree / ".dvc" / "config.local").touch(mode=0o600)  # it may hold passwords
    with Config(str(tree / ".dvc")).edit("local") as local:
        merge(local, Config(str(root / ".dvc")).read())  # which has made relative paths absolute
        # staging, in an index that goes with the worktree, spares the log DVC's advice to stage
        local["core"] |= {"autostage": True, "analytics": False, "site_cache_dir": str(beside / "site")}
        local["cache"].setdefault("dir", str(root / ".dvc" / "cache"))
        local["cache"]["type"] = "reflink,hardlink,copy"  # DVC never writes into a link, it replaces it


def has_remote(root: Path) -> bool:
    """Whether DVC has a place to push to."""
    from dvc.config import Config

    return "remote" in Config(str(root / ".dvc")).read()["core"]


def share_checkpoints(root: Path, tree: Path, beside: Path) -> None:
    """Let a training find what a killed one left, in a folder of its own: two trainings of the same may run at once."""
    (beside / SHARED).mkdir()
    (beside / FOUND).mkdir()
    for checkpoint in (root / CHECKPOINTS).glob("*.safetensors"):
        with suppress(FileNotFoundError):  # of a training that has just ended
            shutil.copy2(checkpoint, beside / SHARED)
            (beside / FOUND / checkpoint.name).touch()
    (tree / CHECKPOINTS).symlink_to(beside / SHARED)


def keep_checkpoints(beside: Path, kept: Path) -> None:
    """Move what an unfinished training left to where the next one looks; a finished one needs what it found no more."""
    for found in (beside / FOUND).glob("*.safetensors"):
        if not (beside / SHARED / found.name).exists():
            (kept / found.name).unlink(missing_ok=True)
    for checkpoint in (beside / SHARED).glob("*.safetensors"):
        there = kept / checkpoint.name
        if not there.exists() or there.stat().st_mtime < checkpoint.stat().st_mtime:
            kept.mkdir(exist_ok=True)
            checkpoint.replace(there)


def link_source(root: Path, tree: Path) -> None:
    """Let the fetch stage find the person's own folder of data; what it reads there it checks."""
    folder = (read_yaml(tree / "params.yaml").get("fetch") or {}).get("directory")
    if isinstance(folder, str) and (root / folder).is_dir() and not (tree / folder).exists():
        (tree / folder).parent.mkdir(parents=True, exist_ok=True)
        (tree / folder).symlink_to((root / folder).resolve())
