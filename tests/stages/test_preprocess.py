"""The preprocess stage: the splits, their bytes and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import files_under, set_params
from own_images import make_batch

from pipeline.errors import DataError, ParamsError
from pipeline.mnist.idx import Digits, pixel_hash, read_raw
from pipeline.mnist.sources import DATASETS
from pipeline.mnist.tensors import load_digits
from pipeline.paths import DATA_COUNTS, OWN, OWN_TEST, OWN_TRAIN, OWN_VALIDATION
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


OWN_SPLITS = {"train": OWN_TRAIN, "validation": OWN_VALIDATION, "test": OWN_TEST}


def own_hashes() -> dict[str, set[str]]:
    return {
        name: set(map(pixel_hash, load_digits(path)[0].images)) for name, path in OWN_SPLITS.items()
    }


def test_own_images_change_no_byte_of_the_data_sets_tensors(raw: Path) -> None:
    preprocess.main()
    before = files_under(TENSORS)
    assert all(not hashes for hashes in own_hashes().values())
    make_batch("first", range(100))
    preprocess.main()
    changed = {name for name, content in files_under(TENSORS).items() if content != before[name]}
    assert changed == {path.name for path in OWN_SPLITS.values()}
    assert sum(len(hashes) for hashes in own_hashes().values()) == 100


def test_an_own_image_stays_in_its_split_whatever_is_added_or_taken_away(raw: Path) -> None:
    make_batch("first", range(100))
    preprocess.main()
    before = own_hashes()
    make_batch("second", range(100, 160))
    preprocess.main()
    assert all(before[name] <= hashes for name, hashes in own_hashes().items())
    (OWN / "second.dvc").unlink()
    shutil.rmtree(OWN / "second")
    preprocess.main()
    assert own_hashes() == before


def test_the_order_and_names_of_batches_change_no_byte(raw: Path) -> None:
    make_batch("a", range(50))
    make_batch("b", range(50, 80))
    preprocess.main()
    before = files_under(TENSORS)
    for name in ("a", "b"):
        (OWN / name).rename(OWN / f"z{name}")
        (OWN / f"{name}.dvc").rename(OWN / f"z{name}.dvc")
    preprocess.main()
    assert files_under(TENSORS) == before


def test_images_are_counted_by_source_split_and_class(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_batch("first", range(100))
    capsys.readouterr()
    preprocess.main()
    content = json.loads(DATA_COUNTS.read_text())
    counts = content["images"]
    assert {source: sum(map(total, splits.values())) for source, splits in counts.items()} == {
        "sample": 800,
        "own": 100,
    }
    sizes = {name: len(load_digits(path)[0].labels) for name, path in OWN_SPLITS.items()}
    assert {name: total(split) for name, split in counts["own"].items()} == sizes
    assert content["faults"] == 0
    assert "lighter than sample's" in content["warnings"]["first"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"train: 500 images and {sizes['train']} own"
    assert printed[-1] == f"warning: data/own/first: {content['warnings']['first']}"


def total(counts: dict[str, int]) -> int:
    return sum(counts.values())


def test_a_fault_in_own_images_writes_nothing(raw: Path) -> None:
    make_batch("first", range(60))
    preprocess.main()
    before = files_under(Path.cwd())
    make_batch("second", range(3), shift=1)
    with pytest.raises(DataError, match="keep one of them") as error:
        preprocess.main()
    assert str(error.value).count("\n") == 2
    shutil.rmtree(OWN / "second")
    (OWN / "second.dvc").unlink()
    assert files_under(Path.cwd()) == before


def test_nothing_is_held_out_if_so_asked(raw: Path) -> None:
    set_params(preprocess={"own_test": 0.0, "own_validation": 0.0})
    make_batch("first", range(60))
    preprocess.main()
    assert [len(hashes) for hashes in own_hashes().values()] == [60, 0, 0]
