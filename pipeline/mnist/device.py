"""The device that torch computes on, determinism, and the memory allocator."""

import ctypes
import os
import platform
from typing import Literal

import torch

from pipeline.errors import ParamsError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["float32", "bfloat16"]


def choose_device(name: DeviceName, parameter: str) -> torch.device:
    """Return the device of that name; "auto" is the fastest that this machine has.

    Raises ParamsError, which names `parameter`, if this machine has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    usable = [device for device, is_here in available.items() if is_here]
    if name != "auto" and name not in usable:
        raise ParamsError(
            f"params.yaml: {parameter} must be auto or what this machine has"
            f" ({', '.join(usable)}), got '{name}'"
        )
    return torch.device(usable[0] if name == "auto" else name)


def check_precision(precision: Precision, device: torch.device, parameter: str) -> None:
    """Raise ParamsError, which names `parameter`, unless the device computes in that precision."""
    if precision == "bfloat16" and not has_bfloat16(device):
        raise ParamsError(
            f"params.yaml: {parameter} must be float32 here, because this machine's {device.type}"
            f" has no arithmetic in bfloat16, got '{precision}'"
        )


def has_bfloat16(device: torch.device) -> bool:
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def make_deterministic(seed: int) -> None:
    """Let equal inputs give equal bytes on this machine.

    To be called before anything is put on a device.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it for determinism
    torch.use_deterministic_algorithms(True)
    # filling memory costs time, and no code here reads what it has not written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch does not type it
    torch.manual_seed(seed)


def keep_freed_memory() -> None:
    """Have glibc keep freed activations for the next step, not return them to the kernel.

    The kernel would hand back zeroed pages, with one page fault for each 4 KiB in every step.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 * 2**20)  # the maximum; larger blocks do go back
        libc.mallopt(trim_threshold, 2**31 - 1)
