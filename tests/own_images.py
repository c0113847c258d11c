"""A batch of own images for tests, whose files show digits of other writers."""

from collections.abc import Iterable
from pathlib import Path

from benchmarks.other_writers import write_pictures
from pipeline.paths import OWN


def make_batch(name: str, indices: Iterable[int], shift: int = 0) -> list[Path]:
    """Write a batch below data/own, with an empty record of DVC; `shift` gives wrong labels."""
    folder = OWN / name
    folder.mkdir(parents=True)
    folder.with_name(f"{name}.dvc").touch()
    return write_pictures(folder, indices, lambda index, label: (label + shift) % 10)
