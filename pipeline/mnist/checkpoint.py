"""Checkpoints: tensors and plain values in one safetensors file, checked when they are read.

They are in a folder that Git ignores and that holds no output of DVC, because DVC deletes the
outputs of a stage before it runs the stage. A checkpoint's name is a fingerprint of everything that
its training depends on, so another training never takes it for its own.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.mnist.tensors import METADATA_KEY, write_tensors
from pipeline.paths import CHECKPOINTS

MAX_CHECKPOINTS = 5  # the newest are kept, for killed trainings that may be started again


class Checkpoint(NamedTuple):
    tensors: dict[str, Tensor]
    values: dict[str, Any]  # what JSON can hold


def checkpoint_path(inputs: list[Path], **facts: Any) -> Path:
    """Return the path for a training on the files `inputs`, with `facts`, by the code loaded now.

    Args:
        inputs: the files that the training reads
        facts: whatever else it depends on, as values for JSON
    """
    modules = [
        module
        for name, module in sys.modules.items()
        if name == "__main__" or name.startswith("pipeline.")
    ]
    files = {getattr(module, "__file__", None) for module in modules}
    code = [Path(file) for file in files if file]  # an interactive __main__ has no file
    digests = [*sorted(map(file_digest, code)), *map(file_digest, inputs)]
    content = json.dumps([digests, facts], sort_keys=True)
    return CHECKPOINTS / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.safetensors"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint, and remove the oldest of its folder if there are too many."""
    tensors = {  # copies, because tied weights share their memory, which safetensors refuses
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in checkpoint.tensors.items()
    }
    values = json.dumps(checkpoint.values)
    metadata = json.dumps({"sha256": digest(tensors, values), "values": values})
    with write_tensors(path) as temporary:
        save_file(tensors, temporary, metadata={METADATA_KEY: metadata})
    files = sorted(path.parent.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
    for old in files[:-MAX_CHECKPOINTS]:
        old.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> Checkpoint | None:
    """Return None if there is no checkpoint, or, with a warning, if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name).clone() for name in names}
            metadata = json.loads(file.metadata()[METADATA_KEY])
        if metadata["sha256"] != digest(tensors, metadata["values"]):
            raise ValueError("its checksum is wrong")
        return Checkpoint(tensors, json.loads(metadata["values"]))
    except FileNotFoundError:
        return None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        print(
            f"warning: the checkpoint {path} is damaged ({error}); training from the start",
            file=sys.stderr,
        )
        return None


def digest(tensors: dict[str, Tensor], values: str) -> str:
    sha256 = hashlib.sha256(values.encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
