"""The device, determinism and memory of a training or an evaluation."""

import ctypes
import os
import platform
from typing import Literal

import torch

from pipeline.errors import ParamsError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(name: DeviceName, parameter: str) -> torch.device:
    """Raise ParamsError, naming `parameter`, where this machine has no such device."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    usable = [device for device, here in available.items() if here]
    if name != "auto" and name not in usable:
        devices = ", ".join(usable)
        raise ParamsError(
            f"params.yaml: {parameter} must be auto or what this machine has ({devices}), got"
            f" '{name}'"
        )
    return torch.device(usable[0] if name == "auto" else name)


def make_deterministic(seed: int) -> None:
    """Equal inputs give equal bytes on one machine; call before anything is put on a device."""
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # cuBLAS is only deterministic with it
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # all is written
    torch.manual_seed(seed)


def keep_freed_memory() -> None:
    """Have glibc keep freed activations for the next step instead of returning them to the kernel.

    The kernel would hand back zeroed pages, one fault for each 4 KiB, every step.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 * 2**20)  # the most it takes; larger blocks do go back
        libc.mallopt(trim_threshold, 2**31 - 1)
