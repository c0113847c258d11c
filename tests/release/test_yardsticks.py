"""Two models on the same images: what is compared, and McNemar's test against its definition."""

import random
from collections.abc import Callable
from math import comb
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import classification_report

from pipeline.release.yardsticks import (
    Comparison,
    Evaluation,
    Measurement,
    NewImages,
    compare,
    count_gone,
    covers,
    find_new_images,
    score,
    select,
)


class Row(NamedTuple):
    """A row of predictions.csv."""

    source: str
    image: str
    label: int
    prediction: int


def write_csv(rows: list[Row]) -> bytes:
    lines = [f"{row.source},{row.image},{row.label},{row.prediction},0.9" for row in rows]
    return "\n".join(["source,image,label,prediction,confidence", *lines, ""]).encode()


def write_numbered(rows: list[Row]) -> bytes:
    """Write predictions as earlier commits have them."""
    lines = [f"{index},{row.label},{row.prediction},0.9" for index, row in enumerate(rows)]
    return "\n".join(["index,label,prediction,confidence", *lines, ""]).encode()


def measured(content: bytes, own: bool = False) -> Measurement:
    """Return what a model did; its accuracy is what its predictions say."""
    predictions = select(Evaluation({}, content), own=own).predictions
    metrics = {"accuracy": score("accuracy", predictions)} if predictions else {}
    return Measurement(metrics, predictions)


def rows_of(hits: str, start: int = 0, source: str = "MNIST") -> list[Row]:
    """Return a row for each character, right if it is a 1; images are numbered from `start`."""
    guesses = [7 if hit == "1" else 6 for hit in hits]
    return [Row(source, f"{i:032x}", 7, guess) for i, guess in enumerate(guesses, start)]


def on(hits: str, start: int = 0) -> Measurement:
    return measured(write_csv(rows_of(hits, start)))


def exact_p(gained: int, lost: int) -> float:
    """Return twice the smaller tail of that many tosses of a fair coin."""
    n = gained + lost
    tail: int = sum(comb(n, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / float(2**n))


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (1, 5), (3, 3), (10, 2), (40, 21)])
def test_mcnemars_test_is_the_exact_one(gained: int, lost: int) -> None:
    candidate = "1" * gained + "0" * lost + "1100"
    champion = "0" * gained + "1" * lost + "1100"
    found = compare("accuracy", on(candidate), on(champion)).comparison
    assert found
    assert (found.gained, found.lost) == (gained, lost)
    assert found.p == pytest.approx(exact_p(gained, lost))


# What two models make of some images. Images may occur twice, a model then reads them alike.
images = st.lists(st.integers(0, 9), min_size=1, max_size=30)
guesses = st.lists(st.integers(0, 2), min_size=10, max_size=10)


def read_by(model: list[int], numbers: list[int], source: str = "MNIST") -> list[Row]:
    return [Row(source, str(number), number % 3, model[number]) for number in numbers]


@given(images, guesses, guesses, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(
    numbers: list[int], one: list[int], other: list[int], shuffled: random.Random
) -> None:
    rows, others = read_by(one, numbers), read_by(other, numbers)
    in_order = compare("accuracy", measured(write_csv(rows)), measured(write_csv(others)))
    shuffled.shuffle(rows)
    shuffled.shuffle(others)
    found = compare("accuracy", measured(write_csv(rows)), measured(write_csv(others)))
    assert found == in_order
    assert found.shared == len(numbers)


@given(images, guesses, guesses)
def test_the_same_images_are_compared_as_by_their_rows(
    numbers: list[int], one: list[int], other: list[int]
) -> None:
    """So nothing changes for a test set that stays as it is."""

    def compared(write: Callable[[list[Row]], bytes]) -> object:
        candidate, champion = (measured(write(read_by(model, numbers))) for model in (one, other))
        return compare("accuracy", candidate, champion)

    assert compared(write_csv) == compared(write_numbered)


@given(images, images, guesses, guesses)
def test_models_of_different_images_are_compared_on_those_that_both_have(
    numbers: list[int], earlier: list[int], one: list[int], other: list[int]
) -> None:
    numbers, earlier = sorted(set(numbers)), sorted(set(earlier))
    both = [number for number in numbers if number in earlier]
    candidate = measured(write_csv(read_by(one, numbers)))
    champion = measured(write_csv(read_by(other, earlier)))
    found = compare("accuracy", candidate, champion, failure="for a reason")
    assert covers(champion, candidate) == (both == numbers)
    assert found.failure == ("" if both == numbers else "for a reason")
    assert found.shared == len(both)
    if both:
        one_of_both, other_of_both = (
            measured(write_csv(read_by(model, both))) for model in (one, other)
        )
        alone = compare("accuracy", one_of_both, other_of_both)
        assert found.comparison == alone.comparison
        assert (found.candidate_on_shared, found.champion) == (alone.candidate, alone.champion)
    else:
        assert found.comparison is None


def test_an_image_under_another_label_is_another_image() -> None:
    relabelled = [row._replace(label=3) for row in rows_of("1111")]
    found = compare("accuracy", on("1111"), measured(write_csv(relabelled)))
    assert (found.shared, found.comparison) == (0, None)


def test_rows_tell_nothing_unless_all_are_the_same() -> None:
    """Row 3 of one test set is not row 3 of another."""
    shorter, longer = (measured(write_numbered(rows_of(hits))) for hits in ("1010", "10101"))
    assert compare("accuracy", shorter, shorter).comparison == Comparison(0, 0, 1.0)
    assert compare("accuracy", shorter, longer).comparison is None
    assert not covers(longer, shorter)
    assert not covers(shorter, on("1010")), "nor of images that are known by their hashes"
    assert covers(on("10101"), on("1010"))


def test_a_champion_that_was_measured_on_the_images_is_taken_only_where_it_is_needed() -> None:
    stored, again = on("1100"), on("0000")
    assert compare("accuracy", on("1111"), stored, again).champion == 0.5
    found = compare("accuracy", on("11111"), stored, on("00000"))
    assert (found.champion, found.shared, found.is_partial) == (0, 5, False)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_a_score_is_the_mean_over_the_classes_that_occur(pairs: list[tuple[int, int]]) -> None:
    rows = [Row("own", str(number), *pair) for number, pair in enumerate(pairs)]
    predictions = select(Evaluation({}, write_csv(rows)), own=True).predictions
    labels, guessed = zip(*pairs, strict=True)
    report = classification_report(
        labels, guessed, labels=sorted(set(labels)), output_dict=True, zero_division=0
    )
    for name, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
        assert score(name, predictions) == pytest.approx(report["macro avg"][key])
    hits = sum(label == guess for label, guess in pairs)
    assert score("accuracy", predictions) == hits / len(pairs)


def test_new_images_are_those_that_the_champions_commit_was_not_measured_on() -> None:
    candidate, stored = on("110111"), on("1100")
    assert find_new_images(candidate, stored, on("110001")) == NewImages(2, 2, 1)
    assert find_new_images(candidate, stored, None) == NewImages(2, 2, None)
    assert find_new_images(on("1101"), stored, None) is None
    nothing = Measurement({}, {})
    assert find_new_images(candidate, nothing, on("110001")) == NewImages(6, 5, 3)
    lost = Measurement({"accuracy": 0.5}, {})
    assert find_new_images(candidate, lost, on("110001")) is None, "nobody can tell which are new"


def test_images_are_gone_if_the_champions_commit_was_measured_on_them_and_the_candidate_not() -> (
    None
):
    stored, both = on("110011"), measured(write_numbered(rows_of("110011")))
    assert count_gone(on("1100"), stored) == 2
    assert count_gone(on("1111", start=4), stored) == 4, "though others are new"
    assert count_gone(stored, on("1100")) == 0
    assert count_gone(on("1100"), both) == 2, "rows can be counted"
    lost = Measurement({"accuracy": 0.5, "images": 6}, {})
    assert count_gone(on("1100"), lost) == 2
    assert count_gone(Measurement({"accuracy": 0.5}, {}), stored) == 0, "nobody can tell"
    assert count_gone(Measurement({}, {}), stored) == 6
    assert compare("accuracy", on("1111"), stored, on("1100")).gone == 2


def test_own_images_and_the_data_sets_are_apart() -> None:
    content = write_csv([*rows_of("110"), *rows_of("1", source="own")])
    evaluation = Evaluation({"accuracy": 0.66, "own.accuracy": 1, "own.images": 1}, content)
    own, data_set = (select(evaluation, own=is_own) for is_own in (True, False))
    assert own.metrics == {"accuracy": 1, "images": 1}
    assert (len(own.predictions), len(data_set.predictions)) == (1, 3)
    assert data_set.metrics["accuracy"] == 0.66
    assert compare("accuracy", own, data_set).shared == 0, "the same pixels from another source"
