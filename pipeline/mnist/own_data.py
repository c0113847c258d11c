"""Own images: the batches in data/own, what is checked in them, and how they are split.

    data/own/BATCH/CLASS/FILE   an image, in the folder of its class
    data/own/BATCH.dvc          DVC's record of the batch

A batch was added by `mnist add`, or imported by DVC. An image is known by its pixels, in the form
of the data set's images: the same image in two files is one image.
"""

import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import DataError
from pipeline.mnist.idx import HASH_DIGITS, IMAGE_SIZE, Digits, UInt8Array, pixel_hash
from pipeline.mnist.known_images import KnownImages
from pipeline.mnist.preparation import Prepared, bring_into_form, read_image

STORED_NAME = re.compile(rf"[0-9a-f]{{{HASH_DIGITS}}}\.png")
# How a PNG of 28 × 28 pixels begins, of one grey level in eight bits: as `mnist add` writes it.
STORED_START = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBB", 13, b"IHDR", 28, 28, 8, 0)
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class OwnImages:
    """Own images in the form of the data set's, a row each, one batch after the other."""

    images: UInt8Array  # [N, 1, 28, 28]
    labels: UInt8Array  # [N]
    hashes: UInt8Array  # [N, 16]
    batches: Mapping[str, slice]  # the rows of each batch, by its name

    def __len__(self) -> int:
        return len(self.labels)

    def by_hash(self) -> NDArray[np.intp]:
        """Return the rows in the order of their hashes."""
        return np.lexsort(self.hashes.T[::-1])

    def hash_of(self, row: int) -> str:
        return bytes(self.hashes[row]).hex()

    def select(self, rows: slice | NDArray[np.intp]) -> Digits:
        return Digits(self.images[rows], self.labels[rows])


def class_folder(name: str) -> str:
    """Return the name of a class as that of a folder: T-shirt/top → T-shirt-top."""
    return re.sub(r"[^\w.]+", "-", name)


def find_batches(folder: Path) -> list[str]:
    """Return the names of the batches in data/own.

    Raises DataError for a batch that is not there, and for one that DVC does not know: a clone
    would lack it.
    """
    recorded = {path.stem for path in folder.glob("*.dvc")}
    present = {path.name for path in folder.glob("*") if path.is_dir()}
    faults = [
        f"{folder / name}.dvc is here, but not its images; get them: dvc checkout"
        f" {folder / name}.dvc, or dvc pull {folder / name}.dvc"
        for name in sorted(recorded - present)
    ]
    faults += [
        f"{folder / name} is not recorded by DVC, so a clone would lack it; remove what was taken"
        f" away or is another branch's: dvc checkout; or record it: dvc add {folder / name}"
        for name in sorted(present - recorded)
    ]
    raise_faults(faults)
    return sorted(recorded)


def list_images(folder: Path, classes: Sequence[str]) -> Iterator[tuple[Path, int | DataError]]:
    """Yield each file in the folders of classes below `folder`, with its label or what is wrong.

    What has a name that begins with a dot is left out.
    """
    labels = {class_folder(name): label for label, name in enumerate(classes)}
    unreadable: list[OSError] = []
    for top, folders, files in os.walk(folder, onerror=unreadable.append):
        links = [name for name in folders if Path(top, name).is_symlink()]
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(top, name) for name in sorted(files + links) if name[0] != "."):
            parts = path.relative_to(folder).parts
            if path.exists() and not path.is_file():
                kind = "a link to a folder" if path.is_dir() else "no file"
                yield (
                    path,
                    DataError(f"{printable(path)} is {kind}; only files are read"),
                )
            elif len(parts) == 2 and parts[0] in labels:
                yield path, labels[parts[0]]
            else:
                yield (
                    path,
                    DataError(
                        f"{printable(path)} must lie in the folder of a class,"
                        f" {printable(folder)}/CLASS/; the classes are {', '.join(labels)}"
                    ),
                )
    for error in unreadable:
        path = Path(error.filename)
        yield path, DataError(f"{printable(path)} cannot be read: {error.strerror}")


def read_in_form(path: Path, known: KnownImages) -> Prepared:
    """Return an image file in the form of the data set's images.

    It is in that form if `mnist add` has stored it, or if it is a training image of the data set:
    not if another own image has these pixels, which may be read before it or after. Raises
    DataError for what is no image, and for a test image of the data set, inverted or not.
    """
    place = printable(path)
    if (stored := read_stored(path)) is not None:
        refuse_test_image(stored, known, place)
        return Prepared(stored, on_plain_background=True)
    try:
        grey = read_image(str(path))
    except DataError as error:
        raise DataError(str(error).replace(str(path), place)) from error
    if grey.shape == (IMAGE_SIZE, IMAGE_SIZE):
        pixels = grey.round().astype(np.uint8)
        refuse_test_image(pixels, known, place)
        if pixel_hash(pixels) in known.train:
            return Prepared(pixels, on_plain_background=True)
    return bring_into_form(grey, place, known.info.preparation)


def read_stored(path: Path) -> UInt8Array | None:
    """Return the pixels of a file that `mnist add` has stored: their hash is its name.

    None for any other file, such as one that is named by the hash of its bytes, as in buckets.
    """
    if not STORED_NAME.fullmatch(path.name):
        return None
    try:
        with path.open("rb") as file:
            if file.read(len(STORED_START)) != STORED_START:
                return None
            file.seek(0)
            with Image.open(file, formats=["PNG"]) as image:
                pixels = np.asarray(image)
    except Exception:  # it is damaged: who reads it as any image says how
        return None
    return pixels if pixel_hash(pixels) == path.stem else None


def refuse_test_image(pixels: UInt8Array, known: KnownImages, place: str) -> None:
    """Raise DataError for a test image of the data set, inverted or not."""
    for image in (pixels, 255 - pixels):
        known.refuse_test_image(pixel_hash(image), place)


def read_own_images(folder: Path, known: KnownImages) -> OwnImages:
    """Return every own image once.

    Raises DataError with every fault of every file, each in a line.
    """
    # Bytes, which grow in place: as objects of Python, 100,000 images take four times the memory.
    pixels, labels, hashes = bytearray(), bytearray(), bytearray()
    batches: dict[str, slice] = {}
    faults = []
    for batch in find_batches(folder):
        start = len(labels)
        for path, label in list_images(folder / batch, known.info.classes):
            try:
                if isinstance(label, DataError):
                    raise label
                image = read_in_form(path, known).image
                image_hash = pixel_hash(image)
                if known.add(image_hash, label, printable(path)):
                    pixels += image.tobytes()
                    labels.append(label)
                    hashes += bytes.fromhex(image_hash)
            except DataError as error:
                faults.append(str(error))
        batches[batch] = slice(start, len(labels))
    raise_faults(faults)
    return OwnImages(
        images=np.frombuffer(pixels, np.uint8).reshape(-1, 1, IMAGE_SIZE, IMAGE_SIZE),
        labels=np.frombuffer(labels, np.uint8),
        hashes=np.frombuffer(hashes, np.uint8).reshape(-1, HASH_DIGITS // 2),
        batches=batches,
    )


def split_of(image_hash: str, validation: float, test: float) -> Split:
    """Return the split of an own image, which depends on nothing but the image.

    `validation` and `test` are the shares of images that are held out.
    """
    place = int(image_hash[:8], 16) / 2**32
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def raise_faults(faults: Sequence[str]) -> None:
    if faults:
        raise DataError("\nerror: ".join(faults))


def printable(path: Path) -> str:
    """The path on one line, whatever bytes its name has."""
    name = str(path)
    return name if name.isprintable() else repr(name)
