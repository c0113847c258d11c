"""The recipe of a training: its parameters, and the optimizers and schedules that they name."""

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from pipeline.mnist.augmentation import Distortion
from pipeline.mnist.device import Precision
from pipeline.mnist.muon import Muon, hidden_weights
from pipeline.params import Params


class MuonParams(Params):
    learning_rate: float = Field(gt=0, le=1)  # the peak
    momentum: float = Field(ge=0, lt=1)


class Recipe(Params):
    """How the network is trained."""

    seed: int = Field(ge=0, lt=2**32)
    epochs: float = Field(gt=0, le=10_000)
    batch_size: int = Field(gt=0)
    optimizer: Literal["adam", "muon"]  # muon: for the hidden layers' weights; adam for the others
    learning_rate: float = Field(gt=0, le=1)  # Adam's; the peak, if the schedule has one
    muon: MuonParams | None
    schedule: Literal["constant", "linear", "one-cycle"]  # one-cycle: arXiv 1708.07120
    warm_up: float = Field(ge=0, lt=1)  # share of the steps that the linear schedule rises for
    label_smoothing: float = Field(ge=0, lt=1)  # share of the target that all classes get
    distortion: Distortion
    precision: Precision  # of the products; the weights are float32
    own_weight: int = Field(ge=0, le=100)  # how often an own image is drawn in an epoch

    @model_validator(mode="after")
    def check_combinations(self) -> Self:
        if self.optimizer == "adam" and self.muon:
            raise ValueError("muon must be null with the optimizer adam")
        if self.optimizer == "muon" and not self.muon:
            raise ValueError("muon must have learning_rate and momentum with the optimizer muon")
        if self.warm_up and self.schedule != "linear":
            raise ValueError(
                f"warm_up must be 0 with the schedule {self.schedule}, got {self.warm_up:g}"
            )
        return self

    def count_steps(self, images: int) -> tuple[int, int]:
        """Return the steps of an epoch of so many images, and of the training: at least one."""
        steps = math.ceil(images / self.batch_size)
        return steps, max(1, round(self.epochs * steps))


def make_optimizers(network: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Adam, and with the optimizer muon Muon, which takes the weights of hidden layers."""
    hidden = hidden_weights(network) if recipe.muon else []
    taken = set(map(id, hidden))
    others = [parameter for parameter in network.parameters() if id(parameter) not in taken]
    adam = torch.optim.Adam(others, lr=recipe.learning_rate, fused=True)
    if not recipe.muon or not hidden:
        return [adam]
    return [adam, Muon(hidden, lr=recipe.muon.learning_rate, momentum=recipe.muon.momentum)]


def make_scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    """Return what sets an optimizer's learning rate before each of so many steps.

    linear: up to the optimizer's rate in the first `warm_up` of the steps, then down to almost 0.
    """
    if recipe.schedule == "one-cycle":
        peak = optimizer.param_groups[0]["lr"]
        cycles = "betas" in optimizer.defaults  # Adam's; Muon keeps its momentum
        return OneCycleLR(optimizer, max_lr=peak, total_steps=steps, cycle_momentum=cycles)
    if recipe.schedule == "constant":
        return LambdaLR(optimizer, lambda step: 1.0)
    rising = max(1, round(recipe.warm_up * steps))

    def factor(step: int) -> float:
        return (step + 1) / rising if step < rising else (steps - step) / (steps - rising + 1)

    return LambdaLR(optimizer, factor)
