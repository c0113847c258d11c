"""Files of tensors: safetensors with one entry of metadata, checked when they are read.

Imports no torch, so that a stage that needs no network starts in a fraction of the time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipeline.errors import DataError
from pipeline.files import atomic_write
from pipeline.mnist.idx import IMAGE_SIZE, DatasetInfo, Digits

METADATA_KEY = "info"
Info = TypeVar("Info", bound=BaseModel)


class TensorInfo(DatasetInfo):
    """What a network needs to know about its images; metadata of the tensor and model files."""

    mean: float  # of the pixels, scaled to [0, 1]
    std: float = Field(gt=0)


def save_digits(path: Path, digits: Digits, info: TensorInfo) -> None:
    tensors = {"images": digits.images, "labels": digits.labels}
    with write_tensors(path) as temporary:
        save_file(tensors, temporary, metadata=to_metadata(info))


def load_digits(path: Path) -> tuple[Digits, TensorInfo]:
    """Read what `save_digits` wrote. Raises DataError."""
    with open_tensors(path, framework="numpy", made_by="preprocess") as file:
        digits = Digits(file.get_tensor("images"), file.get_tensor("labels"))
        shape = (len(digits.labels), 1, IMAGE_SIZE, IMAGE_SIZE)
        types = {digits.images.dtype, digits.labels.dtype}
        if digits.images.shape != shape or types != {np.dtype(np.uint8)}:
            raise SafetensorError("its images or labels have another shape or type")
        return digits, read_metadata(file, TensorInfo)


@contextmanager
def write_tensors(path: Path) -> Iterator[Path]:
    """Do as `atomic_write`; raise OSError when safetensors reports a full disk as its own error."""
    try:
        with atomic_write(path) as temporary:
            yield temporary
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written ({error})") from error


@contextmanager
def open_tensors(path: Path, framework: str, made_by: str) -> Iterator[Any]:
    """Open a safetensors file that the stage `made_by` writes.

    With framework "pt" the tensors are views of the file's pages and take no memory of their own.
    Raises DataError if the file is missing or damaged, or lacks what the block asks of it.
    """
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing; run the stage before this one: dvc repro {made_by}"
        ) from error
    except SafetensorError as error:
        raise DataError(
            f"{path} is not what the {made_by} stage writes ({error}); make it again: dvc repro"
            f" --force {made_by}"
        ) from error


def to_metadata(info: BaseModel) -> dict[str, str]:
    """Return `info` as one entry, because safetensors writes several in random order.

    Equal inputs must give equal bytes.
    """
    return {METADATA_KEY: info.model_dump_json()}


def read_metadata(file: Any, model: type[Info]) -> Info:
    """Return the metadata of an open file; raise SafetensorError, for `open_tensors` to report."""
    try:
        return model.model_validate_json((file.metadata() or {})[METADATA_KEY])
    except KeyError as error:
        raise SafetensorError("its metadata is missing") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "all of it"
        reason = f"its metadata is malformed: {where}: {fault['msg']}"
        raise SafetensorError(" ".join(reason.split())) from error
