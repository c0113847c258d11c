"""From digits to logits."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.mnist.tensors import TensorInfo, open_tensors, read_metadata

EVALUATION_BATCH = 250  # images; bounds memory and changes no result


@dataclass(frozen=True)
class TensorDigits:
    """Digits on one device, with the mean and std to normalize them by."""

    images: Tensor  # uint8 [N, 1, 28, 28]
    labels: Tensor  # int64 [N]
    info: TensorInfo


def load_to_device(path: Path, device: torch.device) -> TensorDigits:
    """Load a tensor file of the preprocess stage. Raises DataError.

    On a CPU the images are mapped from the file, not copied.
    """
    with open_tensors(path, framework="pt", made_by="preprocess") as file:
        info = read_metadata(file, TensorInfo)
        images, labels = file.get_tensor("images"), file.get_tensor("labels")
        return TensorDigits(images.to(device), labels.to(device).long(), info)


def load_with_own(path: Path, own_path: Path, device: torch.device) -> tuple[TensorDigits, int]:
    """Load the images of a split, the own ones last; return how many are own. Raises DataError."""
    digits, own = (load_to_device(file, device) for file in (path, own_path))
    if not len(own.labels):
        return digits, 0  # still mapped from its file
    images = torch.cat([digits.images, own.images])
    labels = torch.cat([digits.labels, own.labels])
    return TensorDigits(images, labels, digits.info), len(own.labels)


def predict(network: nn.Module, digits: TensorDigits) -> Tensor:
    """Return logits float32 [N, classes]."""
    network.eval()
    with torch.inference_mode():
        batches = digits.images.split(EVALUATION_BATCH)
        return torch.cat([network(normalize(images, digits.info)) for images in batches])


def normalize(images: Tensor, info: TensorInfo) -> Tensor:
    """Turn pixels uint8 0..255 into float32 (pixel / 255 - mean) / std."""
    return images.float().div_(255).sub_(info.mean).div_(info.std)
