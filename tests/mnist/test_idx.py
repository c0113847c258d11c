"""IDX files: what is read, and what is refused."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.mnist.idx import read_idx, read_raw
from pipeline.mnist.tensors import TensorInfo

INFO = TensorInfo(dataset="MNIST", classes=("zero", "one"), mean=0.1, std=0.3)


def idx(*shape: int, content: bytes | None = None, kind: int = 8) -> bytes:
    """An IDX file of zeros, or of `content`."""
    size = int(np.prod(shape))
    header = bytes([0, 0, kind, len(shape)]) + b"".join(
        length.to_bytes(4, "big") for length in shape
    )
    return header + (bytes(size) if content is None else content)


def write_raw(folder: Path, images: bytes, labels: bytes) -> Path:
    (folder / "train-images-idx3-ubyte").write_bytes(images)
    (folder / "train-labels-idx1-ubyte").write_bytes(labels)
    return folder


def test_read_idx_gives_the_bytes_in_their_shape(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(idx(2, 3, content=bytes(range(6))))
    assert read_idx(path, 2).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_read_raw_adds_the_channel(tmp_path: Path) -> None:
    digits = read_raw(write_raw(tmp_path, idx(3, 28, 28), idx(3, content=b"\0\5\t")), "train")
    assert digits.images.shape == (3, 1, 28, 28)
    assert digits.labels.tolist() == [0, 5, 9]


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (b"", idx(2), "images-idx3-ubyte must start with the IDX magic 00000803, got nothing"),
        (
            b"<!doctype html>",
            idx(2),
            "images-idx3-ubyte must start with the IDX magic 00000803, got 3c21646f",
        ),
        (
            idx(2, 28, 28, kind=13),
            idx(2),
            "images-idx3-ubyte must start with the IDX magic 00000803, got 00000d03",
        ),
        (idx(2), idx(2), "images-idx3-ubyte must start with the IDX magic 00000803, got 00000801"),
        (
            idx(2, 28, 28)[:10],
            idx(2),
            "images-idx3-ubyte is truncated: its header must be 16 bytes, got 10",
        ),
        (idx(2, 28, 28)[:-1], idx(2), "says 2×28×28 and so must be 1,584 bytes, got 1,583"),
        (idx(2, 28, 28) + b"\0", idx(2), "says 2×28×28 and so must be 1,584 bytes, got 1,585"),
        (idx(2**32 - 1, 0, 0)[:4] + b"\xff" * 12, idx(2), "says 4294967295×4294967295×4294967295"),
        (idx(2, 8, 8), idx(2), "must hold images of 28×28 pixels, got 8×8"),
        (idx(2, 28, 28), idx(3), "images-idx3-ubyte holds 2 images but"),
        (idx(0, 28, 28), idx(0), "images-idx3-ubyte holds no images"),
        (
            idx(2, 28, 28),
            idx(2, content=b"\1\n"),
            "labels-idx1-ubyte must hold labels 0 to 9, got 10 at position 1",
        ),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(
    tmp_path: Path, images: bytes, labels: bytes, expected: str
) -> None:
    with pytest.raises(DataError) as error:
        read_raw(write_raw(tmp_path, images, labels), "train")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte is missing; run the fetch stage: dvc repro fetch"
    ):
        read_raw(tmp_path, "train")


lengths = st.lists(st.integers(0, 5), min_size=1, max_size=4)


headers = st.one_of(  # whose claims may be false, plausible or absurd
    st.binary(max_size=40),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4).map(
        lambda shape: (
            bytes([0, 0, 8, len(shape)]) + b"".join(length.to_bytes(4, "big") for length in shape)
        )
    ),
)


@given(lengths, st.data())
@settings(deadline=None)
def test_every_valid_idx_file_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "valid.idx"
    size = int(np.prod(shape))
    content = data.draw(st.binary(min_size=size, max_size=size))
    path.write_bytes(idx(*shape, content=content))
    array = read_idx(path, len(shape))
    assert (array.shape, array.tobytes()) == (tuple(shape), content)


@given(headers, st.binary(max_size=200), st.integers(1, 4))
@settings(deadline=None)
def test_any_other_bytes_are_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, header: bytes, content: bytes, dimensions: int
) -> None:
    """Whatever the header claims, the array is no larger than the file."""
    path = tmp_path_factory.getbasetemp() / "hostile.idx"
    path.write_bytes(header + content)
    try:
        assert read_idx(path, dimensions).nbytes <= len(header + content)
    except DataError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "content",
    [
        bytes([0, 0, 8, 3]) + b"\x00\xff\xff\xff" + (28).to_bytes(4, "big") * 2,
        (2**40).to_bytes(8, "little") + b"{",
        (80).to_bytes(8, "little")
        + b'{"images":{"dtype":"U8","shape":[99999999,1,28,28],"data_offsets":[0,8]}}'.ljust(80)
        + bytes(8),
    ],
)
def test_a_file_that_claims_gigabytes_takes_none(tmp_path: Path, content: bytes) -> None:
    """The program has 4 GB of address space, most of it taken by Python and its libraries."""
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    program = (
        "import sys; from pathlib import Path; from pipeline.errors import DataError\n"
        "from pipeline.mnist.idx import read_idx; from pipeline.mnist.tensors import load_digits\n"
        "for read in (lambda p: read_idx(p, 3), load_digits):\n"
        " try: read(Path(sys.argv[1]))\n"
        " except DataError: print('refused')"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))

    result = subprocess.run(
        [sys.executable, "-c", program, path], preexec_fn=limit, capture_output=True, text=True
    )
    assert (result.stdout, result.stderr) == ("refused\n" * 2, "")
