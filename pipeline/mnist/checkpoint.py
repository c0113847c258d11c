"""Checkpoints: tensors and plain values in one safetensors file, checked when read.

They lie in an ignored folder, outside DVC's outs, which DVC deletes before it runs a stage. A file
is named by the fingerprint of all that its training depends on, so no other training ever picks it
up.
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

KEPT = 5  # files, the newest: trainings that were killed and may yet be taken up again


class Checkpoint(NamedTuple):
    tensors: dict[str, Tensor]
    values: dict[str, Any]  # what JSON can hold


def checkpoint_path(inputs: list[Path], **facts: Any) -> Path:
    """The place for a training on these files, with these facts (as JSON), by the code
    loaded now.
    """
    modules = [
        module
        for name, module in sys.modules.items()
        if name == "__main__" or name.startswith("pipeline.")
    ]
    code = {
        getattr(module, "__file__", None) for module in modules
    }  # an interactive __main__ has none
    digests = sorted(file_digest(Path(path)) for path in code if path) + [
        file_digest(path) for path in inputs
    ]
    content = json.dumps([digests, facts], sort_keys=True)
    return CHECKPOINTS / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.safetensors"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()
    }
    values = json.dumps(checkpoint.values)
    metadata = json.dumps({"sha256": digest(tensors, values), "values": values})
    with write_tensors(path) as temporary:
        save_file(tensors, temporary, metadata={METADATA_KEY: metadata})
    for old in sorted(path.parent.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)[
        :-KEPT
    ]:
        old.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> Checkpoint | None:
    """None where there is no checkpoint, or, with a warning, where it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
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
