"""What the data consist of: images by source, split and class, and what is odd about own images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.mnist.idx import DatasetInfo, Digits, UInt8Array
from pipeline.mnist.own_data import OwnImages

MIN_IMAGES = 50  # of a batch; a smaller one is not compared with the data set
LARGEST_SHARE_GAP = 0.15  # of a class in a batch, from its share of the data set
LARGEST_DEVIATION = 1.0  # of a batch's mean, in standard deviations of the data set's images
INK = 127  # grey level above which a pixel counts as drawn
CHUNK = 4096  # images that are measured at once

Counts = dict[str, dict[str, int]]  # images by split and class
Measure = Callable[[UInt8Array], NDArray[np.float64]]
Strokes = tuple[float, float]  # mean and standard deviation of a measure


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


def find_oddities(images: OwnImages, reference: Digits, info: DatasetInfo) -> dict[str, str]:
    """Return what is odd about a batch of own images, but no fault, by the batch's name.

    Args:
        images: all own images
        reference: the data set's training images
        info: of the data set
    """
    large = {
        batch: rows
        for batch, rows in images.batches.items()
        if rows.stop - rows.start >= MIN_IMAGES
    }
    if not large:
        return {}
    usual = Usual.of(reference, info)
    odd = {batch: usual.oddities(images.select(rows)) for batch, rows in large.items()}
    return {batch: "; ".join(found) for batch, found in odd.items() if found}


@dataclass(frozen=True)
class Usual:
    """What the data set's training images are like."""

    info: DatasetInfo
    shares: NDArray[np.float64]  # of the classes
    strokes: list[Strokes]

    @classmethod
    def of(cls, reference: Digits, info: DatasetInfo) -> "Usual":
        measured = [measure_all(measure, reference.images) for measure, _, _ in MEASURES]
        strokes = [(float(values.mean()), float(values.std())) for values in measured]
        return cls(info, shares_of_classes(reference, info), strokes)

    def oddities(self, digits: Digits) -> list[str]:
        return self.odd_shares(digits) + self.odd_strokes(digits)

    def odd_shares(self, digits: Digits) -> list[str]:
        """Name the classes whose share of a batch is far from that of the data set."""
        shares = shares_of_classes(digits, self.info)
        return [
            f"{share:.0%} of its {len(digits.labels):,} images are {name}, {usual:.0%} of"
            f" {self.info.dataset}'s"
            for name, share, usual in zip(self.info.classes, shares, self.shares, strict=True)
            if abs(share - usual) > LARGEST_SHARE_GAP
        ]

    def odd_strokes(self, digits: Digits) -> list[str]:
        """Say whether a batch is darker or lighter, thicker or thinner than the data set."""
        odd = []
        for (measure, less, more), (mean, std) in zip(MEASURES, self.strokes, strict=True):
            deviation = (measure_all(measure, digits.images).mean() - mean) / std
            if abs(deviation) > LARGEST_DEVIATION:
                odd.append(
                    f"its drawings are {more if deviation > 0 else less} than"
                    f" {self.info.dataset}'s by {abs(deviation):.1f} standard deviations"
                )
        return odd


def shares_of_classes(digits: Digits, info: DatasetInfo) -> NDArray[np.float64]:
    return np.array(count_classes(digits, info)) / len(digits.labels)


def measure_all(measure: Measure, images: UInt8Array) -> NDArray[np.float64]:
    """Return the measure of each image; what that needs does not grow with their number."""
    starts = range(0, len(images), CHUNK)
    return np.concatenate([measure(images[start : start + CHUNK]) for start in starts])


def darkness(images: UInt8Array) -> NDArray[np.float64]:
    """Return how dark images [N, 1, 28, 28] are: the mean grey level of their drawn pixels."""
    drawn = np.maximum((images > 0).sum(axis=(1, 2, 3)), 1)
    mean: NDArray[np.float64] = images.sum(axis=(1, 2, 3), dtype=np.float64) / drawn
    return mean


def thickness(images: UInt8Array) -> NDArray[np.float64]:
    """Return how thick images' strokes are: the share of their pixels that are drawn."""
    share: NDArray[np.float64] = (images > INK).mean(axis=(1, 2, 3))
    return share


MEASURES: list[tuple[Measure, str, str]] = [
    (darkness, "lighter", "darker"),
    (thickness, "thinner", "thicker"),
]
