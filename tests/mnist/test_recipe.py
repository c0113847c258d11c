"""The recipe: steps, optimizers and schedules."""

from typing import Any

import pytest
import torch
from helpers import MUON, NETWORK, RECIPE
from hypothesis import given
from hypothesis import strategies as st
from networks import with_dropout
from torch import nn

from pipeline.mnist.model import build_network
from pipeline.mnist.muon import Muon, hidden_weights
from pipeline.mnist.recipe import Recipe, make_optimizers, make_scheduler

WITH_MUON = {"optimizer": "muon", "muon": MUON}


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate(RECIPE.model_dump() | changes)


def rates(steps: int, **changes: Any) -> list[float]:
    """The learning rate of each step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = make_scheduler(optimizer, recipe(**changes), steps)
    found = []
    for _ in range(steps):
        found.append(float(scheduler.get_last_lr()[0]))
        optimizer.step()
        scheduler.step()
    return found


@given(images=st.integers(1, 10**6), batch=st.integers(1, 1000), epochs=st.floats(0.001, 100))
def test_steps_are_those_of_the_epochs_and_at_least_one(
    images: int, batch: int, epochs: float
) -> None:
    per_epoch, steps = recipe(batch_size=batch, epochs=epochs).count_steps(images)
    assert (per_epoch - 1) * batch < images <= per_epoch * batch
    assert steps >= 1
    assert steps == 1 or abs(steps - epochs * per_epoch) <= 0.5


def test_linear_rises_to_its_peak_and_falls_to_almost_nothing() -> None:
    found = rates(100, schedule="linear", warm_up=0.2)
    assert found[:20] == pytest.approx([0.1 * step / 20 for step in range(1, 21)])
    assert found[19:] == pytest.approx([0.1 * left / 81 for left in range(81, 0, -1)], rel=1e-6)
    assert max(found) == pytest.approx(0.1)


@given(steps=st.integers(1, 50), warm_up=st.floats(0, 0.99))
def test_linear_is_never_zero_and_never_above_its_peak(steps: int, warm_up: float) -> None:
    assert all(0 < rate <= 0.1000001 for rate in rates(steps, schedule="linear", warm_up=warm_up))


def test_muon_takes_the_hidden_weights_and_adam_all_others() -> None:
    network = build_network(NETWORK, 10)
    adam, muon = make_optimizers(network, recipe(**WITH_MUON))
    assert isinstance(adam, torch.optim.Adam)
    assert isinstance(muon, Muon)
    taken = [id(weight) for group in muon.param_groups for weight in group["params"]]
    others = [id(weight) for group in adam.param_groups for weight in group["params"]]
    assert taken == list(map(id, hidden_weights(network)))
    assert sorted(taken + others) == sorted(map(id, network.parameters()))
    assert muon.param_groups[0]["momentum"] == 0.9


def test_adam_takes_all_without_muon_or_without_hidden_layers() -> None:
    for network, changes in (build_network(NETWORK, 10), {}), (with_dropout(), WITH_MUON):
        (adam,) = make_optimizers(network, recipe(**changes))
        assert len(adam.param_groups[0]["params"]) == len(list(network.parameters()))


def test_one_cycle_leaves_muons_momentum() -> None:
    _, muon = make_optimizers(build_network(NETWORK, 10), recipe(**WITH_MUON))
    scheduler = make_scheduler(muon, recipe(**WITH_MUON), 10)
    assert scheduler.get_last_lr()[0] == pytest.approx(0.02 / 25)
    assert muon.param_groups[0]["momentum"] == 0.9
