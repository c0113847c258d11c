"""The calibration error, on numbers that can be checked by hand."""

import numpy as np
import pytest

from pipeline.mnist.metrics import calibration_error, reliability


def test_a_worked_example() -> None:
    confidence = np.array([0.95, 0.95, 0.55, 0.55, 1.0])
    correct = np.array([True, False, True, True, True])
    table = reliability(confidence, correct, 10)
    # bin 0.9 to 1: mean confidence 2.9 / 3, accuracy 2 / 3; bin 0.5 to 0.6: 0.55 and 1
    assert table.to_dict("split")["data"] == [
        pytest.approx([0.5, 0.6, 2, 0.55, 1]),
        pytest.approx([0.9, 1, 3, 2.9 / 3, 2 / 3]),
    ]
    assert calibration_error(table) == pytest.approx((0.9 + 0.9) / 5)


def test_confidence_that_is_what_it_says_has_no_error() -> None:
    confidence, correct = np.full(10, 0.7), np.arange(10) < 7
    assert calibration_error(reliability(confidence, correct, 15)) == pytest.approx(0)
