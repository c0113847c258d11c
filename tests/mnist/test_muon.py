"""Muon: what it does to singular values, and its steps against torch's own."""

import pytest
import torch
from helpers import NETWORK
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import with_dropout
from torch import nn

from pipeline.mnist.model import build_network
from pipeline.mnist.muon import COEFFICIENTS, STEPS, Muon, hidden_weights, orthogonalize


def newton_schulz(matrix: torch.Tensor, steps: int) -> torch.Tensor:
    """The iteration as it is written, on the matrix itself."""
    a, b, c = COEFFICIENTS
    x: torch.Tensor = matrix / matrix.norm()
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@settings(deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    steps=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_products_of_the_gram_matrix_give_what_the_iteration_gives(
    rows: int, columns: int, steps: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    expected = newton_schulz(matrix, steps)
    torch.testing.assert_close(orthogonalize(matrix, steps), expected, rtol=1e-7, atol=1e-7)
    close = orthogonalize(matrix.float(), steps)
    torch.testing.assert_close(close, expected.float(), rtol=1e-3, atol=1e-3)


def test_singular_values_come_near_to_one() -> None:
    matrix = torch.randn(64, 288, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    stretched = u * torch.linspace(0.2, 1, 64) @ v
    values = torch.linalg.svdvals(orthogonalize(stretched))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_a_gradient_of_zeros_moves_nothing() -> None:
    assert orthogonalize(torch.zeros(3, 5)).tolist() == torch.zeros(3, 5).tolist()


@pytest.mark.parametrize("shape", [(128, 3136), (64, 32), (7, 7)])
def test_its_steps_are_those_of_torch(shape: tuple[int, int]) -> None:
    """torch.optim.Muon iterates in bfloat16, so they agree to two digits."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = (
        Muon([ours], lr=0.1, momentum=0.9),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0, momentum=0.9, ns_steps=STEPS),
    )
    for _ in range(3):
        gradient = torch.randn(shape, generator=generator)
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    moved, expected = ours.detach() - start, theirs.detach() - start
    assert (moved - expected).norm() < 0.02 * expected.norm()


def test_a_convolution_moves_as_the_matrix_of_its_filters() -> None:
    generator = torch.Generator().manual_seed(1)
    filters = torch.randn(16, 8, 3, 3, generator=generator)
    gradient = torch.randn(16, 8, 3, 3, generator=generator)
    convolution = nn.Parameter(filters.clone(memory_format=torch.channels_last))
    matrix = nn.Parameter(filters.flatten(1).clone())
    convolution.grad, matrix.grad = gradient, gradient.flatten(1)
    for weight in (convolution, matrix):
        Muon([weight], lr=0.1, momentum=0.9).step()
    torch.testing.assert_close(convolution.detach().flatten(1), matrix.detach())
    assert convolution.is_contiguous(memory_format=torch.channels_last)


def test_hidden_layers_are_those_between_the_first_and_the_last() -> None:
    network = build_network(NETWORK, 10)
    shapes = [tuple(weight.shape) for weight in hidden_weights(network)]
    assert shapes == [(64, 32, 3, 3), (128, 3136)]
    assert hidden_weights(with_dropout()) == []
