"""From digits to logits."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.mnist.tensors import TensorInfo, open_tensors, read_metadata

EVALUATION_BATCH = 250  # images: bounds memory, changes no result


@dataclass(frozen=True)
class TensorDigits:
    """Images uint8 [N, 1, 28, 28] and labels int64 [N] on one device, and how to feed them."""

    images: Tensor
    labels: Tensor
    info: TensorInfo


def load_to_device(path: Path, device: torch.device) -> TensorDigits:
    """Raise DataError where `path` is missing or not a file of digits.

    On a CPU the images stay in the file's pages.
    """
    with open_tensors(path, framework="pt", made_by="preprocess") as file:
        info = read_metadata(file, TensorInfo)
        return TensorDigits(
            file.get_tensor("images").to(device), file.get_tensor("labels").to(device).long(), info
        )


def predict(network: nn.Module, digits: TensorDigits) -> Tensor:
    """Logits float32 [N, classes]."""
    network.eval()
    with torch.inference_mode():
        batches = digits.images.split(EVALUATION_BATCH)
        return torch.cat([network(normalize(images, digits.info)) for images in batches])


def normalize(images: Tensor, info: TensorInfo) -> Tensor:
    """Pixels uint8 0..255 → float32 (pixel / 255 - mean) / std."""
    return images.float().div_(255).sub_(info.mean).div_(info.std)
