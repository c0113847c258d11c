"""Which networks the page can repeat, and what is said of the others."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS
from torch import Tensor, nn

from pipeline.mnist import steps
from pipeline.mnist.steps import describe_steps

IMAGES = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
CANNOT = "which this page cannot compute"


class Called(nn.Module):
    """A network of one function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


@pytest.mark.parametrize(
    ("name", "obstacle"),
    [
        ("dropout", ""),
        ("batch normalization", ""),
        ("noise", "its forward does more than call layers and functions"),
        ("LSTM", f"it calls the function mul, {CANNOT}"),
        ("attention", f"it calls the layer rows, of the kind TransformerEncoderLayer, {CANNOT}"),
        ("tied weights", "it computes with scale outside of its layers"),
    ],
)
def test_a_network_has_steps_or_an_obstacle(name: str, obstacle: str) -> None:
    found, weights, said = describe_steps(NETWORKS[name]().eval(), IMAGES)
    assert said == obstacle
    assert bool(found) == (not obstacle)
    assert len(weights) == len(found)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    ("function", "obstacle"),
    [
        (lambda images: images.transpose(2, 3), f"it calls the function transpose, {CANNOT}"),
        (lambda images: F.dropout(images, 0.5), f"it calls the function dropout, {CANNOT}"),
        (lambda images: images.reshape(-1), f"it calls the function reshape, {CANNOT}"),
        (lambda images: images + 1, f"it calls the function add, {CANNOT}"),
        (nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), "layer function, of the kind Conv"),
        (nn.Conv2d(1, 2, 2, padding="same"), "it calls the layer function, of the kind Conv2d"),
        (nn.AvgPool2d(3, padding=1), "it calls the layer function, of the kind AvgPool2d"),
        (nn.AdaptiveAvgPool2d(5), "it calls the layer function, of the kind AdaptiveAvgPool2d"),
        (nn.BatchNorm2d(1, track_running_stats=False), "of the kind BatchNorm2d"),
        (nn.Linear(28, 10), "it calls the layer function, of the kind Linear"),
    ],
)
def test_what_the_page_would_compute_otherwise_is_an_obstacle(
    function: Callable[[Tensor], Tensor], obstacle: str
) -> None:
    found, _, said = describe_steps(Called(function).eval(), IMAGES)
    assert found == ()
    assert obstacle in said


def test_functions_and_sums_of_branches_are_steps() -> None:
    def add(images: Tensor) -> Tensor:
        pooled = F.max_pool2d(images, 2)
        return (torch.relu(pooled) + pooled).view(pooled.size(0), -1)

    found, _, obstacle = describe_steps(Called(add), IMAGES)
    assert obstacle == ""
    assert [(step.kind, step.inputs, step.shape) for step in found] == [
        ("MaxPool2d", (0,), (1, 14, 14)),
        ("ReLU", (1,), (1, 14, 14)),
        ("Add", (2, 1), (1, 14, 14)),
        ("Same", (3,), (196,)),
    ]


def test_a_network_too_large_or_too_strong_is_an_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = nn.Linear(784, 10)
    network = nn.Sequential(nn.Flatten(), dense)
    monkeypatch.setattr(steps, "LARGEST", 7849)
    assert describe_steps(network, IMAGES)[2] == "it has 7,850 weights, and the page holds 7,849"
    with torch.no_grad():
        dense.weight[0, 0] = 1e6
    assert "too large for float16" in describe_steps(network, IMAGES)[2]


def test_the_random_numbers_that_follow_are_the_same() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    describe_steps(Called(lambda images: images + torch.randn(images.shape[1:])), IMAGES)
    assert torch.equal(torch.rand(1), expected)
