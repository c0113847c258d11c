"""Two models on the same images: which of them each reads right.

There are two yardsticks: the data set's test images, and the held-out own images. An image is known
by its source, the hash of its pixels and its label. Commits from before it had a hash know it by
its row. Rows tell that two whole sets of images are the same, and nothing of single images.
"""

import csv
import io
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

OWN = "own"  # the source of own images, and the section of their metrics


class Image(NamedTuple):
    """By what an image is found in the predictions of two models."""

    source: str  # a data set or OWN; empty if the image is known by its row
    name: str  # the hash of its pixels, or its row
    label: str
    copy: int  # 0, 1, … of images that are the same


Predictions = Mapping[Image, str]  # the class that each image was taken for


@dataclass(frozen=True)
class Evaluation:
    """A model's metrics on the test images, and its predictions of them as CSV."""

    metrics: Mapping[str, float]
    predictions: bytes


@dataclass(frozen=True)
class Champion:
    """What the champion did on the images of its commit, and on the candidate's."""

    stored: Evaluation
    measured: Evaluation | None = None  # on the candidate's, if `stored` does not cover them
    failure: str = ""  # why it could not be measured on the candidate's


@dataclass(frozen=True)
class Comparison:
    """McNemar's exact test of a candidate against a champion."""

    gained: int  # images that only the candidate reads right
    lost: int  # images that only the champion reads right
    p: float  # the probability of so uneven a split if both were equally good


@dataclass(frozen=True)
class NewImages:
    """Images on which the champion's commit was not measured, and how many are read right."""

    images: int
    candidate: int
    champion: int | None  # None if it could not be measured


@dataclass(frozen=True)
class Standing:
    """How a candidate stands against the champion on the images of a yardstick."""

    images: int
    candidate: float  # its metric
    champion: float | None = None  # its metric on the shared images; if there are none, on its own
    shared: int = 0  # images that both were measured on
    candidate_on_shared: float = 0.0
    comparison: Comparison | None = None  # on the shared images
    failure: str = ""  # why not all images are shared
    gone: int = 0  # images of the champion's commit on which the candidate was not measured

    @property
    def is_partial(self) -> bool:
        """Whether some images are shared, and some are not."""
        return 0 < self.shared < self.images


@dataclass(frozen=True)
class Measurement:
    """What a model did on the images of one yardstick."""

    metrics: Mapping[str, float]
    predictions: Predictions


@lru_cache(maxsize=3)  # those of the candidate, and the champion's two, which are asked often
def read_predictions(content: bytes) -> Predictions:
    """Read a predictions.csv, also one of an earlier commit; nothing if it is empty."""
    predictions = {}
    copies: Counter[tuple[str, str, str]] = Counter()
    for row in csv.DictReader(io.StringIO(content.decode())):
        image = (row.get("source", ""), row.get("image") or row["index"], row["label"])
        predictions[Image(*image, copies[image])] = row["prediction"]
        copies[image] += 1
    return predictions


def select(evaluation: Evaluation, *, own: bool) -> Measurement:
    """Return what a model did on the held-out own images, or else on the data set's."""
    predictions = read_predictions(evaluation.predictions)
    prefix = f"{OWN}." if own else ""
    return Measurement(
        {
            name.removeprefix(prefix): value
            for name, value in evaluation.metrics.items()
            if name.startswith(prefix)
        },
        {image: guess for image, guess in predictions.items() if (image.source == OWN) == own},
    )


def shared_images(one: Predictions, other: Predictions) -> set[Image]:
    """Return the images that both are of."""
    if one.keys() == other.keys():
        return set(one)
    return {image for image in one.keys() & other.keys() if image.source}


def covers(champion: Measurement, candidate: Measurement) -> bool:
    """Whether the champion was measured on all images that the candidate was."""
    shared = shared_images(candidate.predictions, champion.predictions)
    return len(shared) == len(candidate.predictions)


def compare(
    metric: str,
    candidate: Measurement,
    stored: Measurement,
    measured: Measurement | None = None,
    failure: str = "",
) -> Standing:
    """Compare two models on the candidate's images, as far as the champion was measured on them.

    Args:
        metric: what counts; the candidate has it
        candidate: what it did
        stored: what the champion did on the images of its commit
        measured: what it did on the candidate's, if it was measured on them
        failure: why it was not
    """
    champion = measured if measured and not covers(stored, candidate) else stored
    shared = shared_images(candidate.predictions, champion.predictions)
    new, old = candidate.metrics[metric], champion.metrics.get(metric)
    on_shared = new
    if shared and candidate.predictions.keys() != champion.predictions.keys():
        on_shared, old = (
            score(metric, {image: model.predictions[image] for image in shared})
            for model in (candidate, champion)
        )
    return Standing(
        images=len(candidate.predictions),
        candidate=new,
        champion=old,
        shared=len(shared),
        candidate_on_shared=on_shared,
        comparison=mcnemar(candidate.predictions, champion.predictions, shared),
        failure=failure if len(shared) < len(candidate.predictions) else "",
        gone=count_gone(candidate, stored),
    )


def count_gone(candidate: Measurement, stored: Measurement) -> int:
    """Return on how many images the champion's commit was measured and the candidate was not.

    At least so many, if images are known by their rows or the champion's predictions are lost.
    """
    before, now = stored.predictions, candidate.predictions
    if candidate.metrics and not now:
        return 0  # nobody can tell
    if before and all(image.source for image in (*before, *now)):
        return len(before.keys() - now.keys())
    return max(0, int(len(before) or stored.metrics.get("images", 0)) - len(now))


def find_new_images(
    candidate: Measurement,
    stored: Measurement,
    measured: Measurement | None,
) -> NewImages | None:
    """Return what is known of the candidate's images that `stored` is not of.

    None if there are none, or if nobody can tell because the champion's predictions are lost.
    """
    new = candidate.predictions.keys() - stored.predictions.keys()
    if not new or (stored.metrics and not stored.predictions):
        return None
    return NewImages(
        len(new),
        count_right(candidate.predictions, new),
        count_right(measured.predictions, new) if measured else None,
    )


def count_right(predictions: Predictions, images: Collection[Image]) -> int:
    return sum(predictions[image] == image.label for image in images)


def mcnemar(
    candidate: Predictions,
    champion: Predictions,
    shared: Collection[Image],
) -> Comparison | None:
    """Return McNemar's exact test on the shared images; None if there are none."""
    if not shared:
        return None
    differing = [image for image in shared if candidate[image] != champion[image]]
    gained, lost = (count_right(predictions, differing) for predictions in (candidate, champion))
    if not gained + lost:
        return Comparison(0, 0, 1.0)
    from scipy.stats import binomtest  # only now: most runs have nothing to compare

    return Comparison(gained, lost, float(binomtest(gained, gained + lost).pvalue))


def score(metric: str, predictions: Predictions) -> float:
    """Return a metric; all but the accuracy are means over the classes that occur."""
    if metric == "accuracy":
        return count_right(predictions, predictions) / len(predictions)
    from sklearn.metrics import precision_recall_fscore_support  # only now: it takes a second

    labels = [image.label for image in predictions]
    guesses = list(predictions.values())
    names = ("precision", "recall", "f1")
    values = precision_recall_fscore_support(
        labels, guesses, labels=sorted(set(labels)), average="macro", zero_division=0
    )
    return float(values[names.index(metric)])
