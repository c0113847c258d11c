"""Tensor files between stages: safetensors with one entry of metadata, checked when read.

Numpy only, so that a stage without a network starts in a fraction of torch's import time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipeline.errors import DataError
from pipeline.files import atomic_write
from pipeline.mnist.idx import DatasetInfo, Digits

METADATA_KEY = "info"
Info = TypeVar("Info", bound=BaseModel)


class TensorInfo(DatasetInfo):
    """What a network must know to be fed; metadata of every file of tensors."""

    mean: float  # of the pixels, scaled to [0, 1]
    std: float = Field(gt=0)


def save_digits(path: Path, digits: Digits, info: TensorInfo) -> None:
    with write_tensors(path) as temporary:
        save_file(
            {"images": digits.images, "labels": digits.labels},
            temporary,
            metadata=to_metadata(info),
        )


@contextmanager
def write_tensors(path: Path) -> Iterator[Path]:
    """As atomic_write; what safetensors says of a full disk is the OSError that it is."""
    try:
        with atomic_write(path) as temporary:
            yield temporary
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written ({error})") from error


def load_digits(path: Path) -> tuple[Digits, TensorInfo]:
    """Raise DataError where `path` is missing or is not what `save_digits` writes."""
    with open_tensors(path, framework="numpy", made_by="preprocess") as file:
        return Digits(file.get_tensor("images"), file.get_tensor("labels")), read_metadata(
            file, TensorInfo
        )


def to_metadata(info: BaseModel) -> dict[str, str]:
    """One entry only: safetensors writes several in random order, and equal inputs must give equal
    bytes.
    """
    return {METADATA_KEY: info.model_dump_json()}


def read_metadata(file: Any, model: type[Info]) -> Info:
    """Raise SafetensorError, as the library does for anything else wrong with the file."""
    try:
        return model.model_validate_json((file.metadata() or {})[METADATA_KEY])
    except (KeyError, ValidationError) as error:
        raise SafetensorError("its metadata is missing or malformed") from error


@contextmanager
def open_tensors(path: Path, framework: str, made_by: str) -> Iterator[Any]:
    """Open a safetensors file; raise DataError where it, or what is asked of it, is not there.

    With framework "pt" the tensors are views of the file's pages and take no memory of their own.
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
