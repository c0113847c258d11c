"""The gate: is a candidate good enough to take the champion's place? Its rules are the section
`gate` of params.yaml.

A metric may not be below the minimum, nor too far below the champion's, nor may the loss be more
than noise: McNemar's exact test on the images that one of the two reads right and the other wrong.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from pipeline.errors import DataError
from pipeline.params import PARAMS_FILE, Params, validate


class GateParams(Params):
    metric: Literal["accuracy", "f1", "precision", "recall"]  # more is better
    minimum: float = Field(ge=0, le=1)
    largest_drop: float = Field(ge=-1, le=1)  # below the champion's; a negative one asks for a gain
    significance: float = Field(
        gt=0, lt=1
    )  # a loss less probable than this, were both equally good, is no noise


@dataclass(frozen=True)
class Evaluation:
    """What a model does on the test images: its metrics and, as CSV, its predictions."""

    metrics: Mapping[str, float]
    predictions: bytes


@dataclass(frozen=True)
class Comparison:
    """Test images that only one of two models reads right, and the probability of so uneven a split
    by chance.
    """

    gained: int
    lost: int
    p: float


@dataclass(frozen=True)
class Verdict:
    passed: bool
    reason: str
    gate: GateParams
    candidate: float
    champion: float | None
    comparison: Comparison | None


def read_gate(params: Mapping[str, Any]) -> GateParams:
    """Return the section `gate` of params.yaml; raise ParamsError with every fault found."""
    return validate(GateParams, params.get("gate", {}), PARAMS_FILE, "gate")


def judge(gate: GateParams, candidate: Evaluation, champion: Evaluation | None) -> Verdict:
    """Raise DataError where the candidate has no such metric."""
    if gate.metric not in candidate.metrics:
        raise DataError(
            f"the candidate's metrics have no {gate.metric}; let params.yaml: gate.metric name"
            " one they have"
        )
    new, old = (
        candidate.metrics[gate.metric],
        champion.metrics.get(gate.metric) if champion else None,
    )
    comparison = compare(candidate.predictions, champion.predictions) if champion else None
    fault = rejection_reason(gate, new, old, comparison)
    return Verdict(
        not fault,
        fault or acceptance_reason(gate, new, old, comparison),
        gate,
        new,
        old,
        comparison,
    )


def rejection_reason(
    gate: GateParams, new: float, old: float | None, comparison: Comparison | None
) -> str | None:
    if new < gate.minimum:
        return f"{gate.metric} {new:.2%} is below the minimum of {gate.minimum:.2%}"
    if old is None:
        return None
    if (
        round(old - new, 9) > gate.largest_drop
    ):  # without binary dust: a drop of just as much is allowed
        return (
            f"{gate.metric} {new:.2%} against the champion's {old:.2%}: the drop of"
            f" {old - new:.2%} is more than the"
            f" {gate.largest_drop:.2%} allowed"
        )
    if comparison and comparison.lost > comparison.gained and comparison.p < gate.significance:
        return f"worse than the champion by more than noise: {describe_comparison(comparison)}"
    return None


def acceptance_reason(
    gate: GateParams, new: float, old: float | None, comparison: Comparison | None
) -> str:
    if old is None:
        return f"{gate.metric} {new:.2%}, and no champion yet"
    standing = f"{gate.metric} {new:.2%} against the champion's {old:.2%}"
    if comparison is None:
        return f"{standing}; no test, for want of the champion's predictions on the same images"
    is_noise = comparison.p >= gate.significance
    beyond = "no difference beyond noise" if is_noise else "more than noise"
    return f"{standing}, {beyond}: {describe_comparison(comparison)}"


def describe_comparison(comparison: Comparison) -> str:
    counts = f"{comparison.gained} images gained and {comparison.lost} lost"
    return f"{counts}, McNemar's p = {comparison.p:.3g}"


def compare(candidate: bytes, champion: bytes) -> Comparison | None:
    """McNemar's exact test; None where the two are not about the same images."""
    ours, theirs = read_correctness(candidate), read_correctness(champion)
    if not ours or ours.keys() != theirs.keys():
        return None
    gained = sum(hit and not theirs[image] for image, hit in ours.items())
    lost = sum(theirs[image] and not hit for image, hit in ours.items())
    if not gained + lost:
        return Comparison(0, 0, 1.0)
    from scipy.stats import binomtest  # only now: most runs have nothing to compare

    return Comparison(gained, lost, float(binomtest(gained, gained + lost).pvalue))


def read_correctness(predictions: bytes) -> dict[tuple[str, str], bool]:
    """For each test image, by its index and label, whether it was read right."""
    rows = csv.DictReader(io.StringIO(predictions.decode()))
    return {(row["index"], row["label"]): row["label"] == row["prediction"] for row in rows}


def to_markdown(verdict: Verdict, state: str) -> str:
    gate, comparison = verdict.gate, verdict.comparison
    champion = "none" if verdict.champion is None else f"{verdict.champion:.2%}"
    rows = [
        (f"{gate.metric}, the candidate's", f"{verdict.candidate:.2%}"),
        (f"{gate.metric}, the champion's", champion),
        ("minimum", f"{gate.minimum:.2%}"),
        ("largest drop allowed", f"{gate.largest_drop:.2%}"),
    ]
    if comparison:
        rows += [
            ("images that only the candidate reads right", str(comparison.gained)),
            ("images that only the champion reads right", str(comparison.lost)),
            (
                "McNemar's exact test, two-sided",
                f"p = {comparison.p:.3g}, noise from {gate.significance:g}",
            ),
        ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"# {state}\n\n{verdict.reason}\n\n| | |\n|---|---|\n{table}\n"
