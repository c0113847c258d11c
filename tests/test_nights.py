"""Nights of new images on the schedule of a real server, as in benchmarks/nights.py."""

import json
from pathlib import Path

import pytest

from benchmarks.nights import Night, Repository, Row, run
from pipeline.paths import METRICS, OWN

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
    """Each version is a commit, is listed, compared, and checked out with its data."""
    published = [row for row in rows if row.state == "Published"]
    log = repository.git("log", "--format=%s", "champion").splitlines()
    for row, subject in zip(reversed(published), log, strict=False):
        assert subject.startswith(f"Publish mnist-cnn@{row.version}: accuracy {row.accuracy:.2%}")
    versions = json.loads(repository.mnist("models", "--json"))
    assert [version["name"] for version in versions] == [row.version for row in published[::-1]]
    first, last = (f"mnist-cnn@{row.version}" for row in (published[0], published[-1]))
    changes = json.loads(repository.dvc("metrics", "diff", first, last, "--json"))
    assert changes[str(METRICS)]["own.accuracy"]["new"] == published[-1].own
    chosen = published[len(published) // 2]
    repository.git("checkout", "--quiet", f"mnist-cnn@{chosen.version}")
    repository.dvc("checkout", "--quiet")
    added = sum(int(row.what) for row in published[1 : chosen.night + 1])
    assert len(list((repository.folder / OWN).rglob("*.png"))) == added
    assert "up to date" in repository.dvc("status")


@pytest.mark.slow
def test_new_images_are_published_mislabelled_ones_rejected_and_a_broken_one_fails(
    repository: Path,
) -> None:
    rows = run(repository, SHORT, interval=20, changes=GATE, check=assert_the_history_is_whole)
    assert_only_good_images_are_published(rows)
