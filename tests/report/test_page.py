"""The figures that the page of the report shows."""

from pathlib import Path

import pandas as pd
import pytest

from pipeline.mnist.layers import load_trace
from pipeline.mnist.tensors import load_digits
from pipeline.paths import LAYERS, PREDICTIONS, TEST
from pipeline.report import page


def test_wilsons_interval_of_a_worked_example() -> None:
    """Table I of Newcombe 1998.

    https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E
    """
    result = page.headline(81, 263, "sample")
    assert (round(result["low"], 4), round(result["high"], 4)) == (0.2553, 0.3662)
    assert result["notebook"] is None
    assert page.headline(9943, 10_000, "MNIST")["notebook"] == 0.9911


def test_the_confused_pairs_are_the_most_frequent() -> None:
    predictions = pd.DataFrame({"label": [4, 4, 9, 4, 7, 0], "prediction": [9, 9, 4, 4, 2, 0]})
    counts = page.count_confusions(predictions, 10)
    assert counts.to_numpy().sum() == 6
    assert [tuple(pair.values()) for pair in page.most_confused(counts)] == [
        (4, 9, 2),
        (7, 2, 1),
        (9, 4, 1),
    ]


def test_the_probabilities_of_an_example_are_the_models(finished_workspace: Path) -> None:
    trace = load_trace(LAYERS)
    test, info = load_digits(TEST)
    predictions = pd.read_csv(PREDICTIONS)
    for example, index in enumerate(trace.examples):
        probabilities = page.example_view(example, trace, test.images[index, 0], info)[
            "probabilities"
        ]
        assert sum(probabilities) == pytest.approx(1)
        assert max(probabilities) == pytest.approx(predictions["confidence"][index], abs=2e-6)
