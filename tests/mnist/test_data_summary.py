"""What the data consist of, and what is odd about a batch."""

from pathlib import Path

import numpy as np
import pytest
from own_images import make_batch

from pipeline.mnist import data_summary
from pipeline.mnist.data_summary import count_images, find_oddities
from pipeline.mnist.idx import DatasetInfo, Digits, read_raw
from pipeline.mnist.known_images import KnownImages
from pipeline.mnist.own_data import OwnImages, read_own_images
from pipeline.paths import OWN, RAW

INFO = DatasetInfo(dataset="sample", classes=tuple("0123456789"))


@pytest.fixture
def reference(finished: Path) -> Digits:
    return read_raw(finished / RAW, "train")


def own(**batches: Digits) -> OwnImages:
    """Own images of some batches."""
    ends = np.cumsum([len(digits.labels) for digits in batches.values()]).tolist()
    starts = [0, *ends]
    return OwnImages(
        images=np.concatenate([digits.images for digits in batches.values()]),
        labels=np.concatenate([digits.labels for digits in batches.values()]),
        hashes=np.zeros((ends[-1], 16), np.uint8),
        batches=dict(zip(batches, map(slice, starts, ends), strict=False)),
    )


def test_a_batch_like_the_data_set_is_not_odd(reference: Digits) -> None:
    images = own(usual=Digits(reference.images[:300], reference.labels[:300]))
    assert find_oddities(images, reference, INFO) == {}


def test_a_batch_of_one_class_is_odd_unless_it_is_small(reference: Digits) -> None:
    rows = np.flatnonzero(reference.labels == 7)
    sevens, few = (
        Digits(reference.images[its], reference.labels[its]) for its in (rows, rows[:49])
    )
    oddities = find_oddities(own(few=few, sevens=sevens), reference, INFO)
    assert oddities == {"sevens": "100% of its 62 images are 7, 10% of sample's"}


def test_lighter_and_thicker_drawings_are_odd(reference: Digits) -> None:
    images, labels = reference.images[:300], reference.labels[:300]
    moved = [np.roll(images, move, axis=(2, 3)) for move in ((0, 0), (0, 1), (1, 0), (1, 1))]
    faint, thick = Digits(images // 2, labels), Digits(np.maximum.reduce(moved), labels)
    oddities = find_oddities(own(faint=faint, thick=thick), reference, INFO)
    assert "its drawings are lighter than sample's by" in oddities["faint"]
    assert "thicker than sample's by" in oddities["thick"]


def test_the_data_set_is_measured_once(reference: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def measure_all(measure: data_summary.Measure, images: np.ndarray) -> np.ndarray:
        measured.append(len(images))
        return measure(images)

    monkeypatch.setattr(data_summary, "measure_all", measure_all)
    part = Digits(reference.images[:50], reference.labels[:50])
    find_oddities(own(a=part, b=part, c=part), reference, INFO)
    assert measured == [600] * 2 + [50] * 6


def test_digits_of_other_writers_are_lighter_than_mnists(
    reference: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_batch("theirs", range(100))
    none = Digits(reference.images[:0], reference.labels[:0])
    images = read_own_images(OWN, KnownImages.of_data_set(INFO, none, none))
    warning = find_oddities(images, reference, INFO)["theirs"]
    assert warning.startswith("its drawings are lighter than sample's by 3.")


def test_images_are_counted_by_split_and_class(reference: Digits) -> None:
    empty = Digits(reference.images[:0], reference.labels[:0])
    assert count_images({"train": reference, "test": empty}, INFO) == {
        "train": {str(digit): int((reference.labels == digit).sum()) for digit in range(10)}
    }
