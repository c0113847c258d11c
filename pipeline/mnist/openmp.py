"""How PyTorch's threads wait for one another beside other processes. To be imported before torch.

PyTorch's wheels for Linux bring GNU's OpenMP, whose threads spin for 300,000 turns. That is lost
when another process has the core of the thread that is waited for: two trainings at once took 2.8
times as long as one after the other. LLVM's gives its core away while it waits. So it is used where
the machine has it, with the same results to the byte; elsewhere GNU's spins for less long, which
costs some speed. docs/benchmarks.md has the figures.
"""

import contextlib
import ctypes
import os
import sys

LLVM = ("libomp.so.5", "libomp.so")  # what Debian calls it, and what others do

os.environ.setdefault("KMP_BLOCKTIME", "1")  # LLVM's: milliseconds
os.environ.setdefault("GOMP_SPINCOUNT", "700")  # GNU's: turns
if "torch" not in sys.modules:  # two of them in one program would count each other's threads wrong
    for name in LLVM:
        with contextlib.suppress(OSError):
            ctypes.CDLL(name, ctypes.RTLD_GLOBAL)  # where torch will find OpenMP's functions first
            break
