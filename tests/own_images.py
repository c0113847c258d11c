"""Own images for tests: scikit-learn's digits, which other people wrote, as image files."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

SIDE = 8  # pixels, of scikit-learn's images
ENLARGED = 24
MARGIN = 8


@cache
def digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The images [1797, 8, 8], 0 (paper) to 16 (ink), and their labels."""
    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, SIDE, SIDE), labels


def picture(index: int) -> Image.Image:
    """A digit as somebody would scan it: dark on white paper, 40 × 40 pixels."""
    pixels = (255 - digits()[0][index] / 16 * 255).astype(np.uint8)
    side = ENLARGED + 2 * MARGIN
    paper = Image.new("L", (side, side), 255)
    enlarged = Image.fromarray(pixels).resize((ENLARGED, ENLARGED), Image.Resampling.BICUBIC)
    paper.paste(enlarged, (MARGIN, MARGIN))
    return paper


def write_pictures(folder: Path, indices: Sequence[int], shift: int = 0) -> list[Path]:
    """Write the digits into folders of their classes; `shift` gives each another label."""
    labels = digits()[1]
    paths = []
    for index in indices:
        path = folder / str((labels[index] + shift) % 10) / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(path)
        paths.append(path)
    return paths


def make_batch(name: str, indices: Sequence[int], shift: int = 0) -> list[Path]:
    """Write a batch of own images below data/own, with an empty record of DVC."""
    folder = Path("data/own") / name
    folder.mkdir(parents=True)
    folder.with_name(f"{name}.dvc").touch()
    return write_pictures(folder, indices, shift)
