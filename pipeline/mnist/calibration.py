"""Temperature scaling: confidences as high as the share that they get right.

One number divides all logits (Guo and others, 2017: https://arxiv.org/abs/1706.04599). No
prediction changes, only how sure it is. Label smoothing makes a network too unsure without it.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = 20.0  # and its inverse is the smallest; reached if all are right, or the labels are noise
CUTS = 60  # each leaves two thirds of the interval that is searched


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature at which held-out logits have the least cross-entropy.

    Args:
        logits: float [N, classes], of images that the network was not trained on
        labels: int64 [N]
    """
    logits, labels = logits.double().cpu(), labels.cpu()

    def loss(logarithm: float) -> float:
        return F.cross_entropy(logits / math.exp(logarithm), labels).item()

    low, high = -math.log(LARGEST), math.log(LARGEST)
    for _ in range(CUTS):  # the loss has one minimum, so a third without it can go
        third = (high - low) / 3
        if loss(low + third) < loss(high - third):
            high -= third
        else:
            low += third
    return math.exp((low + high) / 2)


def divide_logits(network: nn.Module, temperature: float) -> None:
    """Have the network return its logits divided by the temperature."""
    if temperature != 1:
        network.register_forward_hook(lambda module, images, logits: logits / temperature)
