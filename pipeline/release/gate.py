"""The gate: is a candidate good enough to replace the champion?

Its rules are the section `gate` of params.yaml. A candidate is rejected if its metric is below the
minimum, or too far below the champion's, or if it is worse by more than noise. Noise is judged by
McNemar's exact test on the images that only one of the two models reads right.
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
    """The section `gate` of params.yaml."""

    metric: Literal["accuracy", "f1", "precision", "recall"]  # more is better
    minimum: float = Field(ge=0, le=1)
    largest_drop: float = Field(ge=-1, le=1)  # below the champion's; a negative one asks for a gain
    significance: float = Field(gt=0, lt=1)  # a loss whose p is below this is more than noise


@dataclass(frozen=True)
class Evaluation:
    """A model's metrics on the test images, and its predictions of them as CSV."""

    metrics: Mapping[str, float]
    predictions: bytes


@dataclass(frozen=True)
class Comparison:
    """McNemar's exact test of a candidate against a champion."""

    gained: int  # images that only the candidate reads right
    lost: int  # images that only the champion reads right
    p: float  # the probability of so uneven a split if both were equally good


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a candidate, and on what grounds."""

    passed: bool
    reason: str
    gate: GateParams
    candidate: float  # its metric
    champion: float | None  # its metric; None if there is no champion, or it has no such metric
    comparison: Comparison | None  # None if the two were not evaluated on the same images


def read_gate(params: Mapping[str, Any]) -> GateParams:
    """Return the section `gate` of params.yaml; raise ParamsError with every fault found."""
    return validate(GateParams, params.get("gate", {}), PARAMS_FILE, "gate")


def judge(gate: GateParams, candidate: Evaluation, champion: Evaluation | None) -> Verdict:
    """Judge a candidate; raise DataError if it has no metric of the gate's name."""
    if gate.metric not in candidate.metrics:
        raise DataError(
            f"the candidate's metrics have no {gate.metric}; let params.yaml: gate.metric name"
            " one they have"
        )
    new = candidate.metrics[gate.metric]
    old, comparison = None, None
    if champion:
        old = champion.metrics.get(gate.metric)
        comparison = compare(candidate.predictions, champion.predictions)
    rejection = rejection_reason(gate, new, old, comparison)
    if champion and old is None:
        acceptance = f"{gate.metric} {new:.2%}, and the champion has no {gate.metric}"
    else:
        acceptance = acceptance_reason(gate, new, old, comparison)
    reason = rejection or acceptance
    return Verdict(not rejection, reason, gate, new, old, comparison)


def rejection_reason(
    gate: GateParams,
    new: float,
    old: float | None,
    comparison: Comparison | None,
) -> str | None:
    """Return why a candidate with the metric `new` is rejected; None if it is accepted."""
    if new < gate.minimum:
        return f"{gate.metric} {new:.2%} is below the minimum of {gate.minimum:.2%}"
    if old is None:
        return None
    if round(old - new, 9) > gate.largest_drop:  # 0.75 - 0.7 is 0.05000000000000004
        return (
            f"{gate.metric} {new:.2%} against the champion's {old:.2%}: the drop of"
            f" {old - new:.2%} is more than the {gate.largest_drop:.2%} allowed"
        )
    if comparison and comparison.lost > comparison.gained and comparison.p < gate.significance:
        return f"worse than the champion by more than noise: {describe_comparison(comparison)}"
    return None


def acceptance_reason(
    gate: GateParams,
    new: float,
    old: float | None,
    comparison: Comparison | None,
) -> str:
    """Return how an accepted candidate compares with the champion."""
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
    """Compare the predictions of two models; None if they are not of the same images."""
    new, old = read_correctness(candidate), read_correctness(champion)
    if not new or new.keys() != old.keys():
        return None
    gained = sum(new[image] and not old[image] for image in new)
    lost = sum(old[image] and not new[image] for image in new)
    if not gained + lost:
        return Comparison(0, 0, 1.0)
    from scipy.stats import binomtest  # only now: most runs have nothing to compare

    return Comparison(gained, lost, float(binomtest(gained, gained + lost).pvalue))


def read_correctness(predictions: bytes) -> dict[tuple[str, str], bool]:
    """Return whether each test image was read right; an image is its index and label."""
    rows = csv.DictReader(io.StringIO(predictions.decode()))
    return {(row["index"], row["label"]): row["label"] == row["prediction"] for row in rows}


def to_markdown(verdict: Verdict, title: str) -> str:
    """Return the verdict as a page with that title."""
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
    return f"# {title}\n\n{verdict.reason}\n\n| | |\n|---|---|\n{table}\n"
