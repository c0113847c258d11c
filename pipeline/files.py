"""Writes that happen whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary file; on success flush it to disk and rename it to `path`.

    It is in a folder of its own next to `path`, as some who write it (safetensors) have temporary
    files too, of names that nobody knows after a kill; the next write removes them all.
    """
    folder = path.with_name(f".{path.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        temporary = folder / path.name
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
