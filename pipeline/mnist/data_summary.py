"""What the data consist of: images by source, split and class, and what is odd about own images."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.mnist.idx import DatasetInfo, Digits, UInt8Array
from pipeline.mnist.own_data import OwnImage, to_digits

MIN_IMAGES = 50  # of a batch; a smaller one is not compared with the data set
LARGEST_SHARE_GAP = 0.15  # of a class in a batch, from its share of the data set
LARGEST_DEVIATION = 1.0  # of a batch's mean, in standard deviations of the data set's images
INK = 127  # grey level above which a pixel counts as drawn

Counts = dict[str, dict[str, int]]  # images by split and class


def count_images(splits: Mapping[str, Digits], info: DatasetInfo) -> Counts:
    """Return the number of images of each class in each split; none of a split without images."""
    return {
        split: dict(zip(info.classes, count_classes(digits, info), strict=True))
        for split, digits in splits.items()
        if len(digits.labels)
    }


def count_classes(digits: Digits, info: DatasetInfo) -> list[int]:
    counts: list[int] = np.bincount(digits.labels, minlength=len(info.classes)).tolist()
    return counts


def find_oddities(
    images: Sequence[OwnImage],
    reference: Digits,
    info: DatasetInfo,
) -> dict[str, str]:
    """Return what is odd about a batch of own images, but no fault, by the batch's name.

    Args:
        images: all own images
        reference: the data set's training images
        info: of the data set
    """
    oddities = {}
    by_batch = sorted(images, key=lambda own: own.batch)
    for batch, group in groupby(by_batch, key=lambda own: own.batch):
        digits = to_digits(list(group))
        if len(digits.labels) >= MIN_IMAGES:
            odd = odd_shares(digits, reference, info) + odd_strokes(digits, reference, info)
            if odd:
                oddities[batch] = "; ".join(odd)
    return oddities


def odd_shares(digits: Digits, reference: Digits, info: DatasetInfo) -> list[str]:
    """Name the classes whose share of a batch is far from that of the data set."""
    shares, usual = (
        np.array(count_classes(part, info)) / len(part.labels) for part in (digits, reference)
    )
    return [
        f"{share:.0%} of its {len(digits.labels):,} images are {name}, {other:.0%} of"
        f" {info.dataset}'s"
        for name, share, other in zip(info.classes, shares, usual, strict=True)
        if abs(share - other) > LARGEST_SHARE_GAP
    ]


def odd_strokes(digits: Digits, reference: Digits, info: DatasetInfo) -> list[str]:
    """Say whether a batch is darker or lighter, thicker or thinner than the data set.

    How dark an image is: its mean grey level where anything is drawn. How thick: the share of its
    pixels that are drawn.
    """
    measures: list[tuple[Any, str, str]] = [
        (darkness, "lighter", "darker"),
        (thickness, "thinner", "thicker"),
    ]
    odd = []
    for measure, less, more in measures:
        usual = measure(reference.images)
        deviation = (measure(digits.images).mean() - usual.mean()) / usual.std()
        if abs(deviation) > LARGEST_DEVIATION:
            word = more if deviation > 0 else less
            odd.append(
                f"its drawings are {word} than {info.dataset}'s by {abs(deviation):.1f} standard"
                " deviations"
            )
    return odd


def darkness(images: UInt8Array) -> NDArray[np.float64]:
    """Return the mean grey level of the drawn pixels of images [N, 1, 28, 28]."""
    drawn = np.maximum((images > 0).sum(axis=(1, 2, 3)), 1)
    mean: NDArray[np.float64] = images.sum(axis=(1, 2, 3), dtype=np.float64) / drawn
    return mean


def thickness(images: UInt8Array) -> NDArray[np.float64]:
    """Return the share of images' pixels that are drawn."""
    share: NDArray[np.float64] = (images > INK).mean(axis=(1, 2, 3))
    return share
