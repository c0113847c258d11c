"""Muon: momentum whose steps are made orthogonal, for the weights of hidden layers.

By Keller Jordan and others, 2024: https://kellerjordan.github.io/posts/muon. torch.optim.Muon takes
matrices only. This one takes convolutions, too, and needs less than half of the operations.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the polynomial that brings singular values near 1
STEPS = 3  # of the iteration


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov's momentum, as torch.optim.Muon without weight decay.

    Args:
        parameters: weights of at least two dimensions, the outputs first
        lr: the length of a step: each weight matrix moves by about lr in every direction
        momentum: share of the earlier gradients in the average
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no overload for a closure
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                average = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                matrix = weight.grad.lerp(average, group["momentum"]).flatten(1)
                longer = max(1, len(matrix) / matrix.shape[1]) ** 0.5
                step = orthogonalize(matrix).view(weight.shape)
                weight.add_(step, alpha=-group["lr"] * longer)


def orthogonalize(matrix: Tensor, steps: int = STEPS) -> Tensor:
    """Return the matrix [M, N] with its singular vectors, and singular values near 1.

    This is the Newton–Schulz iteration X ← aX + bGX + cG²X with G = XXᵀ, from X of norm 1. What X
    is multiplied by are polynomials of the first G, which commute. So the iteration runs on them,
    [M, M], and X is multiplied once, at the end.
    """
    if len(matrix) > matrix.shape[1]:
        return orthogonalize(matrix.T, steps).T
    a, b, c = COEFFICIENTS
    gram = matrix @ matrix.T
    squares = gram.diagonal().sum().clamp(min=1e-14)  # of the norm, which no singular value exceeds
    gram /= squares
    product = torch.eye(len(gram), dtype=gram.dtype, device=gram.device) / squares.sqrt()
    for step in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor @ product
        if step < steps - 1:
            gram = factor @ gram @ factor
    orthogonal: Tensor = product @ matrix
    return orthogonal


def hidden_weights(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights of all layers but the first and the last, in the network's order.

    A weight has two or more dimensions; biases and those of normalizations have one.
    """
    return [weight for weight in network.parameters() if weight.ndim >= 2][1:-1]
