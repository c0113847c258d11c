"""Files of tensors: what comes back, their bytes and what is refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.mnist.idx import Digits
from pipeline.mnist.tensors import TensorInfo, load_digits, save_digits

INFO = TensorInfo(dataset="MNIST", classes=("zero", "one"), mean=0.1, std=0.3)


def test_digits_come_back_as_they_were_saved(tmp_path: Path) -> None:
    path = tmp_path / "digits.safetensors"
    digits = Digits(
        np.arange(2 * 784, dtype=np.uint8).reshape(2, 1, 28, 28), np.array([1, 0], dtype=np.uint8)
    )
    save_digits(path, digits, INFO)
    loaded, info = load_digits(path)
    assert np.array_equal(loaded.images, digits.images)
    assert np.array_equal(loaded.labels, digits.labels)
    assert info == INFO


def test_equal_digits_give_equal_bytes_in_every_process(tmp_path: Path) -> None:
    """safetensors itself writes several entries of metadata in another order in each process."""
    program = (
        "import numpy as np, sys; from pathlib import Path; from pipeline.mnist.idx import Digits;"
        "from pipeline.mnist.tensors import TensorInfo, save_digits;"
        "digits = Digits(np.zeros((1, 1, 28, 28), np.uint8), np.zeros(1, np.uint8));"
        "save_digits(Path(sys.argv[1]), digits, TensorInfo(dataset='x', classes=('a', 'b'),"
        " mean=0.5, std=0.5))"
    )
    paths = [tmp_path / str(number) for number in range(4)]
    for path in paths:
        subprocess.run([sys.executable, "-c", program, path], check=True)
    assert len({path.read_bytes() for path in paths}) == 1


@pytest.mark.parametrize(
    "content", [b"", b"nothing of the kind", (2**40).to_bytes(8, "little") + b"{}"]
)
def test_a_file_that_holds_no_digits_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "digits.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"is not what the preprocess stage writes") as error:
        load_digits(path)
    assert "\n" not in str(error.value)
