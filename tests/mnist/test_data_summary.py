"""What the data consist of, and what is odd about a batch."""

from pathlib import Path

import numpy as np
import pytest
from own_images import make_batch

from pipeline.mnist.data_summary import count_images, find_oddities
from pipeline.mnist.idx import DatasetInfo, Digits, read_raw
from pipeline.mnist.own_data import KnownImages, OwnImage, read_own_images
from pipeline.paths import OWN, RAW

INFO = DatasetInfo(dataset="sample", classes=tuple("0123456789"))


@pytest.fixture
def reference(finished: Path) -> Digits:
    return read_raw(finished / RAW, "train")


def own(batch: str, images: np.ndarray, labels: np.ndarray) -> list[OwnImage]:
    return [
        OwnImage(batch, Path(str(number)), image, int(label), str(number))
        for number, (image, label) in enumerate(zip(images[:, 0], labels, strict=True))
    ]


def test_a_batch_like_the_data_set_is_not_odd(reference: Digits) -> None:
    batch = own("usual", reference.images[:300], reference.labels[:300])
    assert find_oddities(batch, reference, INFO) == {}


def test_a_batch_of_one_class_is_odd_unless_it_is_small(reference: Digits) -> None:
    rows = np.flatnonzero(reference.labels == 7)
    batch = own("sevens", reference.images[rows], reference.labels[rows])
    oddities = find_oddities(batch, reference, INFO)
    assert oddities == {"sevens": "100% of its 62 images are 7, 10% of sample's"}
    assert find_oddities(batch[:49], reference, INFO) == {}


def test_lighter_and_thicker_drawings_are_odd(reference: Digits) -> None:
    images, labels = reference.images[:300], reference.labels[:300]
    faint = own("faint", images // 2, labels)
    assert (
        "its drawings are lighter than sample's by"
        in find_oddities(faint, reference, INFO)["faint"]
    )
    moved = [np.roll(images, move, axis=(2, 3)) for move in ((0, 0), (0, 1), (1, 0), (1, 1))]
    thick = own("thick", np.maximum.reduce(moved), labels)
    assert "thicker than sample's by" in find_oddities(thick, reference, INFO)["thick"]


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
