"""Image files that become own images: checked, brought into form, and stored under their hashes."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipeline.errors import DataError
from pipeline.mnist.idx import (
    DatasetInfo,
    UInt8Array,
    pixel_hash,
    read_dataset_info,
    read_raw,
)
from pipeline.mnist.known_images import Known, KnownImages
from pipeline.mnist.own_data import (
    class_folder,
    find_batches,
    list_images,
    printable,
    read_in_form,
)

Labelled = tuple[Path, int | DataError]  # a file, with its label or what is wrong with it


@dataclass(frozen=True)
class Additions:
    """What has become of image files."""

    new: dict[str, int]  # classes with how many images were stored
    known: int  # files whose image is here already, or is that of an earlier file
    faults: list[str]
    digest: str  # of the stored images with their labels

    @property
    def count(self) -> int:
        return sum(self.new.values())

    @property
    def classes(self) -> str:
        """1 of 0, 2 of 7"""
        return ", ".join(f"{number:,} of {name}" for name, number in self.new.items())


def read_data_set(raw: Path) -> KnownImages:
    """Return the images of the data set that the fetch stage has written. Raises DataError."""
    info = read_dataset_info(raw)
    return KnownImages.of_data_set(info, read_raw(raw, "train"), read_raw(raw, "test"))


def note_own_images(known: KnownImages, own: Path) -> None:
    """Note the images of all batches.

    What is wrong in a batch, the preprocess stage says. Raises DataError if a batch is not here.
    """
    for batch in find_batches(own):
        for path, label in list_images(own / batch, known.info.classes):
            if isinstance(label, DataError):
                continue
            try:
                name = pixel_hash(read_in_form(path, known).image)
            except DataError:
                continue
            known.own.setdefault(name, Known(label, printable(path)))


def list_given(names: Iterable[str], class_name: str, info: DatasetInfo) -> Iterable[Labelled]:
    """Return image files of one class, which is named as in the data set or as its folder is."""
    labels = {class_folder(name): label for label, name in enumerate(info.classes)}
    if (label := labels.get(class_folder(class_name))) is None:
        raise DataError(
            f"{info.dataset} has no class {class_name!r}; its classes are {', '.join(info.classes)}"
        )
    return [(Path(name), label) for name in names]


def list_folder(folder: Path, info: DatasetInfo) -> Iterator[Labelled]:
    """Yield the files in a folder of folders of classes; a link that leads out of it is refused."""
    inside = os.path.realpath(folder)
    for path, label in list_images(folder, info.classes):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
            where = f"a link out of {printable(folder)}"
            yield path, DataError(f"{printable(path)} is {where}; put the file itself there")
        else:
            yield path, label


def store(files: Iterable[Labelled], known: KnownImages, folder: Path) -> Additions:
    """Check every file, and write each new image to FOLDER/CLASS/HASH.png, one after the other."""
    stored: dict[str, int] = {}  # the labels of the images
    doubtful: set[str] = set()
    faults: list[str] = []
    repeated: Counter[str] = Counter()
    for path, label in files:
        try:
            if isinstance(label, DataError):
                raise label
            image = read_drawing(path, known)
            name = pixel_hash(image)
            if stored.get(name, label) != label:
                doubtful.add(name)
            is_new = known.add(name, label, printable(path))
        except DataError as error:
            faults.append(str(error))
        else:
            if is_new:
                stored[name] = label
                write(image, place(folder, known.info, label, name))
            else:
                repeated[name] += 1
    for name in doubtful:  # two labels in these files: nobody knows which is right
        place(folder, known.info, stored.pop(name), name).unlink()
        del repeated[name]
    return Additions(name_counts(stored, known.info), repeated.total(), faults, digest(stored))


def place(folder: Path, info: DatasetInfo, label: int, name: str) -> Path:
    return folder / class_folder(info.classes[label]) / f"{name}.png"


def write(image: UInt8Array, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def name_counts(stored: Mapping[str, int], info: DatasetInfo) -> dict[str, int]:
    """Return how many images each class has that has any."""
    counts = Counter(stored.values())
    return {info.classes[label]: counts[label] for label in sorted(counts)}


def digest(stored: Mapping[str, int]) -> str:
    lines = sorted(f"{name} {label}\n" for name, label in stored.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_drawing(path: Path, known: KnownImages) -> UInt8Array:
    """Return an image file in the data set's form; raise DataError if it shows several things."""
    image, on_plain_background = read_in_form(path, known)
    if not on_plain_background:
        subject = known.info.subject
        raise DataError(
            f"{printable(path)} shows no single {subject} on a plain background; crop it to one"
        )
    return image
