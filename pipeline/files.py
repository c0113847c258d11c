"""Write a file, or a folder of files, whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file; on success flush it to disk and rename it to `path`."""
    with partial_folder(path) as folder:
        temporary = folder / path.name
        yield temporary
        sync(temporary)
        temporary.replace(path)
    sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder; on success flush its files to disk and rename it to `path`.

    What was at `path` before is removed.
    """
    with partial_folder(path) as folder:
        temporary = folder / path.name
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    sync(path.parent)


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder next to `path`; remove it afterwards with all that it holds.

    After a kill the next write removes it. A library may put temporary files of its own there:
    safetensors writes one next to the file that it is asked for.
    """
    folder = path.with_name(f".{path.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
