"""The preprocess stage: the splits, their bytes and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from helpers import files_under, set_params

from pipeline.errors import DataError, ParamsError
from pipeline.mnist.idx import Digits, read_raw
from pipeline.mnist.sources import DATASETS
from pipeline.mnist.tensors import load_digits
from pipeline.stages import fetch, preprocess

TENSORS = Path("data/tensors")


@pytest.fixture
def raw(workspace: Path) -> Path:
    fetch.main()
    return workspace / "data" / "raw"


def rows(digits: Digits) -> set[bytes]:
    return {
        image.tobytes() + bytes([label])
        for image, label in zip(digits.images, digits.labels, strict=True)
    }


def test_the_split_holds_every_image_once_in_the_classes_proportions(raw: Path) -> None:
    preprocess.main()
    whole = read_raw(raw, "train")
    (train, info), (validation, _) = (
        load_digits(TENSORS / f"{name}.safetensors") for name in ("train", "validation")
    )
    assert train.images.shape == (500, 1, 28, 28)
    assert validation.labels.shape == (100,)
    assert train.images.dtype == validation.labels.dtype == np.uint8
    assert rows(train) | rows(validation) == rows(whole)
    share = np.bincount(whole.labels) / 6
    assert np.abs(np.bincount(validation.labels) - share).max() < 1
    described = DATASETS["sample"].info.model_dump()
    assert info.model_dump() == described | {"mean": 0.5, "std": 0.5}


def test_the_test_split_is_the_raw_one(raw: Path) -> None:
    preprocess.main()
    digits, _ = load_digits(TENSORS / "test.safetensors")
    assert np.array_equal(digits.images, read_raw(raw, "test").images)
    assert np.array_equal(digits.labels, read_raw(raw, "test").labels)


def test_equal_seeds_give_equal_bytes_and_others_another_split(raw: Path) -> None:
    preprocess.main()
    first = files_under(TENSORS)
    preprocess.main()
    assert files_under(TENSORS) == first
    set_params(preprocess={"seed": 2})
    preprocess.main()
    changed = files_under(TENSORS)
    assert {name for name in first if first[name] != changed[name]} == {
        "train.safetensors",
        "validation.safetensors",
    }


@pytest.mark.parametrize("size", [600, 599, 5, 10**12])
def test_a_validation_size_that_leaves_a_class_out_is_refused(raw: Path, size: int) -> None:
    set_params(preprocess={"validation_size": size})
    with pytest.raises(ParamsError) as error:
        preprocess.main()
    assert str(error.value) == (
        "params.yaml: preprocess.validation_size must leave images of every class in both parts"
        " of the 600 training "
        f"images, got {size}"
    )
    assert not TENSORS.exists()


@pytest.mark.parametrize(
    "name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "dataset.json"]
)
def test_a_missing_or_damaged_raw_file_is_one_line_and_writes_nothing(raw: Path, name: str) -> None:
    path = raw / name
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=rf"^data/raw/{name} [^\n]+ dvc repro --force fetch$"):
        preprocess.main()
    path.unlink()
    with pytest.raises(
        DataError, match=rf"^data/raw/{name} is missing; run the fetch stage: dvc repro fetch$"
    ):
        preprocess.main()
    assert not TENSORS.exists()
