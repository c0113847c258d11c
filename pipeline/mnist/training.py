"""The shared training loop: tensors and settings in, numbers and weights out."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, Never

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from tqdm import tqdm

from pipeline.mnist.idx import IMAGE_SIZE
from pipeline.mnist.inference import TensorDigits, normalize, predict
from pipeline.mnist.model import CNN
from pipeline.params import Params

STEPS_PER_REFRESH = 20  # of the progress bar: reading the loss waits for a GPU


class Recipe(Params):
    """What decides how the network is trained."""

    seed: int = Field(ge=0, lt=2**32)
    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0, le=1)  # with the one-cycle schedule its peak
    schedule: Literal["constant", "one-cycle"]
    max_shift: int = Field(ge=0, le=14)  # pixels


class Epoch(NamedTuple):
    """One row of the history; losses are means over the images."""

    epoch: int
    learning_rate: float  # of the epoch's last step
    train_loss: float
    validation_loss: float
    validation_accuracy: float


class TrainingState(NamedTuple):
    """Where training stands: all that the rest of it depends on, besides the recipe and the
    data.
    """

    epoch: int  # under way, or next
    done: int  # images of that epoch
    tensors: dict[str, Tensor]
    values: dict[str, Any]  # what JSON can hold


def fit(
    network: CNN,
    train: TensorDigits,
    validation: TensorDigits,
    recipe: Recipe,
    *,
    resume: TrainingState | None = None,
    save: Callable[[TrainingState], None] = lambda snapshot: None,
    save_every: int = 0,
) -> Iterator[Epoch]:
    """Train `network` in place with Adam and cross-entropy; yield after each epoch's validation.

    The recipe's learning rate is the peak of the one-cycle schedule (Smith & Topin,
    https://arxiv.org/abs/1708.07120). Order and shifts are drawn on the CPU, so that they are the
    same on every device. `save` is called after each epoch, once the caller is done with it, and
    after every `save_every` steps of one; with what it was given as `resume`, training goes on to
    the same bits.
    """
    steps = math.ceil(len(train.labels) / recipe.batch_size)
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, fused=True)
    scheduler: LRScheduler = (
        OneCycleLR(optimizer, max_lr=recipe.learning_rate, total_steps=recipe.epochs * steps)
        if recipe.schedule == "one-cycle"
        else LambdaLR(optimizer, lambda step: 1.0)
    )
    first, done = 1, 0
    if resume:
        first, done, tensors, _ = resume
        restore(resume, network, optimizer, scheduler, generator)
        order, loss_sum = tensors["order"], tensors["loss_sum"].to(train.labels.device)
    for epoch in range(first, recipe.epochs + 1):
        network.train()
        if done == 0:
            loss_sum = torch.zeros((), device=train.labels.device)
            order = torch.randperm(len(train.labels), generator=generator)
        with progress_bar(len(order), done, f"epoch {epoch}/{recipe.epochs}") as bar:
            for step, rows in enumerate(
                order[done:].split(recipe.batch_size), start=done // recipe.batch_size + 1
            ):
                images = normalize(
                    random_shift(train.images[rows], recipe.max_shift, generator), train.info
                )
                loss = F.cross_entropy(network(images), train.labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                rate = float(scheduler.get_last_lr()[0])
                scheduler.step()
                loss_sum += loss.detach() * len(rows)
                done += len(rows)
                bar.update(len(rows))
                if step % STEPS_PER_REFRESH == 0 and not bar.disable:
                    bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
                if save_every and step % save_every == 0 and done < len(order):
                    save(
                        capture(
                            epoch, done, order, loss_sum, network, optimizer, scheduler, generator
                        )
                    )
        logits = predict(network, validation)
        yield Epoch(
            epoch,
            rate,
            loss_sum.item() / len(order),
            F.cross_entropy(logits, validation.labels).item(),
            (logits.argmax(1) == validation.labels).double().mean().item(),
        )
        done = 0
        save(capture(epoch + 1, done, order, loss_sum, network, optimizer, scheduler, generator))


def capture(
    epoch: int,
    done: int,
    order: Tensor,
    loss_sum: Tensor,
    network: CNN,
    optimizer: torch.optim.Adam,
    scheduler: LRScheduler,
    generator: torch.Generator,
) -> TrainingState:
    """The tensors are those in use, not copies.

    Torch's own generator is left out: training does not draw from it.
    """
    adam = optimizer.state_dict()
    tensors = {"order": order, "loss_sum": loss_sum, "generator": generator.get_state()}
    tensors |= {f"network.{name}": weight for name, weight in network.state_dict().items()}
    for index, state in adam["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    values = {"optimizer": adam["param_groups"], "scheduler": scheduler.state_dict()}
    return TrainingState(epoch, done, tensors, values)


def restore(
    snapshot: TrainingState,
    network: CNN,
    optimizer: torch.optim.Adam,
    scheduler: LRScheduler,
    generator: torch.Generator,
) -> None:
    generator.set_state(snapshot.tensors["generator"])
    network.load_state_dict(with_prefix(snapshot.tensors, "network."))
    adam: dict[int, dict[str, Tensor]] = {}
    for index, parameter in enumerate(network.parameters()):
        state = with_prefix(snapshot.tensors, f"optimizer.{index}.")
        # In the parameter's own memory format, which fused Adam takes for granted.
        moments = {
            name: torch.empty_like(parameter).copy_(state[name])
            for name in ("exp_avg", "exp_avg_sq")
        }
        adam[index] = state | {name: moment.detach() for name, moment in moments.items()}
    optimizer.load_state_dict({"state": adam, "param_groups": snapshot.values["optimizer"]})
    scheduler.load_state_dict(snapshot.values["scheduler"])


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of that prefix, named without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def random_shift(images: Tensor, max_shift: int, generator: torch.Generator) -> Tensor:
    """Move every image by its own offset of up to `max_shift` pixels, both ways; zeros come in at
    the edge.
    """
    if max_shift == 0:
        return images
    padded = F.pad(images.squeeze(1), [max_shift] * 4)
    windows = padded.unfold(1, IMAGE_SIZE, 1).unfold(
        2, IMAGE_SIZE, 1
    )  # view [B, offsets, offsets, 28, 28]
    down, right = torch.randint(2 * max_shift + 1, (2, len(images)), generator=generator)
    return windows[torch.arange(len(images)), down, right].unsqueeze(1)


def progress_bar(images: int, done: int, description: str) -> "tqdm[Never]":
    """A bar of images per second; silent where there is no terminal."""
    return tqdm(
        total=images, initial=done, desc=description, unit=" images", unit_scale=True, disable=None
    )
