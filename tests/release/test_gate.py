"""The gate's verdicts, and McNemar's test against its definition."""

from math import comb
from typing import Any

import pytest
from helpers import ROOT

from pipeline.errors import DataError, ParamsError
from pipeline.release.gate import (
    Comparison,
    Evaluation,
    GateParams,
    compare,
    judge,
    read_gate,
    to_markdown,
)
from pipeline.repository.dvc_files import read_yaml

GATE = GateParams(metric="accuracy", minimum=0.5, largest_drop=0.1, significance=0.05)


def predictions(hits: str, digit: int = 7) -> bytes:
    """Return predictions of an image for each character, right if it is a 1."""
    rows = [
        f"{index},{digit},{digit if hit == '1' else digit - 1},0.9"
        for index, hit in enumerate(hits)
    ]
    return "\n".join(["index,label,prediction,confidence", *rows, ""]).encode()


def evaluation(hits: str) -> Evaluation:
    return Evaluation({"accuracy": hits.count("1") / len(hits)}, predictions(hits))


def exact_p(gained: int, lost: int) -> float:
    """Return twice the smaller tail of that many tosses of a fair coin."""
    n = gained + lost
    tail: int = sum(comb(n, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / float(2**n))


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (1, 5), (3, 3), (10, 2), (40, 21)])
def test_mcnemars_test_is_the_exact_one(gained: int, lost: int) -> None:
    candidate = "1" * gained + "0" * lost + "1100"
    champion = "0" * gained + "1" * lost + "1100"
    found = compare(predictions(candidate), predictions(champion))
    assert found
    assert (found.gained, found.lost) == (gained, lost)
    assert found.p == pytest.approx(exact_p(gained, lost))


def test_only_predictions_of_the_same_images_are_compared() -> None:
    assert compare(predictions("1010"), predictions("1010")) == Comparison(0, 0, 1.0)
    assert compare(predictions("1010"), predictions("10101")) is None
    assert compare(predictions("1010"), predictions("1010", digit=3)) is None
    assert compare(predictions("1010"), b"") is None
    assert compare(b"", b"") is None


@pytest.mark.parametrize(
    ("candidate", "champion", "passed", "reason"),
    [
        ("0001", None, False, "accuracy 25.00% is below the minimum of 50.00%"),
        ("0111", None, True, "accuracy 75.00%, and no champion yet"),
        ("0001", "0001", False, "accuracy 25.00% is below the minimum of 50.00%"),
        (
            "1" * 9 + "0",
            "1" * 10,
            True,
            "accuracy 90.00% against the champion's 100.00%, no difference beyond noise",
        ),
        ("1" * 8 + "00", "1" * 10, False, "the drop of 20.00% is more than the 10.00% allowed"),
        (
            "0" * 6 + "1" * 94,
            "1" * 100,
            False,
            "by more than noise: 0 images gained and 6 lost",
        ),
        (
            "0" * 5 + "1" * 95,
            "1" * 100,
            True,
            "no difference beyond noise: 0 images gained and 5 lost",
        ),
        (
            "1" * 100,
            "0" * 6 + "1" * 94,
            True,
            "more than noise: 6 images gained and 0 lost, McNemar's p = 0.0312",
        ),
        (
            "1" * 3,
            "1" * 4,
            True,
            "no test, for want of the champion's predictions on the same images",
        ),
    ],
)
def test_verdicts(candidate: str, champion: str | None, passed: bool, reason: str) -> None:
    verdict = judge(GATE, evaluation(candidate), evaluation(champion) if champion else None)
    assert verdict.passed == passed
    assert reason in verdict.reason
    assert verdict.reason in to_markdown(verdict, "Published")


def test_a_negative_drop_asks_for_a_gain() -> None:
    gate = GATE.model_copy(update={"largest_drop": -0.2})
    assert not judge(gate, evaluation("1100"), evaluation("1100")).passed
    assert judge(gate, evaluation("1111"), evaluation("1100")).passed


def test_a_champion_without_the_metric_is_not_compared_by_it() -> None:
    assert judge(GATE, evaluation("1110"), Evaluation({}, b"")).passed
    with pytest.raises(DataError, match="the candidate's metrics have no accuracy"):
        judge(GATE, Evaluation({}, b""), None)


def test_the_gate_of_params_yaml_is_valid() -> None:
    assert read_gate(read_yaml(ROOT / "params.yaml")).metric == "accuracy"


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({}, "params.yaml: gate.metric is missing; add it"),
        (
            {"metric": "loss"},
            "params.yaml: gate.metric must be 'accuracy', ",
        ),
        (
            {"minimum": "0.9"},
            "params.yaml: gate.minimum must be a valid number, got '0.9'",
        ),
        ({"minimum": float("nan")}, "params.yaml: gate.minimum must be a finite number, got nan"),
        (
            {"significance": 0},
            "params.yaml: gate.significance must be greater than 0, got 0",
        ),
        ({"noise": 1}, "params.yaml: gate.noise is not a parameter; gate has metric, minimum, "),
        ("accuracy", "params.yaml: gate must be a section of names and values, got 'accuracy'"),
    ],
)
def test_a_wrong_gate_is_refused_with_a_line_for_each_fault(section: Any, reason: str) -> None:
    content = GATE.model_dump() | section if section and isinstance(section, dict) else section
    with pytest.raises(ParamsError) as raised:
        read_gate({"gate": content})
    assert str(raised.value).startswith(reason)
    lines = str(raised.value).removeprefix("params.yaml: ").split("\nerror: params.yaml: ")
    assert all(line.startswith("gate") and "\n" not in line for line in lines)
