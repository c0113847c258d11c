"""How PyTorch's threads wait for one another beside other processes. To be imported before torch.

PyTorch's wheels for Linux bring GNU's OpenMP, whose threads spin for 300,000 turns. That is lost
when another process has the core of the thread that is waited for: two trainings at once took two
to nine times as long as one after the other. LLVM's gives its core away while it waits. So it is
used where the machine has it, with the same results to the byte; elsewhere GNU's spins for less
long, which costs some speed. docs/benchmarks.md has the figures.
"""

import os
import sys
from contextlib import suppress
from ctypes import CDLL, RTLD_GLOBAL
from tempfile import TemporaryFile

LLVM = ("libomp.so.5", "libomp.so")  # what Debian calls it, and what others do


def load_llvm() -> None:
    """Load LLVM's OpenMP, where torch will find its functions first; raise OSError without space.

    It takes a page of shared memory. If that is full, it would die of a bus error.
    """
    with TemporaryFile(dir="/dev/shm") as page:
        page.write(bytes(4096))
    for name in LLVM:
        with suppress(OSError):
            CDLL(name, RTLD_GLOBAL)
            return


os.environ.setdefault("KMP_BLOCKTIME", "1")  # LLVM's: milliseconds
os.environ.setdefault("GOMP_SPINCOUNT", "700")  # GNU's: turns
if "torch" not in sys.modules:  # two of them in one program would count each other's threads wrong
    with suppress(OSError):
        load_llvm()
