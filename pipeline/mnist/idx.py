"""IDX files as arrays: what the fetch stage writes to data/raw/."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import DataError

IMAGE_SIZE = 28  # pixels, both ways
UNSIGNED_BYTE = 0x08  # the only element type of these data sets
RAW_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
DATASET_FILE = "dataset.json"  # next to the IDX files
HASH_DIGITS = 32  # hexadecimal, of sha256
OWN_SOURCE = "own"  # of an own image, where one of the data set has the data set's name
UInt8Array = NDArray[np.uint8]
Preparation = Literal["centred", "fitted"]  # of an image: see pipeline/mnist/preparation.py


class DatasetInfo(BaseModel):
    """What the fetch stage writes about its files. Older files lack the fields with defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dataset: str
    classes: tuple[str, ...] = Field(min_length=2, max_length=10)
    subject: str = "digit"  # what an image shows, as a noun
    preparation: Preparation = "centred"  # how the images were made


@dataclass(frozen=True)
class Digits:
    images: UInt8Array  # [N, 1, 28, 28]
    labels: UInt8Array  # [N]


def pixel_hash(image: UInt8Array) -> str:
    """Return the identity of an image in the form of the data set's, [28, 28] or [1, 28, 28]."""
    return hashlib.sha256(image.tobytes()).hexdigest()[:HASH_DIGITS]


def read_idx(path: Path, dimensions: int) -> UInt8Array:
    """Read an IDX file of unsigned bytes into an array of `dimensions` axes.

    The header is two zero bytes, the element type, the number of axes and the length of each axis
    as a big-endian int32 (http://yann.lecun.com/exdb/mnist). The array is allocated only after the
    file's length has been compared with the header, so it is never larger than the file.
    Raises DataError.
    """
    header = 4 + 4 * dimensions
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(header)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; run the fetch stage: dvc repro fetch") from error
    magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if start[:4] != magic:
        found = start[:4].hex() or "nothing"
        raise DataError(f"{path} must start with the IDX magic {magic.hex()}, got {found}")
    if len(start) < header:
        raise DataError(f"{path} is truncated: its header must be {header} bytes, got {len(start)}")
    shape = [int.from_bytes(start[i : i + 4], "big") for i in range(4, header, 4)]
    expected = header + math.prod(shape)
    if length != expected:
        raise DataError(
            f"{path} says {'×'.join(map(str, shape))} and so must be {expected:,} bytes, got"
            f" {length:,}; fetch it again: dvc repro --force fetch"
        )
    return np.fromfile(path, dtype=np.uint8, offset=header).reshape(shape)


def read_raw(folder: Path, split: str) -> Digits:
    """Read the images and labels of `split` (train or test); check that they belong together.

    Raises DataError.
    """
    images_path, labels_path = (folder / name for name in RAW_FILES[split])
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        size = f"{images.shape[1]}×{images.shape[2]}"
        raise DataError(f"{images_path} must hold images of 28×28 pixels, got {size}")
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images):,} images but {labels_path} {len(labels):,} labels"
        )
    if not len(labels):
        raise DataError(f"{images_path} holds no images")
    if labels.max() > 9:
        raise DataError(
            f"{labels_path} must hold labels 0 to 9, got {labels.max()} at position"
            f" {labels.argmax():,}"
        )
    return Digits(images[:, np.newaxis], labels)


def read_dataset_info(folder: Path) -> DatasetInfo:
    """Read what `write_dataset_info` wrote. Raises DataError."""
    path = folder / DATASET_FILE
    try:
        return DatasetInfo.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; run the fetch stage: dvc repro fetch") from error
    except ValidationError as error:
        raise DataError(
            f"{path} is not what the fetch stage writes; run: dvc repro --force fetch"
        ) from error


def write_dataset_info(folder: Path, info: DatasetInfo) -> None:
    content = info.model_dump_json(indent=2) + "\n"
    (folder / DATASET_FILE).write_text(content, encoding="utf-8")
