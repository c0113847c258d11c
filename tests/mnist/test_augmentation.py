"""Changes of training images."""

import torch
import torch.nn.functional as F

from pipeline.mnist.augmentation import random_shift


def test_each_image_moves_by_its_own_offset_and_zeros_come_in() -> None:
    image = (
        torch.arange(1, 785, dtype=torch.int64)
        .remainder(255)
        .add(1)
        .to(torch.uint8)
        .view(1, 1, 28, 28)
    )
    moved = random_shift(image.repeat(200, 1, 1, 1), 1, torch.Generator().manual_seed(1))
    padded = F.pad(image, [1, 1, 1, 1])
    possible = [padded[0, :, y : y + 28, x : x + 28] for y in range(3) for x in range(3)]
    seen = {
        next(i for i, window in enumerate(possible) if torch.equal(window, picture))
        for picture in moved
    }
    assert seen == set(range(9))


def test_no_shift_leaves_the_images_alone() -> None:
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    assert random_shift(images, 0, torch.Generator()) is images
