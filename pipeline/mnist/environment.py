"""The machine and the versions that decide a training's bytes, kept as a receipt of the model.

The receipt is an output of train, so it comes with the model wherever DVC restores or carries it.
No stage depends on it, and what compares outputs leaves it out: it differs from machine to machine.
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from pipeline.files import atomic_write
from pipeline.paths import RECEIPT

PACKAGES = ("matplotlib", "numpy", "pandas", "pillow", "safetensors", "scikit-learn", "torch")

Environment = dict[str, str | int]


def describe_environment(device: torch.device) -> Environment:
    return {
        "device": device.type if device.type != "cuda" else torch.cuda.get_device_name(device),
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "system": " ".join([platform.system(), platform.machine(), *platform.libc_ver()]).strip(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def processor() -> str:
    """Return the processor's model name, which Linux gives only in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def write_receipt(environment: Environment) -> None:
    """Write the receipt as a list of one, because DVC shows the items of an object as metrics."""
    with atomic_write(RECEIPT) as temporary:
        temporary.write_text(json.dumps([environment], indent=2) + "\n", encoding="utf-8")
