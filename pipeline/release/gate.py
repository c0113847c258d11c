"""The gate: is a candidate good enough to replace the champion?

Its rules are the section `gate` of params.yaml. It has two yardsticks: the data set's test images,
and the held-out own images if there are any. A candidate is rejected if on either of them its
metric is below the minimum, or too far below the champion's, or if it is worse by more than noise.
Noise is judged by McNemar's exact test on the images that only one of the two models reads right.
Fewer own images than `gate.own.images` reject no candidate.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from pipeline.errors import DataError, ParamsError
from pipeline.params import PARAMS_FILE, Params, validate
from pipeline.release.verdict import (
    Result,
    Rules,
    Verdict,
    acceptance_reason,
    are_too_few,
    describe_comparison,
    describe_gap,
    describe_gone,
    describe_new_images,
    describe_standing,
    describe_too_few,
)
from pipeline.release.yardsticks import (
    OWN,
    Champion,
    Evaluation,
    Standing,
    compare,
    count_gone,
    find_new_images,
    select,
)


class OwnGateParams(Params):
    """The section `gate.own`: what is asked on the held-out own images."""

    images: int = Field(ge=1)  # fewer are reported, and nothing is rejected by them
    minimum: float = Field(ge=0, le=1)
    largest_drop: float = Field(ge=-1, le=1)


class GateParams(Params):
    """The section `gate` of params.yaml."""

    metric: Literal["accuracy", "f1", "precision", "recall"]  # more is better
    minimum: float = Field(ge=0, le=1)
    largest_drop: float = Field(ge=-1, le=1)  # below the champion's; a negative one asks for a gain
    significance: float = Field(gt=0, lt=1)  # a loss whose p is below this is more than noise
    own: OwnGateParams | None = None  # commits from before there were own images have none


def read_gate(params: Mapping[str, Any]) -> GateParams:
    """Return the section `gate` of params.yaml; raise ParamsError with every fault found."""
    return validate(GateParams, params.get("gate", {}), PARAMS_FILE, "gate")


def require_own(gate: GateParams) -> OwnGateParams:
    """Return what is asked on own images; raise ParamsError if the gate has no section for them."""
    if gate.own:
        return gate.own
    raise ParamsError(
        f"{PARAMS_FILE}: gate.own is missing, and there are own images; add it, such as"
        " own: {images: 50, minimum: 0.9, largest_drop: 0.05}"
    )


def judge(gate: GateParams, candidate: Evaluation, champion: Champion | None) -> Verdict:
    """Judge a candidate on each yardstick.

    Raises DataError if it has no metric of the gate's name, and ParamsError if it was measured on
    own images and the gate has no section for them.
    """
    rules = Rules(gate.metric, gate.minimum, gate.largest_drop, gate.significance)
    results = [judge_on(rules, candidate, champion, own=False)]
    of_own = select(candidate, own=True)
    if of_own.metrics:
        rules = replace(rules, **require_own(gate).model_dump())
        results.append(judge_on(rules, candidate, champion, own=True))
    elif champion and (gone := count_gone(of_own, select(champion.stored, own=True))):
        reason = f"{results[0].reason}; no own images are held out: {describe_gone(gone)}"
        results = [replace(results[0], reason=reason)]
    return Verdict(tuple(results))


def judge_on(
    rules: Rules,
    candidate: Evaluation,
    champion: Champion | None,
    *,
    own: bool,
) -> Result:
    """Judge a candidate on one yardstick; raise DataError if it lacks the gate's metric."""
    mine = select(candidate, own=own)
    if rules.metric not in mine.metrics:
        name = f"{OWN}.{rules.metric}" if own else rules.metric
        raise DataError(
            f"the candidate's metrics have no {name}; let params.yaml: gate.metric name"
            " one they have"
        )
    standing = Standing(len(mine.predictions), mine.metrics[rules.metric])
    new = None
    if champion:
        stored = select(champion.stored, own=own)
        measured = select(champion.measured, own=own) if champion.measured else None
        standing = compare(rules.metric, mine, stored, measured, champion.failure)
        new = find_new_images(mine, stored, measured) if own else None
    rejection = rejection_reason(rules, standing)
    reason = rejection or acceptance_reason(rules, standing, has_champion=champion is not None)
    clauses = [reason]
    if are_too_few(rules, standing):
        clauses.append(describe_too_few(rules, standing))
    if standing.gone:
        clauses.append(describe_gone(standing.gone))
    if new:
        clauses.append(describe_new_images(new))
    source = next((image.source for image in mine.predictions), "")
    yardstick = "own images" if own else source or "test images"
    return Result(yardstick, rules, standing, new, not rejection, "; ".join(clauses))


def rejection_reason(rules: Rules, standing: Standing) -> str | None:
    """Return why a candidate is rejected; None if it is accepted."""
    if are_too_few(rules, standing):
        return None
    if standing.candidate < rules.minimum:
        return (
            f"{rules.metric} {standing.candidate:.2%} is below the minimum of {rules.minimum:.2%}"
        )
    if standing.champion is None:
        return None
    drop = round(standing.champion - standing.candidate_on_shared, 9)  # 0.75 - 0.7 is 0.05000…4
    if drop > rules.largest_drop:
        allowed = f"the drop of {drop:.2%} is more than the {rules.largest_drop:.2%} allowed"
        return f"{describe_standing(rules, standing)}: {allowed}{describe_gap(standing)}"
    comparison = standing.comparison
    if comparison and comparison.lost > comparison.gained and comparison.p < rules.significance:
        counts = describe_comparison(comparison)
        return f"worse than the champion by more than noise: {counts}{describe_gap(standing)}"
    return None
