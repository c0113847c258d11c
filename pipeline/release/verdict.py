"""What the gate says of a candidate: for each yardstick in a sentence, and as a page."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.release.yardsticks import Comparison, NewImages, Standing


@dataclass(frozen=True)
class Rules:
    """What a yardstick asks of a candidate."""

    metric: str
    minimum: float
    largest_drop: float
    significance: float
    images: int = 0  # by fewer it does not judge


@dataclass(frozen=True)
class Result:
    """What one yardstick says of a candidate."""

    yardstick: str
    rules: Rules
    standing: Standing
    new: NewImages | None
    passed: bool
    reason: str  # a sentence


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a candidate, and on what grounds."""

    results: tuple[Result, ...]  # one for each yardstick, that of the data set first
    refusal: str = ""  # why a person has not approved what the gate has passed

    @property
    def passed(self) -> bool:
        return not self.refusal and all(result.passed for result in self.results)

    @property
    def reason(self) -> str:
        """A sentence for each yardstick, first those that reject the candidate."""
        ordered = sorted(self.results, key=lambda result: result.passed)
        sentences = [f"On {result.yardstick}, {result.reason}" for result in ordered]
        if len(ordered) == 1:
            sentences = [ordered[0].reason]
        said = ". ".join(sentences)
        return f"{self.refusal}; the gate had passed it: {said}" if self.refusal else said

    @property
    def metric(self) -> str:
        """The candidate's metric, on each yardstick."""
        first, *others = self.results
        figures = [f"{first.rules.metric} {first.standing.candidate:.2%}"]
        figures += [f"{other.yardstick} {other.standing.candidate:.2%}" for other in others]
        return ", ".join(figures)


def acceptance_reason(rules: Rules, standing: Standing, *, has_champion: bool) -> str:
    """Return how an accepted candidate compares with the champion."""
    if standing.champion is None:
        lacks = describe_lack(rules, standing) if has_champion else "no champion yet"
        return f"{rules.metric} {standing.candidate:.2%}, and {lacks}"
    compared, gap = describe_standing(rules, standing), describe_gap(standing)
    if not (comparison := standing.comparison):
        return f"{compared}{gap}"
    is_noise = comparison.p >= rules.significance
    beyond = "no difference beyond noise" if is_noise else "more than noise"
    return f"{compared}, {beyond}: {describe_comparison(comparison)}{gap}"


def describe_lack(rules: Rules, standing: Standing) -> str:
    """Return why the champion has no metric to compare with, as a clause."""
    if standing.shared:
        return f"the champion's metrics have no {rules.metric}"
    because = f": {standing.failure}" if standing.failure else ""
    return f"the champion was not measured on these images{because}"


def describe_standing(rules: Rules, standing: Standing) -> str:
    """Return the metrics of both models, on the images that both were measured on."""
    compared = f"{standing.candidate_on_shared:.2%} against the champion's {standing.champion:.2%}"
    if not standing.is_partial:
        return f"{rules.metric} {compared}"
    both = f"the {standing.shared} of {standing.images} images that both were measured on"
    return f"{rules.metric} {standing.candidate:.2%}, on {both} {compared}"


def describe_gap(standing: Standing) -> str:
    """Return why the models are not compared on all images, as a clause; empty if they are."""
    if standing.is_partial:
        because = f": {standing.failure}" if standing.failure else ""
        return f"; the champion could not be measured on the others{because}"
    if standing.comparison:
        return ""
    because = f" ({standing.failure})" if standing.failure else ""
    return f"; not tested: the champion has no predictions of the same images{because}"


def describe_comparison(comparison: Comparison) -> str:
    counts = f"{comparison.gained} images gained and {comparison.lost} lost"
    return f"{counts}, McNemar's p = {comparison.p:.3g}"


def are_too_few(rules: Rules, standing: Standing) -> bool:
    """Return whether the candidate was measured on too few images to be judged by them."""
    return standing.images < rules.images


def describe_too_few(rules: Rules, standing: Standing) -> str:
    many = f"{standing.images} own images" if standing.images > 1 else "1 own image"
    return f"{many}, too few to judge by: {rules.images} are asked for"


def describe_gone(images: int) -> str:
    """Return how many of the champion's images the candidate was not measured on, as a clause."""
    if images == 1:
        return "1 image that the champion was measured on is gone"
    return f"{images:,} images that the champion was measured on are gone"


def describe_new_images(new: NewImages) -> str:
    """Return what each model makes of the new images, as a clause."""
    candidate = f"{new.candidate} ({new.candidate / new.images:.1%})"
    many = f"of {new.images} new images" if new.images > 1 else "of 1 new image"
    if new.champion is None:
        return f"{many} the candidate read {candidate}"
    champion = f"{new.champion} ({new.champion / new.images:.1%})"
    return f"{many} the champion read {champion}, the candidate {candidate}"


def to_markdown(verdict: Verdict, title: str) -> str:
    """Return the verdict as a page with that title: a table with a column for each yardstick."""
    are_two = len(verdict.results) > 1
    columns = [dict(table_rows(result, with_counts=are_two)) for result in verdict.results]
    heads = [result.yardstick if are_two else "" for result in verdict.results]
    table = [f"| | {' | '.join(heads)} |".replace("|  |", "| |"), "|---" * (len(heads) + 1) + "|"]
    for name in dict.fromkeys(name for column in columns for name in column):
        values = [column.get(name, "") for column in columns]
        table.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join([f"# {title}\n\n{verdict.reason}\n", *table, ""])


def table_rows(result: Result, with_counts: bool) -> Iterator[tuple[str, str]]:
    """Yield each row's name and value."""
    rules, standing = result.rules, result.standing
    champion = "none" if standing.champion is None else f"{standing.champion:.2%}"
    if with_counts:
        yield "images", f"{standing.images:,}"
    yield f"{rules.metric}, the candidate's", f"{standing.candidate:.2%}"
    if standing.is_partial:
        yield "images that both were measured on", f"{standing.shared:,}"
        yield f"{rules.metric} on these, the candidate's", f"{standing.candidate_on_shared:.2%}"
        yield f"{rules.metric} on these, the champion's", champion
    else:
        yield f"{rules.metric}, the champion's", champion
    yield "minimum", f"{rules.minimum:.2%}"
    yield "largest drop allowed", f"{rules.largest_drop:.2%}"
    if are_too_few(rules, standing):
        yield "images to judge by, at least", f"{rules.images:,}"
    if comparison := standing.comparison:
        yield "images that only the candidate reads right", str(comparison.gained)
        yield "images that only the champion reads right", str(comparison.lost)
        noise = f"p = {comparison.p:.3g}, noise from {rules.significance:g}"
        yield "McNemar's exact test, two-sided", noise
    if standing.gone:
        yield "images of the champion's that are gone", f"{standing.gone:,}"
    if new := result.new:
        champion = "not known" if new.champion is None else str(new.champion)
        yield "new images", str(new.images)
        yield "new images that the candidate reads right", str(new.candidate)
        yield "new images that the champion reads right", champion
