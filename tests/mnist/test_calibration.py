"""Temperature scaling: what it finds, and that no prediction changes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.mnist.calibration import LARGEST, divide_logits, fit_temperature


@settings(deadline=None, max_examples=20)
@given(temperature=st.floats(0.2, 5), seed=st.integers(0, 100))
def test_the_temperature_of_logits_whose_labels_were_drawn_from_them_is_found(
    temperature: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(5000, 10, dtype=torch.float64, generator=generator)
    labels = logits.softmax(1).multinomial(1, generator=generator).squeeze(1)
    found = fit_temperature((logits * temperature).float(), labels)
    assert found == pytest.approx(temperature, rel=0.1)
    least = F.cross_entropy(logits * temperature / found, labels)
    for other in (0.99 * found, 1.01 * found):
        assert least <= F.cross_entropy(logits * temperature / other, labels)


def test_it_is_bounded_when_all_are_right_or_all_are_wrong() -> None:
    logits, labels = torch.eye(10), torch.arange(10)
    assert fit_temperature(logits, labels) == pytest.approx(1 / LARGEST)
    assert fit_temperature(-logits, labels) == pytest.approx(LARGEST)


def test_the_networks_logits_are_divided() -> None:
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), torch.randn(3, 1, 28, 28)
    before = network(images)
    divide_logits(network, 1.0)
    assert torch.equal(network(images), before)
    divide_logits(network, 2.0)
    torch.testing.assert_close(network(images), before / 2)
