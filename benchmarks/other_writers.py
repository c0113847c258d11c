"""Digits of other writers as image files: scikit-learn's, 1,797 of them, offline.

They are the UCI data set optdigits, of 8 × 8 pixels. A file shows one as somebody would scan it.
"""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

DIGITS = 1797
INK = 16  # the largest value of a pixel
ENLARGED = 24  # pixels, both ways
MARGIN = 8  # of white paper around it


@cache
def digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The images [1797, 8, 8], from 0 (paper) to 16 (ink), and their labels."""
    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8), labels


def picture(index: int) -> Image.Image:
    """A digit, dark on white paper, of 40 × 40 pixels."""
    pixels = (255 - digits()[0][index] / INK * 255).astype(np.uint8)
    side = ENLARGED + 2 * MARGIN
    paper = Image.new("L", (side, side), 255)
    enlarged = Image.fromarray(pixels).resize((ENLARGED, ENLARGED), Image.Resampling.BICUBIC)
    paper.paste(enlarged, (MARGIN, MARGIN))
    return paper


def write_pictures(
    folder: Path,
    indices: Iterable[int],
    relabel: Callable[[int, int], int] = lambda index, label: label,
) -> list[Path]:
    """Write digits into folders of their classes; `relabel` may give them wrong labels."""
    labels = digits()[1]
    paths = []
    for index in indices:
        path = folder / str(relabel(index, int(labels[index]))) / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(path)
        paths.append(path)
    return paths


def mislabel(index: int, label: int) -> int:
    """Another label than the right one, by no rule that could be learned."""
    return (label + 1 + index * 7919 % 9) % 10
