"""OpenMP's threads: what the train stage sets before torch loads them."""

import ctypes
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.mnist import openmp
from pipeline.paths import HISTORY, MODEL

SHOW_SETTINGS = """
import os, sys
class Watch:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))
sys.meta_path.insert(0, Watch())
import pipeline.stages.train
"""
TRAIN = """
from pipeline.stages import train
train.main()
"""


def has_llvm() -> bool:
    for name in openmp.LLVM:
        with suppress(OSError):
            ctypes.CDLL(name)
            return True
    return False


WITH_LLVM = pytest.mark.skipif(not has_llvm(), reason="there is no LLVM's OpenMP; install libomp5")


@pytest.mark.parametrize("chosen", [None, "5"])
def test_the_train_stage_sets_it_before_torch_unless_a_person_has(chosen: str | None) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if chosen:
        variables["GOMP_SPINCOUNT"] = chosen
    command = [sys.executable, "-c", SHOW_SETTINGS]
    seen = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout
    if chosen:
        assert seen == f"{chosen}\n"
    else:
        assert 0 < int(seen) < 10_000


@WITH_LLVM
@pytest.mark.parametrize("largest_file", [200, 4096])
def test_without_shared_memory_torch_computes(largest_file: int) -> None:
    """Of which LLVM's wants a page, and dies without."""
    program = (
        "from pipeline.mnist import openmp; import torch; print(torch.ones(10**6).sum().item())"
    )
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({largest_file},) * 2);"
    command = [sys.executable, "-c", limit + program]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert (shown.returncode, shown.stdout) == (0, "1000000.0\n"), shown.stderr


@WITH_LLVM
def test_llvms_and_gnus_train_to_the_same_bytes(finished_workspace: Path) -> None:
    def run(program: str) -> tuple[bool, bytes, bytes]:
        """Whether LLVM's has shown its settings, as it does when it starts, and the results."""
        MODEL.unlink()
        shown = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"KMP_SETTINGS": "1", "OMP_NUM_THREADS": "2"},
            capture_output=True,
            text=True,
            check=True,
        ).stderr
        return "KMP_BLOCKTIME=1" in shown, MODEL.read_bytes(), HISTORY.read_bytes()

    gnus, llvms = run(f"import torch{TRAIN}"), run(TRAIN)
    assert (gnus[0], llvms[0]) == (False, True)
    assert gnus[1:] == llvms[1:]
