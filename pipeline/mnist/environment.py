"""The machine and the versions that decide a training's bytes, kept as a receipt of the model.

A receipt is no output of a stage, because an output must not differ from machine to machine. It is
a file in Git, named by the hash of its model. So it also fits a model that DVC restores.
"""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from pipeline.files import atomic_write
from pipeline.paths import RECEIPTS

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


def write_receipt(model: Path, environment: Environment) -> None:
    """Keep the environment that made the file `model`, under the hash that dvc.lock has for it."""
    md5 = hashlib.md5(model.read_bytes(), usedforsecurity=False).hexdigest()
    with atomic_write(RECEIPTS / f"{md5}.json") as temporary:
        temporary.write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")
