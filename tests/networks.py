"""Networks as a fork may have them: each from images [B, 1, 28, 28] to logits [B, 10]."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def with_dropout() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8 * 13 * 13, 10),
    )


class Normalized(nn.Module):
    """A perceptron; its batch normalization keeps running means and counts its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.dense1, self.dense2 = nn.Linear(784, 32), nn.Linear(32, 10)
        self.norm = nn.BatchNorm1d(32)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.dense2(F.relu(self.norm(self.dense1(images.flatten(1)))))
        return logits


class Noisy(nn.Module):
    """Draws noise in training and in use."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.dense(images.flatten(1) + 0.1 * torch.randn(len(images), 784))
        return logits


class Recurrent(nn.Module):
    """Its LSTM returns two things, the second a pair; one ReLU is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.relu, self.dense = nn.LSTM(28, 16), nn.ReLU(), nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        states, _ = self.rows(self.relu(images.squeeze(1).transpose(0, 1)))
        logits: Tensor = self.dense(self.relu(states[-1]))
        return 2 * logits


class Attentive(nn.Module):
    """Modules within modules, some of which are only called as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.TransformerEncoderLayer(28, 4, 16, batch_first=True)
        self.dense = nn.Linear(28, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.dense(self.rows(images.squeeze(1)).mean(1))
        return logits


class Tied(nn.Module):
    """Calls no module, and two of its weights are one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 784) / 28)
        self.same = self.weight
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.scale * F.linear(images.flatten(1), self.weight + self.same)
        return logits


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dropout": with_dropout,
    "batch normalization": Normalized,
    "noise": Noisy,
    "LSTM": Recurrent,
    "attention": Attentive,
    "tied weights": Tied,
}
