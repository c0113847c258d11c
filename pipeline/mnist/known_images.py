"""The images of the data set and the own ones found so far, known by their pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.errors import DataError
from pipeline.mnist.idx import DatasetInfo, Digits, pixel_hash


class Known(NamedTuple):
    """What is known of an image by its pixels."""

    label: int
    place: str  # its file, or the part of the data set that has it


@dataclass
class KnownImages:
    """The images of the data set and the own ones found so far, by their hashes."""

    info: DatasetInfo
    train: Mapping[str, int]  # labels of the data set's training images
    test: frozenset[str]  # hashes of the data set's test images
    own: dict[str, Known] = field(default_factory=dict)

    @classmethod
    def of_data_set(cls, info: DatasetInfo, train: Digits, test: Digits) -> "KnownImages":
        labels = dict(zip(map(pixel_hash, train.images), train.labels.tolist(), strict=True))
        return cls(info, labels, frozenset(map(pixel_hash, test.images)))

    def find(self, image_hash: str) -> Known | None:
        if (label := self.train.get(image_hash)) is not None:
            return Known(label, f"{self.info.dataset}'s training images")
        return self.own.get(image_hash)

    def add(self, image_hash: str, label: int, place: str) -> bool:
        """Note an image; return whether it is new.

        Raises DataError if it has another label elsewhere, or is a test image of the data set.
        """
        self.refuse_test_image(image_hash, place)
        known = self.find(image_hash)
        if known is None:
            self.own[image_hash] = Known(label, place)
            return True
        if known.label != label:
            names = self.info.classes
            raise DataError(
                f"{place} is labelled {names[label]}, but the same image is labelled"
                f" {names[known.label]} in {known.place}; keep one of them"
            )
        return False

    def refuse_test_image(self, image_hash: str, place: str) -> None:
        if image_hash in self.test:
            raise DataError(
                f"{place} is an image of {self.info.dataset}'s test split, which no model may be"
                " trained on; leave it out"
            )
