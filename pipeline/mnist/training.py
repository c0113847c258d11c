"""The training loop, and the state from which a killed training resumes to the same result."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Never, Self

import torch
import torch.nn.functional as F
from torch import Tensor, autocast, nn
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from pipeline.mnist.augmentation import distort
from pipeline.mnist.checkpoint import Checkpoint
from pipeline.mnist.inference import TensorDigits, normalize, predict
from pipeline.mnist.recipe import Recipe, make_optimizers, make_scheduler

STEPS_PER_REFRESH = 20  # of the progress bar; reading the loss more often would slow a GPU


class Epoch(NamedTuple):
    """One row of the history; losses are means over the images."""

    epoch: float  # how many are done; the last one may be cut short
    learning_rate: float  # Adam's, of the epoch's last step
    train_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass
class TrainingState:
    """All that the rest of a training depends on, besides its recipe and its data."""

    network: nn.Module
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[LRScheduler]  # one for each
    generator: torch.Generator  # of orders and distortions, on the CPU: the same on every device
    drawn: Tensor  # the training images that each epoch takes: int64 [N], on the CPU
    order: Tensor  # in which this epoch takes them: int64 [N], on the CPU
    loss_sum: Tensor  # over the images of this epoch that are done
    images_done: int = 0  # of this epoch
    history: list[Epoch] = field(default_factory=list)  # the epochs that are done
    kept_weights: dict[str, Tensor] = field(default_factory=dict)  # see keep_weights

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
        _, steps = recipe.count_steps(len(drawn))
        optimizers = make_optimizers(network, recipe)
        return cls(
            network,
            optimizers,
            [make_scheduler(optimizer, recipe, steps) for optimizer in optimizers],
            generator=torch.Generator().manual_seed(recipe.seed),
            drawn=drawn,
            order=drawn,
            loss_sum=torch.zeros((), device=device_of(network)),
        )

    def shuffle(self, most: int) -> None:
        """Begin an epoch: draw the order of its images, `most` of them or fewer."""
        order = torch.randperm(len(self.drawn), generator=self.generator)
        self.order = self.drawn[order[:most]]
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
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        tensors = {
            "order": self.order,
            "loss_sum": self.loss_sum,
            "generator": self.generator.get_state(),
            **with_prefix("random.", random_states(device_of(self.network))),
            **with_prefix("network.", self.network.state_dict()),
            **with_prefix("kept.", self.kept_weights),
        }
        for number, optimizer in enumerate(optimizers):
            for index, moments in optimizer["state"].items():
                tensors |= with_prefix(f"optimizer.{number}.{index}.", moments)
        values = {
            "images_done": self.images_done,
            "history": self.history,
            "optimizers": [optimizer["param_groups"] for optimizer in optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
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
        for number, optimizer in enumerate(self.optimizers):
            groups = values["optimizers"][number]
            parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
            moments = {
                index: {
                    name: in_format_of(parameter, moment)
                    for name, moment in without_prefix(
                        f"optimizer.{number}.{index}.", tensors
                    ).items()
                }
                for index, parameter in enumerate(parameters)
            }
            optimizer.load_state_dict({"state": moments, "param_groups": groups})
            self.schedulers[number].load_state_dict(values["schedulers"][number])


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
    network = state.network
    steps_per_epoch, steps = recipe.count_steps(len(state.drawn))
    while (steps_before := len(state.history) * steps_per_epoch) < steps:
        network.train()
        if state.images_done == 0:
            state.shuffle((steps - steps_before) * recipe.batch_size)
        batches = state.order[state.images_done :].split(recipe.batch_size)
        first_step = state.images_done // recipe.batch_size + 1
        with progress_bar(state, recipe.epochs) as bar:
            for step, rows in enumerate(batches, start=first_step):
                learning_rate = float(state.schedulers[0].get_last_lr()[0])
                loss = take_step(state, train, rows, recipe)
                bar.update(len(rows))
                if step % STEPS_PER_REFRESH == 0 and not bar.disable:
                    bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
                if save_every and step % save_every == 0 and state.images_done < len(state.order):
                    save(state)
        logits = predict(network, validation)
        validation_loss = F.cross_entropy(logits, validation.labels).item()
        accuracy = (logits.argmax(1) == validation.labels).double().mean().item()
        train_loss = state.loss_sum.item() / state.images_done
        epochs = min(steps_before + steps_per_epoch, steps) / steps_per_epoch
        epoch = Epoch(epochs, learning_rate, train_loss, validation_loss, accuracy)
        state.history.append(epoch)
        state.images_done = 0
        yield epoch
        save(state)


def take_step(state: TrainingState, train: TensorDigits, rows: Tensor, recipe: Recipe) -> Tensor:
    """Train on these images once; return their loss."""
    images = distort(train.images[rows], recipe.distortion, state.generator)
    with autocast(images.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        logits = state.network(normalize(images, train.info)).float()
    loss = F.cross_entropy(logits, train.labels[rows], label_smoothing=recipe.label_smoothing)
    state.network.zero_grad()
    loss.backward()
    for optimizer, scheduler in zip(state.optimizers, state.schedulers, strict=True):
        optimizer.step()
        scheduler.step()
    state.loss_sum += loss.detach() * len(rows)
    state.images_done += len(rows)
    return loss


def draw_images(images: int, own: int, own_weight: int) -> Tensor:
    """Return the images of an epoch, int64 [N]: each once, the last `own` as often as weighted."""
    of_data_set, of_own = torch.arange(images).split([images - own, own])
    return torch.cat([of_data_set, of_own.repeat(own_weight)])


def progress_bar(state: TrainingState, epochs: float) -> "tqdm[Never]":
    """A bar of this epoch's images; without a terminal it shows nothing."""
    return tqdm(
        total=len(state.order),
        initial=state.images_done,
        desc=f"epoch {len(state.history) + 1}/{epochs:g}",
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
