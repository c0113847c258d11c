"""Nights of new images on the schedule of a real server, as in benchmarks/nights.py."""

from pathlib import Path

import pytest
from helpers import ROOT

from benchmarks.nights import STORY, Night, Repository, Row, run
from pipeline.paths import OWN

SHORT = (Night(150), Night(400, "mislabelled"), Night(30, "unreadable"), Night())
GATE = {"gate.own": {"images": 10, "minimum": 0.5, "largest_drop": 0.5}}  # for 500 digits
ENDS = ["Rejected", "Failed", "Unchanged"]


def assert_only_good_images_are_published(rows: list[Row]) -> None:
    assert [row.state for row in rows] == ["Published"] * (len(rows) - 3) + ENDS
    published, (rejected, failed, _) = rows[:-3], rows[-3:]
    assert [row.version for row in published] == [f"v1.{n}.0" for n in range(len(published))]
    assert {row.version for row in rows[-4:]} == {published[-1].version}
    assert "own" in rejected.message
    assert "broken.png" in failed.message
    assert rejected.champion_on_new is not None
    assert rejected.champion_on_new < 0.2  # it reads what is there


def assert_the_history_is_whole(repository: Repository, rows: list[Row]) -> None:
    last = rows[-1].version
    log = repository.git("log", "--format=%s", "champion").splitlines()
    assert [line for line in log if f"mnist-cnn@{last}" in line]
    repository.git("checkout", "--quiet", f"mnist-cnn@{last}")
    repository.dvc("checkout", "--quiet")
    added = sum(int(row.what) for row in rows if row.what.isdigit())
    assert len(list((repository.folder / OWN).rglob("*.png"))) == added
    assert "up to date" in repository.dvc("status")


def test_new_images_are_published_mislabelled_ones_rejected_and_a_broken_one_fails(
    repository: Path,
) -> None:
    rows = run(repository, SHORT, interval=20, changes=GATE, check=assert_the_history_is_whole)
    assert_only_good_images_are_published(rows)


@pytest.mark.slow
def test_the_nights_on_mnist_end_as_the_benchmark_says() -> None:
    """With two epochs a night instead of five, to save time."""
    rows = run(
        ROOT,
        STORY,
        interval=30,
        changes={"train.epochs": 2},
        check=assert_the_history_is_whole,
    )
    assert_only_good_images_are_published(rows)
    assert rows[5].own is not None
    assert rows[5].own > 0.97
    assert rows[5].accuracy > 0.99
