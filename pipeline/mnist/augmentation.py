"""Changes of training images that leave what they show."""

import math
from functools import cache

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.mnist.idx import IMAGE_SIZE
from pipeline.params import Params

GRID = 5  # points of the elastic grid, each way
RADIUS = IMAGE_SIZE / 2  # pixels in a unit of grid_sample's coordinates, which go from -1 to 1


class Distortion(Params):
    """How far each training image is changed, at most and either way; 0: not at all."""

    rotation: float = Field(ge=0, le=180)  # degrees
    scaling: float = Field(ge=0, lt=1)  # share of the width and, drawn apart, of the height
    shear: float = Field(ge=0, le=1)  # columns to the side, for each row down
    translation: float = Field(ge=0, le=RADIUS)  # pixels, down and to the side
    elastic: float = Field(ge=0, le=RADIUS)  # pixels: standard deviation of the grid's points


def distort(images: Tensor, distortion: Distortion, generator: torch.Generator) -> Tensor:
    """Change each image [B, 1, 28, 28] in its own way, by one bilinear resampling.

    Each pixel of the result looks up a place of the image. Where it looks is an affine map, which
    rotates, scales, shears and moves, and on it the moves of a coarse grid of points, bicubic
    between them (Simard and others, 2003). Zeros come in at the edge.

    Args:
        images: of any type, 0 where there is nothing
        distortion: the bounds
        generator: on the CPU, so that every device draws the same

    Returns:
        float32, or the images themselves if nothing is to be changed
    """
    if not any(distortion.model_dump().values()):
        return images
    moves = [draw_affine(len(images), distortion, generator)]
    if distortion.elastic:
        points = torch.randn(len(images), 2, GRID * GRID, generator=generator)
        moves.append(points * (distortion.elastic / RADIUS))
    weights = torch.cat(moves, dim=2).to(images.device)
    places = weights @ basis(images.device)[: weights.shape[2]]
    grid = places.unflatten(2, (IMAGE_SIZE, IMAGE_SIZE)).permute(0, 2, 3, 1)
    return F.grid_sample(images.float(), grid, align_corners=False)


def draw_affine(images: int, distortion: Distortion, generator: torch.Generator) -> Tensor:
    """Return an affine map for each image: where x and y look, of x, y and 1. float32 [B, 2, 3]."""

    def draw(*shape: int) -> Tensor:
        return torch.rand(images, *shape, generator=generator) * 2 - 1

    angle = draw() * math.radians(distortion.rotation)
    wide, high = (1 + draw(2) * distortion.scaling).unbind(1)
    lean = draw() * distortion.shear
    right, down = (draw(2) * (distortion.translation / RADIUS)).unbind(1)
    cos, sin = angle.cos(), angle.sin()
    x = torch.stack([cos * wide, (cos * lean - sin) * high, right], dim=1)
    y = torch.stack([sin * wide, (sin * lean + cos) * high, down], dim=1)
    return torch.stack([x, y], dim=1)


@cache
def basis(device: torch.device) -> Tensor:
    """Return what the places of all pixels are sums of: x, y, 1, and the pull of each grid point.

    float32 [3 + GRID², 28²]
    """
    centres = (torch.arange(IMAGE_SIZE) + 0.5) / RADIUS - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.eye(GRID * GRID).view(-1, 1, GRID, GRID)
    pulls = F.interpolate(points, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=True)
    parts = torch.cat([torch.stack([x, y, torch.ones_like(x)]), pulls.squeeze(1)])
    return parts.flatten(1).to(device)
