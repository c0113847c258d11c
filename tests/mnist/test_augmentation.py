"""Changes of training images: where each pixel comes from."""

import math

import pytest
import torch
from helpers import NO_DISTORTION
from hypothesis import given
from hypothesis import strategies as st

from pipeline.mnist.augmentation import Distortion, distort, draw_affine

ALL = Distortion(rotation=10, scaling=0.1, shear=0.1, translation=1, elastic=0.7)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def only(**bounds: float) -> Distortion:
    return Distortion(**NO_DISTORTION | bounds)


def dots(x: int, y: int, images: int = 200) -> torch.Tensor:
    """Images with a blot of 3 × 3 around a pixel."""
    image = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    image[..., y - 1 : y + 2, x - 1 : x + 2] = 255
    return image.repeat(images, 1, 1, 1)


def centres(images: torch.Tensor) -> torch.Tensor:
    """The centre of mass of each image, x and y in pixels: [B, 2]."""
    axis, mass = torch.arange(28.0), images.sum((1, 2, 3))
    x, y = images.sum((1, 2)) @ axis, images.sum((1, 3)) @ axis
    return torch.stack([x / mass, y / mass], dim=1)


def test_without_a_distortion_the_images_are_left_alone() -> None:
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    assert distort(images, only(), generator()) is images


def test_each_image_is_changed_in_its_own_way_and_equally_for_an_equal_seed() -> None:
    images = dots(8, 18, images=50)
    changed = distort(images, ALL, generator())
    assert changed.dtype == torch.float32
    assert len(changed.unique(dim=0)) == 50
    assert torch.equal(changed, distort(images, ALL, generator()))
    assert not torch.equal(changed, distort(images, ALL, generator(2)))
    assert images.unique().tolist() == [0, 255]


def test_a_translation_goes_both_ways_by_up_to_its_bound() -> None:
    moves = centres(distort(dots(14, 14), only(translation=3), generator())) - 14
    assert moves.abs().max() <= 3.001
    assert moves.min(0).values.max() < -2.5
    assert moves.max(0).values.min() > 2.5


def test_zeros_come_in_at_the_edge() -> None:
    full = torch.full((20, 1, 28, 28), 255, dtype=torch.uint8)
    changed = distort(full, only(translation=5), generator())
    assert changed[..., 10:18, 10:18].min() == pytest.approx(255)
    edges = torch.stack([changed[..., 0, :].amax(-1), changed[..., -1, :].amax(-1)])
    assert (edges.amin(0) < 255).all()
    assert edges.min() == 0


def test_a_rotation_keeps_the_middle_and_the_distance_from_it() -> None:
    places = centres(distort(dots(22, 14), only(rotation=30), generator())) - 13.5
    radius = math.hypot(8.5, 0.5)
    assert (places.norm(dim=1) - radius).abs().max() < 0.2
    angles = torch.atan2(places[:, 1], places[:, 0]).rad2deg() - math.degrees(math.atan2(0.5, 8.5))
    assert angles.abs().max() < 30.5
    assert angles.min() < -25
    assert angles.max() > 25


def test_scaling_moves_away_from_the_middle_or_to_it_each_axis_apart() -> None:
    places = centres(distort(dots(22, 8), only(scaling=0.2), generator())) - 13.5
    stretch = places / torch.tensor([8.5, -5.5])
    assert stretch.min() > 1 / 1.2 - 0.03
    assert stretch.max() < 1 / 0.8 + 0.03
    assert (stretch[:, 0] - stretch[:, 1]).abs().max() > 0.2


def test_a_shear_moves_rows_apart_and_keeps_columns() -> None:
    places = centres(distort(dots(14, 22), only(shear=0.3), generator())) - torch.tensor([14, 22])
    assert places[:, 1].abs().max() < 0.1
    assert 2 < places[:, 0].abs().max() < 0.3 * 8.5 + 0.1


def test_an_elastic_grid_moves_places_by_its_standard_deviation() -> None:
    """In the middle, half a pixel from a point of the grid; elsewhere several share the pull."""
    moves = centres(distort(dots(14, 14, 2000), only(elastic=1), generator())) - 14
    assert moves.std(0).tolist() == pytest.approx([0.84, 0.84], rel=0.1)
    corners = [centres(distort(dots(x, 5, 100), only(elastic=1), generator())) for x in (5, 23)]
    moved = [corner[:, 0] - corner[:, 0].mean() for corner in corners]
    assert torch.corrcoef(torch.stack(moved))[0, 1].abs() < 0.4


@given(seed=st.integers(0, 1000), rotation=st.floats(0, 180), scaling=st.floats(0, 0.9))
def test_maps_without_shear_keep_their_axes_at_right_angles(
    seed: int, rotation: float, scaling: float
) -> None:
    maps = draw_affine(5, only(rotation=rotation, scaling=scaling), generator(seed))
    wide, high = maps[:, :, 0], maps[:, :, 1]
    assert (wide * high).sum(1).abs().max() < 1e-5
    for axis in (wide, high):
        assert ((axis.norm(dim=1) - 1).abs() <= scaling + 1e-5).all()
