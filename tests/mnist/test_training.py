"""The training loop: shifts, schedules, equal bits and resuming."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import FRONTIER, NETWORK, NO_DISTORTION, RECIPE
from torch import nn

from pipeline.mnist.checkpoint import load_checkpoint, save_checkpoint
from pipeline.mnist.device import make_deterministic
from pipeline.mnist.inference import TensorDigits, load_to_device, predict
from pipeline.mnist.model import build_network
from pipeline.mnist.recipe import Recipe
from pipeline.mnist.tensors import TensorInfo
from pipeline.mnist.training import Epoch, TrainingState, draw_images, fit
from pipeline.paths import TRAIN, VALIDATION

INFO = TensorInfo(dataset="MNIST", classes=tuple("0123456789"), mean=0.5, std=0.5)
CPU = torch.device("cpu")


def load(folder: Path) -> tuple[TensorDigits, TensorDigits]:
    train, validation = (load_to_device(folder / path, CPU) for path in (TRAIN, VALIDATION))
    return train, validation


def train_on(folder: Path, **changes: Any) -> tuple[list[Epoch], nn.Module]:
    train, validation = load(folder)
    recipe = Recipe.model_validate(RECIPE.model_dump() | changes)
    make_deterministic(recipe.seed)
    network = build_network(NETWORK, 10)
    state = TrainingState.start(network, recipe, len(train.labels))
    return list(fit(state, train, validation, recipe, save=lambda state: None)), network


def test_an_epoch_takes_each_image_once_and_an_own_one_as_often_as_it_weighs() -> None:
    assert draw_images(5, 0, 3).tolist() == [0, 1, 2, 3, 4]
    assert draw_images(5, 2, 1).tolist() == [0, 1, 2, 3, 4]
    assert draw_images(5, 2, 3).tolist() == [0, 1, 2, 3, 4, 3, 4, 3, 4]
    assert draw_images(5, 2, 0).tolist() == [0, 1, 2]


def test_an_epoch_draws_own_images_by_their_weight(finished: Path) -> None:
    train, validation = load(finished)
    recipe = RECIPE.model_copy(update={"epochs": 1, "own_weight": 3})
    state = TrainingState.start(build_network(NETWORK, 10), recipe, len(train.labels), own=20)
    list(fit(state, train, validation, recipe, save=lambda state: None))
    taken = torch.bincount(state.order, minlength=len(train.labels))
    assert taken[:-20].tolist() == [1] * (len(train.labels) - 20)
    assert taken[-20:].tolist() == [3] * 20
    assert state.order.tolist() != sorted(state.order.tolist())


def test_training_learns(finished: Path) -> None:
    history, _ = train_on(finished, epochs=6)
    assert history[-1].validation_accuracy >= 0.85
    assert history[-1].train_loss < history[0].train_loss / 3


def test_equal_seeds_give_equal_bits_and_others_do_not(finished: Path) -> None:
    (first, network), (again, same), (other, _) = (
        train_on(finished, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), same.parameters(), strict=True)
    )
    assert first != other


def test_the_constant_schedule_is_the_notebooks_loop(finished: Path) -> None:
    """Its weights are those of plain PyTorch over the same order of images."""
    history, network = train_on(
        finished, epochs=1, schedule="constant", distortion=NO_DISTORTION, learning_rate=0.001
    )
    train = load_to_device(finished / TRAIN, CPU)
    make_deterministic(1)
    reference = build_network(NETWORK, 10)
    optimizer = torch.optim.Adam(reference.parameters(), lr=0.001, fused=True)
    losses = []
    for rows in torch.randperm(500, generator=torch.Generator().manual_seed(1)).split(32):
        loss = F.cross_entropy(
            reference((train.images[rows] / 255 - 0.5) / 0.5), train.labels[rows]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += [loss.item()] * len(rows)
    for actual, expected in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(actual, expected)
    # the mean over images, not over batches: the last batch is shorter
    assert history[0].train_loss == pytest.approx(sum(losses) / 500)
    assert history[0].learning_rate == 0.001


def test_a_fraction_of_an_epoch_takes_as_many_images_and_is_validated(finished: Path) -> None:
    history, _ = train_on(finished, epochs=2.25)
    assert [epoch.epoch for epoch in history] == [1, 2, 2.25]
    short, _ = train_on(finished, epochs=0.25, schedule="constant")
    whole, _ = train_on(finished, epochs=1, schedule="constant")
    assert [epoch.epoch for epoch in short] == [0.25]
    assert short[0].validation_loss > whole[0].validation_loss


def test_epochs_that_end_within_a_step_end_after_the_nearest(finished: Path) -> None:
    """500 images in batches of 32 are 16 steps."""
    assert [epoch.epoch for epoch in train_on(finished, epochs=1.01)[0]] == [1]
    assert [epoch.epoch for epoch in train_on(finished, epochs=1.1)[0]] == [1, 1.125]
    assert [epoch.epoch for epoch in train_on(finished, epochs=0.001)[0]] == [1 / 16]


def test_muon_learns_with_all_that_belongs_to_it(finished: Path) -> None:
    history, _ = train_on(finished, epochs=8, **FRONTIER)
    assert history[-1].validation_accuracy >= 0.9


def test_smoothed_labels_leave_the_network_less_sure(finished: Path) -> None:
    _, validation = load(finished)
    sure = [
        predict(train_on(finished, epochs=6, label_smoothing=share)[1], validation).softmax(1)
        for share in (0, 0.5)
    ]
    plain, smooth = (confidences.amax(1).mean().item() for confidences in sure)
    assert smooth < plain - 0.1


def test_products_in_bfloat16_train_weights_in_float32(finished: Path) -> None:
    history, network = train_on(finished, **FRONTIER, precision="bfloat16")
    again, same = train_on(finished, **FRONTIER, precision="bfloat16")
    full, _ = train_on(finished, **FRONTIER)
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert history == again
    assert all(map(torch.equal, network.parameters(), same.parameters()))
    assert history != full
    assert history[-1].validation_loss == pytest.approx(full[-1].validation_loss, rel=0.2)


def test_one_cycle_peaks_and_anneals(finished: Path) -> None:
    history, _ = train_on(finished, epochs=4)
    rates = [epoch.learning_rate for epoch in history]
    assert rates[0] == pytest.approx(0.004, rel=0.1)
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] == pytest.approx(0.004 / 25 / 1e4)  # OneCycleLR's defaults for the end


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "one-cycle"},
        {"schedule": "constant"},
        {**FRONTIER, "epochs": 1.5},
        {**FRONTIER, "epochs": 1.5, "precision": "bfloat16"},
        {**FRONTIER, "epochs": 1.5, "schedule": "one-cycle", "warm_up": 0.0},
    ],
)
@pytest.mark.parametrize("dropout", [False, True])
def test_from_every_checkpoint_training_goes_on_to_the_same_bits(
    finished: Path, tmp_path: Path, changes: dict[str, Any], dropout: bool
) -> None:
    """Each goes through its file, as after a kill; 500 images are 16 steps an epoch.

    Dropout draws from torch's own generator.
    """
    train, validation = load(finished)
    recipe = Recipe.model_validate(RECIPE.model_dump() | changes)
    paths: list[Path] = []

    def start() -> TrainingState:
        make_deterministic(1)
        layers = [build_network(NETWORK, 10), *[nn.Dropout(0.5)] * dropout]
        network = nn.Sequential(*layers)
        return TrainingState.start(network, recipe, len(train.labels))

    def save(state: TrainingState) -> None:
        paths.append(tmp_path / str(len(paths)) / "checkpoint")  # save_checkpoint prunes a folder
        save_checkpoint(paths[-1], state.to_checkpoint())

    expected = start()
    list(fit(expected, train, validation, recipe, save=lambda state: None))
    list(fit(start(), train, validation, recipe, save=save, save_every=6))
    # twice within each epoch and once after it; once within half an epoch
    assert len(paths) == (6 if recipe.epochs == 2 else 5)
    for path in paths:
        checkpoint = load_checkpoint(path)
        assert checkpoint
        state = start()
        torch.rand(7)  # whatever was drawn meanwhile
        state.restore(checkpoint)
        list(fit(state, train, validation, recipe, save=lambda state: None))
        assert state.history == expected.history
        assert all(
            torch.equal(a, b)
            for a, b in zip(state.network.parameters(), expected.network.parameters(), strict=True)
        )
