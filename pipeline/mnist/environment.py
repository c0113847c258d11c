"""What decides a training's bytes besides its code, data and parameters, and the receipt that keeps
it.

A receipt is no output of a stage, which must not differ from machine to machine: it lies next to
them in Git, under the hash of the model that it tells of, so that it fits whether the model was
trained or restored.
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
    """The processor's model; Linux tells it in a file only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def write_receipt(made: Path, environment: Environment) -> None:
    """Keep what made the file `made`, under the hash that dvc.lock gives it."""
    md5 = hashlib.md5(made.read_bytes(), usedforsecurity=False).hexdigest()
    with atomic_write(RECEIPTS / f"{md5}.json") as temporary:
        temporary.write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")
