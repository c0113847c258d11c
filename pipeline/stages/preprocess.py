"""Turn the IDX files and the own images into tensor files; split them; count and check them.

Reads the section `preprocess` of params.yaml, data/raw/ and data/own/; writes
data/tensors/{train,validation,test,own_train,own_validation,own_test}.safetensors and
reports/data.json. Run: python -m pipeline.stages.preprocess
"""

import json
from collections.abc import Mapping

import numpy as np
from pydantic import Field
from sklearn.model_selection import train_test_split

from pipeline.errors import DataError, ParamsError, run_main
from pipeline.files import atomic_write
from pipeline.mnist.data_summary import count_images, find_oddities
from pipeline.mnist.idx import OWN_SOURCE, DatasetInfo, Digits, read_dataset_info, read_raw
from pipeline.mnist.known_images import KnownImages
from pipeline.mnist.own_data import (
    OwnImages,
    Split,
    find_batches,
    read_own_images,
    split_of,
)
from pipeline.mnist.tensors import TensorInfo, save_digits
from pipeline.params import Params, load_params
from pipeline.paths import (
    DATA_COUNTS,
    OWN,
    OWN_TEST,
    OWN_TRAIN,
    OWN_VALIDATION,
    RAW,
    TEST,
    TRAIN,
    VALIDATION,
)

FILES = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
OWN_FILES = {"train": OWN_TRAIN, "validation": OWN_VALIDATION, "test": OWN_TEST}
Splits = Mapping[str, Digits]


class PreprocessParams(Params):
    validation_size: int = Field(gt=0)  # images
    seed: int = Field(ge=0, lt=2**32)
    mean: float = Field(ge=0, le=1)  # of pixels scaled to [0, 1]
    std: float = Field(gt=0)
    own_validation: float = Field(ge=0, le=0.5)  # share of the own images
    own_test: float = Field(ge=0, le=0.5)  # share of the own images


def split(digits: Digits, validation_size: int, seed: int) -> tuple[Digits, Digits]:
    """Return train and validation digits, each with all classes in the proportions of `digits`."""
    count = len(digits.labels)
    try:
        parts = train_test_split(
            np.arange(count), test_size=validation_size, stratify=digits.labels, random_state=seed
        )
    except ValueError as error:
        raise ParamsError(
            "params.yaml: preprocess.validation_size must leave images of every class in both"
            f" parts of the {count:,} training images, got {validation_size}"
        ) from error
    train, validation = (Digits(digits.images[rows], digits.labels[rows]) for rows in parts)
    return train, validation


def split_own(images: OwnImages, params: PreprocessParams) -> Splits:
    """Return the own images of each split, in the order of their hashes."""
    rows: dict[Split, list[int]] = {"train": [], "validation": [], "test": []}
    for row in images.by_hash().tolist():
        its_split = split_of(images.hash_of(row), params.own_validation, params.own_test)
        rows[its_split].append(row)
    return {name: images.select(np.array(chosen, np.intp)) for name, chosen in rows.items()}


def read_checked(info: DatasetInfo, train: Digits, test: Digits) -> OwnImages:
    """Return the own images; without a batch, the data set's images need not be known."""
    if not find_batches(OWN):
        return read_own_images(OWN, KnownImages(info, {}, frozenset()))
    return read_own_images(OWN, KnownImages.of_data_set(info, train, test))


def read_own(
    info: DatasetInfo, train: Digits, test: Digits, params: PreprocessParams
) -> tuple[Splits, dict[str, str]]:
    """Return the own images of each split, and what is odd about a batch, by its name."""
    images = read_checked(info, train, test)
    return split_own(images, params), find_oddities(images, train, info)


def check_classes(splits: Splits, own_splits: Splits, info: DatasetInfo) -> None:
    """Raise DataError if a split has no image of a class."""
    for name in splits:
        labels = np.concatenate([splits[name].labels, own_splits[name].labels])
        if missing := set(range(len(info.classes))) - set(labels.tolist()):
            names = ", ".join(info.classes[label] for label in sorted(missing))
            raise DataError(
                f"the {name} split has no image of {names}, and each split needs an image of each"
                " class: add more images with mnist add, or remove the class from the data set's"
                " description in pipeline/mnist/sources.py"
            )


def main() -> None:
    params = load_params("preprocess", PreprocessParams)
    info = TensorInfo(**read_dataset_info(RAW).model_dump(), mean=params.mean, std=params.std)
    # All is read and checked before anything is written: a bad file changes nothing.
    test, training = read_raw(RAW, "test"), read_raw(RAW, "train")
    train, validation = split(training, params.validation_size, params.seed)
    splits: Splits = {"train": train, "validation": validation, "test": test}
    own_splits, warnings = read_own(info, training, test, params)
    check_classes(splits, own_splits, info)
    for paths, parts in ((FILES, splits), (OWN_FILES, own_splits)):
        for name, path in paths.items():
            save_digits(path, parts[name], info)
    counts = {info.dataset: count_images(splits, info), OWN_SOURCE: count_images(own_splits, info)}
    content = {"images": counts, "faults": 0, "warnings": warnings}  # a fault has ended the stage
    with atomic_write(DATA_COUNTS) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for name, digits in splits.items():
        own = len(own_splits[name].labels)
        print(f"{name}: {len(digits.labels):,} images" + (f" and {own:,} own" if own else ""))
    for batch, warning in warnings.items():
        print(f"warning: {OWN / batch}: {warning}")


if __name__ == "__main__":
    run_main(main)
