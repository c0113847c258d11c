"""Changes of training images that leave what they show."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.mnist.idx import IMAGE_SIZE


def random_shift(images: Tensor, max_shift: int, generator: torch.Generator) -> Tensor:
    """Move each image [B, 1, 28, 28] by its own offset of up to `max_shift` pixels, both ways.

    Zeros come in at the edge.
    """
    if max_shift == 0:
        return images
    padded = F.pad(images.squeeze(1), [max_shift] * 4)
    # a view of every window of every image: [B, offsets, offsets, 28, 28]
    windows = padded.unfold(1, IMAGE_SIZE, 1).unfold(2, IMAGE_SIZE, 1)
    down, right = torch.randint(2 * max_shift + 1, (2, len(images)), generator=generator)
    return windows[torch.arange(len(images)), down, right].unsqueeze(1)
