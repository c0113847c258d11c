"""Files that become own images: which are stored, and what is refused."""

import gzip
import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from helpers import CLOTHES
from own_images import make_batch
from PIL import Image

from benchmarks.other_writers import write_pictures
from pipeline.errors import DataError
from pipeline.mnist.additions import (
    Additions,
    Labelled,
    list_folder,
    list_given,
    note_own_images,
    store,
)
from pipeline.mnist.idx import DatasetInfo, Digits, pixel_hash, read_raw
from pipeline.mnist.known_images import KnownImages
from pipeline.mnist.own_data import read_in_form, read_own_images
from pipeline.paths import OWN

INFO = DatasetInfo(dataset="MNIST", classes=tuple("0123456789"))
NONE = Digits(np.zeros((0, 1, 28, 28), np.uint8), np.zeros(0, np.uint8))
IN, OUT = Path("in"), Path("out")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def known(train: Digits = NONE, test: Digits = NONE, info: DatasetInfo = INFO) -> KnownImages:
    return KnownImages.of_data_set(info, train, test)


def store_in(files: Iterable[Labelled], images: KnownImages | None = None) -> Additions:
    shutil.rmtree(OUT, ignore_errors=True)
    return store(files, images or known(), OUT)


def stored() -> list[Path]:
    return sorted(OUT.rglob("*.png"))


def test_each_image_is_stored_under_its_hash_in_the_folder_of_its_class() -> None:
    paths = write_pictures(IN, range(30))
    additions = store_in(list_folder(IN, INFO))
    assert (additions.count, additions.known, additions.faults) == (30, 0, [])
    assert additions.new == {name: len(list((IN / name).iterdir())) for name in "0123456789"}
    assert additions.classes.startswith(f"{additions.new['0']} of 0, ")
    for path in stored():
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (28, 28))
            assert pixel_hash(np.asarray(image)) == path.stem
    hashes = {pixel_hash(read_in_form(path, known()).image): path.parent.name for path in paths}
    assert {path.stem: path.parent.name for path in stored()} == hashes


def test_what_is_stored_is_read_as_it_is() -> None:
    """Even clothes that fill the frame, which look as if they lay on no black background."""
    IN.mkdir()
    for path in CLOTHES.glob("*.gz"):
        (IN / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    images = read_raw(IN, "train").images[:, 0]
    classes = ("T-shirt/top", "Trouser")
    info = INFO.model_copy(update={"classes": classes, "preparation": "fitted"})
    for number, image in enumerate(images):
        Image.fromarray(255 - image).resize((100, 100)).save(IN / f"{number}.png")
    files = [(path, 1) for path in IN.glob("*.png")]
    additions = store_in(files, known(info=info))
    assert additions.count > 0.9 * len(images)
    for path in stored():
        assert pixel_hash(read_in_form(path, known(info=info)).image) == path.stem


def test_the_same_image_is_stored_once() -> None:
    (path,) = write_pictures(IN, [5])
    shutil.copy(path, path.with_name("copy.png"))
    additions = store_in(list_folder(IN, INFO))
    assert (additions.count, additions.known) == (1, 1)
    assert store_in(list_given([str(path)] * 2, "5", INFO)).known == 1
    train = Digits(read(stored()[0]), np.array([5], np.uint8))
    assert store_in([(path, 5)], known(train)).known == 1


def read(path: Path) -> np.ndarray:
    """The image of a file, as images of a data set."""
    with Image.open(path) as image:
        return np.asarray(image)[np.newaxis, np.newaxis]


def test_the_name_of_the_images_depends_on_images_and_labels_alone() -> None:
    write_pictures(IN, range(10))
    digest = store_in(list_folder(IN, INFO)).digest
    assert store_in(reversed(list(list_folder(IN, INFO)))).digest == digest
    assert store_in([(path, 1) for path, _ in list_folder(IN, INFO)]).digest != digest
    write_pictures(IN, [11])
    assert store_in(list_folder(IN, INFO)).digest != digest


def test_a_class_is_named_as_in_the_data_set_or_as_its_folder() -> None:
    info = INFO.model_copy(update={"classes": ("Bag", "T-shirt/top")})
    for name in ("T-shirt/top", "T-shirt-top"):
        assert list(list_given(["a"], name, info)) == [(Path("a"), 1)]
    with pytest.raises(DataError, match="no class 'Hat'; its classes are Bag, T-shirt/top"):
        list_given(["a"], "Hat", info)
    shutil.copytree(write_pictures(IN, [5])[0].parent, Path("clothes/T-shirt-top"))
    additions = store_in(list_folder(Path("clothes"), info), known(info=info))
    assert additions.new == {"T-shirt/top": 1}
    assert [path.parent.name for path in stored()] == ["T-shirt-top"]


def test_of_an_image_with_two_labels_neither_is_stored() -> None:
    """And no third file of it is counted as one that is here already."""
    path = write_pictures(IN, [5, 6])[0]
    shutil.copy(path, IN / "6" / "again.png")
    additions = store_in([(path, 5), *list_folder(IN, INFO), (path, 5)])
    (fault,) = additions.faults
    assert additions.known == 0
    assert fault.startswith(
        "in/6/again.png is labelled 6, but the same image is labelled 5 in in/5/"
    )
    assert additions.new == {"6": 1}
    assert [path.parent.name for path in stored()] == ["6"]


@pytest.mark.parametrize("change", ["as it is", "inverted", "in colour", "16 bits"])
def test_an_image_of_the_test_split_is_found_however_its_pixels_are_written(change: str) -> None:
    store_in([(write_pictures(IN, [5])[0], 5)])
    pixels = read(stored()[0])[0, 0].copy()
    pixels[[0, -1]] = pixels[:, [0, -1]] = 1  # on no black background, so it would be prepared
    image = Image.fromarray(255 - pixels if change == "inverted" else pixels)
    if change == "16 bits":
        image = Image.fromarray(pixels.astype(np.uint16) * 257)
    (image.convert("RGB") if change == "in colour" else image).save("image.png")
    test = Digits(pixels[np.newaxis, np.newaxis], np.zeros(1, np.uint8))
    (fault,) = store_in([(Path("image.png"), 5)], known(test=test)).faults
    assert fault.startswith("image.png is an image of MNIST's test split, which no model may be")


def test_every_fault_is_a_line_that_names_its_file() -> None:
    (path,) = write_pictures(IN, [5])
    folder = path.parent
    (folder / "two\nlines.png").write_text("no image")
    (folder / os.fsdecode(b"\xff.png")).write_text("no image")
    Image.fromarray(np.zeros((20_000, 20_000), np.uint8)).save(folder / "bomb.png")
    Image.new("L", (50, 50), 255).save(folder / "blank.png")
    noise = np.random.default_rng(0).integers(0, 256, (60, 60), np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "inside.png").symlink_to(path.name)
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "outside.png").symlink_to("/etc/hostname")
    (folder / "folder").symlink_to(".")
    (IN / "6").symlink_to("5")
    (folder / ".hidden").touch()
    additions = store_in(list_folder(IN, INFO))
    assert (additions.new, additions.known) == ({"5": 1}, 1)  # the link inside is a copy
    assert additions.faults == [
        "in/6 is a link to a folder; only files are read",
        "in/5/blank.png is blank: nothing stands out from its background",
        "in/5/bomb.png is too large: at most 89,478,485 pixels are read",
        "in/5/folder is a link to a folder; only files are read",
        "in/5/loop.png cannot be read: Too many levels of symbolic links",
        "in/5/noise.png shows no single digit on a plain background; crop it to one",
        "in/5/outside.png is a link out of in; put the file itself there",
        "in/5/pipe.png is no file; only files are read",
        "'in/5/two\\nlines.png' is not an image that can be read, such as PNG or JPEG",
        "'in/5/\\udcff.png' is not an image that can be read, such as PNG or JPEG",
    ]
    assert len(stored()) == 1


def test_what_is_here_already_is_known_by_its_pixels() -> None:
    make_batch("imported", [5])
    imported = known()
    note_own_images(imported, OWN)
    assert store_in([(write_pictures(IN, [5])[0], 5)], imported).known == 1
    store_in([(write_pictures(IN, [6])[0], 6)])
    shutil.copytree(OUT, OWN / "added")
    (OWN / "added.dvc").touch()
    (added,) = (OWN / "added").rglob("*.png")
    names = known()
    note_own_images(names, OWN)
    additions = store_in([(write_pictures(IN, [6])[0], 7)], names)
    assert additions.faults[0].endswith(f"labelled 6 in {added}; keep one of them")


@pytest.mark.parametrize("size", [None, (28, 28)])
def test_a_file_that_is_named_by_the_hash_of_its_bytes_is_no_stored_one(
    size: tuple[int, int] | None,
) -> None:
    """So files in buckets are named; the hash of their bytes says nothing of their pixels."""
    (path,) = make_batch("imported", [5])
    with Image.open(path) as image:
        (image.resize(size).convert("L") if size else image).save(path)
    shutil.copy(path, "scan.png")
    path = path.rename(path.with_name(f"{hashlib.md5(path.read_bytes()).hexdigest()}.png"))
    images = known()
    note_own_images(images, OWN)
    (fault,) = store_in([(Path("scan.png"), 7)], images).faults
    assert fault.endswith(f"labelled 5 in {path}; keep one of them")


def test_a_fault_in_a_batch_is_left_to_preprocess() -> None:
    path, _ = make_batch("imported", [5, 6])
    path.write_text("no image")
    images = known()
    note_own_images(images, OWN)
    assert [known.label for known in images.own.values()] == [6]
    with pytest.raises(DataError, match="not an image"):
        read_own_images(OWN, known())
