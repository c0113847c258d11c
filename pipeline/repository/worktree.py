"""A temporary Git worktree of a commit. The person's checkout and index stay as they are.

It lies in .dvc/tmp/worktrees, on the same disk as the checkout, so that DVC can link files instead
of copying them. Each has a lock file, which the kernel frees when its process ends. The next run
removes the worktrees that nobody holds.
"""

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.paths import CHECKPOINTS
from pipeline.repository.git import git, git_common_dir

FOLDER = Path(".dvc/tmp/worktrees")
SHARED = "checkpoints"  # in a worktree's scratch folder: its own checkpoints
FOUND = "checkpoints-found"  # and the names of those that it was given


@contextmanager
def worktree(root: Path, commit: str, purpose: str) -> Iterator[tuple[Path, Path]]:
    """Yield the pipeline's folder in a worktree of `commit`, and a scratch folder around it."""
    prefix = git(root, "rev-parse", "--show-prefix")
    folder = (root / FOLDER).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{purpose}-{secrets.token_hex(4)}"
    lock = FileLock(folder / f"{name}.lock")
    # Nobody removes abandoned worktrees between the making of a lock file and its locking.
    with FileLock(folder / "lock"):
        remove_abandoned(root)
        lock.acquire()
    try:
        git(root, "worktree", "add", "--quiet", "--detach", str(folder / name / name), commit)
        yield folder / name / name / prefix, folder / name
    finally:
        remove(root, folder, name)
        lock.release()


def remove_abandoned(root: Path) -> None:
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
    """Remove a worktree, or the half of one that a kill has left; keep its checkpoints."""
    keep_checkpoints(folder / name, root / CHECKPOINTS)
    shutil.rmtree(folder / name, ignore_errors=True)
    shutil.rmtree(git_common_dir(root) / "worktrees" / name, ignore_errors=True)
    (folder / f"{name}.lock").unlink(missing_ok=True)


def write_files(tree: Path, files: Mapping[str, bytes]) -> None:
    """Give the worktree what differs from its commit, by paths in it."""
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)


def share_checkpoints(root: Path, tree: Path, scratch: Path) -> None:
    """Give the worktree copies of all checkpoints: two equal trainings may run at once."""
    (scratch / SHARED).mkdir()
    (scratch / FOUND).mkdir()
    for checkpoint in (root / CHECKPOINTS).glob("*.safetensors"):
        with suppress(FileNotFoundError):  # of a training that has just ended
            shutil.copy2(checkpoint, scratch / SHARED)
            (scratch / FOUND / checkpoint.name).touch()
    (tree / CHECKPOINTS).symlink_to(scratch / SHARED)


def keep_checkpoints(scratch: Path, kept: Path) -> None:
    """Move the checkpoints of an unfinished training to `kept`, where the next one looks.

    A checkpoint that the worktree was given and that is gone belongs to a finished training, so it
    goes from `kept` too.
    """
    for found in (scratch / FOUND).glob("*.safetensors"):
        if not (scratch / SHARED / found.name).exists():
            (kept / found.name).unlink(missing_ok=True)
    for checkpoint in (scratch / SHARED).glob("*.safetensors"):
        there = kept / checkpoint.name
        if not there.exists() or there.stat().st_mtime < checkpoint.stat().st_mtime:
            kept.mkdir(exist_ok=True)
            checkpoint.replace(there)
