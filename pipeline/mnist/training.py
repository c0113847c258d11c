"""The training loop, and the state from which a killed training resumes to the same result."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Never, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from tqdm import tqdm

from pipeline.mnist.augmentation import random_shift
from pipeline.mnist.checkpoint import Checkpoint
from pipeline.mnist.inference import TensorDigits, normalize, predict
from pipeline.params import Params

STEPS_PER_REFRESH = 20  # of the progress bar; reading the loss more often would slow a GPU


class Recipe(Params):
    """How the network is trained."""

    seed: int = Field(ge=0, lt=2**32)
    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0, le=1)  # the peak, with the one-cycle schedule
    schedule: Literal["constant", "one-cycle"]  # one-cycle: https://arxiv.org/abs/1708.07120
    max_shift: int = Field(ge=0, le=14)  # pixels
    own_weight: int = Field(ge=0, le=100)  # how often an own image is drawn in an epoch


class Epoch(NamedTuple):
    """One row of the history; losses are means over the images."""

    epoch: int
    learning_rate: float  # of the epoch's last step
    train_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass
class TrainingState:
    """All that the rest of a training depends on, besides its recipe and its data."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    generator: torch.Generator  # of orders and shifts, on the CPU: the same on every device
    drawn: Tensor  # the training images that each epoch takes: int64 [N], on the CPU
    order: Tensor  # in which this epoch takes them: int64 [N], on the CPU
    loss_sum: Tensor  # over the images of this epoch that are done
    images_done: int = 0  # of this epoch
    history: list[Epoch] = field(default_factory=list)  # the epochs that are done
    kept_weights: dict[str, Tensor] = field(default_factory=dict)  # see keep_weights

    @property
    def epoch(self) -> int:
        """The epoch under way, or the next one; the first is 1."""
        return len(self.history) + 1

    @classmethod
    def start(cls, network: nn.Module, recipe: Recipe, images: int, own: int = 0) -> Self:
        """Return the state before the first step of a training.

        Args:
            network: what is trained, in place
            recipe: how it is trained
            images: how many there are, the own ones last
            own: how many of them are own
        """
        drawn = draw_images(images, own, recipe.own_weight)
        rate = recipe.learning_rate
        steps = recipe.epochs * math.ceil(len(drawn) / recipe.batch_size)
        optimizer = torch.optim.Adam(network.parameters(), lr=rate, fused=True)
        scheduler: LRScheduler = (
            OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
            if recipe.schedule == "one-cycle"
            else LambdaLR(optimizer, lambda step: 1.0)
        )
        return cls(
            network,
            optimizer,
            scheduler,
            generator=torch.Generator().manual_seed(recipe.seed),
            drawn=drawn,
            order=drawn,
            loss_sum=torch.zeros((), device=device_of(network)),
        )

    def shuffle(self) -> None:
        """Begin an epoch: draw the order of its images."""
        self.order = self.drawn[torch.randperm(len(self.drawn), generator=self.generator)]
        self.loss_sum = torch.zeros_like(self.loss_sum)

    def keep_weights(self) -> None:
        """Copy the network's weights, to be the model if no later epoch is better."""
        self.kept_weights = {
            name: weight.clone() for name, weight in self.network.state_dict().items()
        }

    def to_checkpoint(self) -> Checkpoint:
        """Return the state as tensors and values for JSON.

        The tensors are those in use, not copies, so the next step changes them.
        """
        optimizer = self.optimizer.state_dict()
        tensors = {
            "order": self.order,
            "loss_sum": self.loss_sum,
            "generator": self.generator.get_state(),
            **with_prefix("random.", random_states(device_of(self.network))),
            **with_prefix("network.", self.network.state_dict()),
            **with_prefix("kept.", self.kept_weights),
        }
        for index, moments in optimizer["state"].items():
            tensors |= with_prefix(f"optimizer.{index}.", moments)
        values = {
            "images_done": self.images_done,
            "history": self.history,
            "optimizer": optimizer["param_groups"],
            "scheduler": self.scheduler.state_dict(),
        }
        return Checkpoint(tensors, values)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become the state that `checkpoint` was made of.

        This state must have been started with the same network, recipe and number of images.
        """
        tensors, values = checkpoint
        self.images_done = values["images_done"]
        self.history = [Epoch(*row) for row in values["history"]]
        self.kept_weights = without_prefix("kept.", tensors)
        self.order = tensors["order"]
        self.loss_sum = tensors["loss_sum"].to(self.loss_sum.device)
        self.generator.set_state(tensors["generator"])
        set_random_states(without_prefix("random.", tensors))
        self.network.load_state_dict(without_prefix("network.", tensors))
        moments = {
            index: {
                name: in_format_of(parameter, moment)
                for name, moment in without_prefix(f"optimizer.{index}.", tensors).items()
            }
            for index, parameter in enumerate(self.network.parameters())
        }
        self.optimizer.load_state_dict({"state": moments, "param_groups": values["optimizer"]})
        self.scheduler.load_state_dict(values["scheduler"])


def fit(
    state: TrainingState,
    train: TensorDigits,
    validation: TensorDigits,
    recipe: Recipe,
    *,
    save: Callable[[TrainingState], None],
    save_every: int = 0,
) -> Iterator[Epoch]:
    """Train the state's network in place with cross-entropy; yield after each epoch's validation.

    `save` is called after every `save_every` steps within an epoch (0: never), and after each
    epoch, once the caller asks for the next.
    """
    network, optimizer, scheduler = state.network, state.optimizer, state.scheduler
    while state.epoch <= recipe.epochs:
        network.train()
        if state.images_done == 0:
            state.shuffle()
        batches = state.order[state.images_done :].split(recipe.batch_size)
        first_step = state.images_done // recipe.batch_size + 1
        with progress_bar(state, recipe.epochs) as bar:
            for step, rows in enumerate(batches, start=first_step):
                images = random_shift(train.images[rows], recipe.max_shift, state.generator)
                logits = network(normalize(images, train.info))
                loss = F.cross_entropy(logits, train.labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                learning_rate = float(scheduler.get_last_lr()[0])
                scheduler.step()
                state.loss_sum += loss.detach() * len(rows)
                state.images_done += len(rows)
                bar.update(len(rows))
                if step % STEPS_PER_REFRESH == 0 and not bar.disable:
                    bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
                if save_every and step % save_every == 0 and state.images_done < len(state.order):
                    save(state)
        logits = predict(network, validation)
        validation_loss = F.cross_entropy(logits, validation.labels).item()
        accuracy = (logits.argmax(1) == validation.labels).double().mean().item()
        train_loss = state.loss_sum.item() / state.images_done
        epoch = Epoch(state.epoch, learning_rate, train_loss, validation_loss, accuracy)
        state.history.append(epoch)
        state.images_done = 0
        yield epoch
        save(state)


def draw_images(images: int, own: int, own_weight: int) -> Tensor:
    """Return the images of an epoch, int64 [N]: each once, the last `own` as often as weighted."""
    of_data_set, of_own = torch.arange(images).split([images - own, own])
    return torch.cat([of_data_set, of_own.repeat(own_weight)])


def progress_bar(state: TrainingState, epochs: int) -> "tqdm[Never]":
    """A bar of this epoch's images; without a terminal it shows nothing."""
    return tqdm(
        total=len(state.order),
        initial=state.images_done,
        desc=f"epoch {state.epoch}/{epochs}",
        unit=" images",
        unit_scale=True,
        disable=None,
    )


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's own generators, from which layers such as dropout draw."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state()
    return states


def set_random_states(states: Mapping[str, Tensor]) -> None:
    for device, state in states.items():
        module = torch if device == "cpu" else torch.get_device_module(device)
        module.set_rng_state(state)


def in_format_of(parameter: Tensor, moment: Tensor) -> Tensor:
    """Copy a moment into its parameter's memory format, which fused Adam takes for granted."""
    if moment.shape != parameter.shape:
        return moment  # the number of steps
    return torch.empty_like(parameter, requires_grad=False).copy_(moment)


def device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names have the prefix, under their names without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
