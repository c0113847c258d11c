"""Own images: which are read, what is refused, and how they are split."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_images import make_batch
from PIL import Image

from benchmarks.other_writers import picture, write_pictures
from pipeline.errors import DataError
from pipeline.mnist.idx import DatasetInfo, Digits, pixel_hash
from pipeline.mnist.known_images import KnownImages
from pipeline.mnist.own_data import (
    class_folder,
    find_batches,
    read_in_form,
    read_own_images,
    split_of,
)
from pipeline.paths import OWN

INFO = DatasetInfo(dataset="MNIST", classes=tuple("0123456789"))
CLOTHES = INFO.model_copy(update={"classes": ("T-shirt/top", "Ankle boot")})
NONE = Digits(np.zeros((0, 1, 28, 28), np.uint8), np.zeros(0, np.uint8))
HASHES = st.binary(min_size=16, max_size=16).map(bytes.hex)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def known(train: Digits = NONE, test: Digits = NONE, info: DatasetInfo = INFO) -> KnownImages:
    return KnownImages.of_data_set(info, train, test)


def digits_of(*images: np.ndarray, label: int = 0) -> Digits:
    return Digits(np.stack(images)[:, np.newaxis], np.full(len(images), label, np.uint8))


def faults_of(known: KnownImages) -> list[str]:
    with pytest.raises(DataError) as error:
        read_own_images(OWN, known)
    return str(error.value).split("\nerror: ")


def read_hashes(images: KnownImages) -> list[str]:
    own = read_own_images(OWN, images)
    return [own.hash_of(row) for row in own.by_hash()]


def test_without_a_batch_there_are_no_images() -> None:
    assert len(read_own_images(OWN, known())) == 0
    OWN.mkdir(parents=True)
    (OWN / "README.md").touch()
    assert len(read_own_images(OWN, known())) == 0


def test_images_of_any_size_are_brought_into_form_and_know_their_batch_and_label() -> None:
    make_batch("first", range(20))
    make_batch("second", range(20, 30))
    own = read_own_images(OWN, known())
    assert own.batches == {"first": slice(0, 20), "second": slice(20, 30)}
    assert own.images.shape == (30, 1, 28, 28)
    assert (own.images.max(axis=(1, 2, 3)) == 255).all()
    assert [own.hash_of(row) for row in range(30)] == list(map(pixel_hash, own.images))
    hashes = [own.hash_of(row) for row in own.by_hash()]
    assert hashes == sorted(hashes)
    for name, rows in own.batches.items():
        counts = np.bincount(own.select(rows).labels, minlength=10).tolist()
        assert counts == [len(list((OWN / name).glob(f"{label}/*"))) for label in range(10)]


def test_an_image_in_form_is_taken_as_it_is_and_an_inverted_one_is_not() -> None:
    (path,) = make_batch("first", [5])
    before = read_own_images(OWN, known()).images
    Image.fromarray(before[0, 0]).save(path)
    assert np.array_equal(read_own_images(OWN, known()).images, before)
    Image.fromarray(255 - before[0, 0]).save(path)
    (inverted,) = read_own_images(OWN, known()).images
    assert inverted[0, 0, 0] == 0


def test_how_an_image_is_read_does_not_depend_on_the_names_of_the_batches() -> None:
    """One whose name is the hash of its pixels is taken as it is, another one with them is not."""
    (path,) = make_batch("stored", [5])
    pixels = np.maximum(read_own_images(OWN, known()).images[0, 0], 9)  # on no black background
    path.unlink()
    for name in ("stored", "named"):
        (OWN / name / "5").mkdir(parents=True, exist_ok=True)
        (OWN / f"{name}.dvc").touch()
    Image.fromarray(pixels).save(OWN / "stored" / "5" / f"{pixel_hash(pixels)}.png")
    Image.fromarray(pixels).save(OWN / "named" / "5" / "scan.png")
    before = read_hashes(known())
    assert len(before) == 2
    for old, new in (("named", "swap"), ("stored", "named"), ("swap", "stored")):
        (OWN / old).rename(OWN / new)
    assert read_hashes(known()) == before


def test_the_same_image_twice_is_one() -> None:
    make_batch("first", [5])
    make_batch("second", [5, 6])
    assert len(read_own_images(OWN, known())) == 2


def test_an_image_that_the_data_set_has_is_none_of_its_own() -> None:
    make_batch("first", [5, 6])
    own = read_own_images(OWN, known())
    assert read_hashes(known(own.select(slice(1)))) == [own.hash_of(1)]


def test_every_fault_of_every_file_is_a_line_that_names_it() -> None:
    paths = make_batch("first", [5, 6, 7])
    _, six, seven = (read_in_form(path, known()).image for path in paths)
    test, train = digits_of(seven), digits_of(six, label=3)
    folder = OWN / "first"
    (folder / "5" / "empty.png").touch()
    (folder / "5" / "text.png").write_text("no image")
    (folder / "5" / "two\nlines.png").write_text("no image")
    Image.new("L", (50, 50), 255).save(folder / "5" / "blank.png")
    Image.new("L", (28, 28), 0).save(folder / "5" / "black.png")
    shutil.copy(folder / "5" / "0005.png", folder / "5" / "0005 again.png")
    (folder / "4").mkdir()
    shutil.copy(folder / "5" / "0005.png", folder / "4")
    (folder / "eleven").mkdir()
    picture(8).save(folder / "eleven" / "0008.png")
    picture(9).save(folder / "0009.png")
    (folder / "5" / ".DS_Store").touch()
    classes = "/CLASS/; the classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    again = "labelled 5, but the same image is labelled 4 in"
    assert faults_of(known(train, test)) == [
        f"{folder}/0009.png must lie in the folder of a class, {folder}{classes}",
        f"{folder}/5/0005 again.png is {again} {folder}/4/0005.png; keep one of them",
        f"{folder}/5/0005.png is {again} {folder}/4/0005.png; keep one of them",
        f"{folder}/5/black.png is blank: nothing stands out from its background",
        f"{folder}/5/blank.png is blank: nothing stands out from its background",
        f"{folder}/5/empty.png is empty; it must be an image file",
        f"{folder}/5/text.png is not an image that can be read, such as PNG or JPEG",
        f"'{folder}/5/two\\nlines.png' is not an image that can be read, such as PNG or JPEG",
        f"{folder}/6/0006.png is labelled 6, but the same image is labelled 3 in MNIST's training"
        " images; keep one of them",
        f"{folder}/7/0007.png is an image of MNIST's test split, which no model may be trained on;"
        " leave it out",
        f"{folder}/eleven/0008.png must lie in the folder of a class, {folder}{classes}",
    ]


def test_a_batch_that_is_not_here_and_one_that_dvc_does_not_know_are_refused() -> None:
    make_batch("away", [5])
    shutil.rmtree(OWN / "away")
    make_batch("unknown", [6])
    (OWN / "unknown.dvc").unlink()
    missing, unknown = faults_of(known())
    assert missing.startswith(f"{OWN}/away.dvc is here, but not its images; get them: dvc checkout")
    assert unknown.startswith(f"{OWN}/unknown is not recorded by DVC, so a clone would lack it;")
    make_batch("whole", [7])
    shutil.rmtree(OWN / "unknown")
    (OWN / "away.dvc").unlink()
    assert find_batches(OWN) == ["whole"]


def test_a_class_with_a_slash_has_a_folder() -> None:
    assert class_folder("T-shirt/top") == "T-shirt-top"
    OWN.mkdir(parents=True)
    (OWN / "clothes.dvc").touch()
    shirts = OWN / "clothes" / "T-shirt-top"
    write_pictures(OWN / "clothes", [5])[0].parent.rename(shirts)
    assert read_own_images(OWN, known(info=CLOTHES)).labels.tolist() == [0]


@given(st.lists(HASHES, unique=True), st.randoms(use_true_random=False))
def test_the_split_of_an_image_depends_on_nothing_but_the_image(
    hashes: list[str], chance: random.Random
) -> None:
    before = {name: split_of(name, 0.1, 0.2) for name in hashes}
    chance.shuffle(hashes)
    assert {name: split_of(name, 0.1, 0.2) for name in hashes} == before


@given(HASHES, st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_held_out_image_stays_held_out_when_the_share_grows(
    name: str, validation: float, test: float, more: float
) -> None:
    if split_of(name, validation, min(test, more)) == "test":
        assert split_of(name, validation, max(test, more)) == "test"


def test_the_shares_are_those_asked_for() -> None:
    hashes = [pixel_hash(np.array([number], np.int64).view(np.uint8)) for number in range(10_000)]
    splits = [split_of(name, 0.1, 0.2) for name in hashes]
    assert splits.count("test") == pytest.approx(2000, abs=200)
    assert splits.count("validation") == pytest.approx(1000, abs=150)
    assert "validation" not in [split_of(name, 0, 0.2) for name in hashes]
