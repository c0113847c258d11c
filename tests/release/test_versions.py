"""The model that is published, and the names of its versions."""

import json
from pathlib import Path

import pytest
from toy import commit_all, execute

from pipeline.errors import PipelineError
from pipeline.release.tags import next_version
from pipeline.release.versions import (
    Version,
    describe,
    read_model_name,
    to_json,
)


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    execute(tmp_path, "cp", "-r", str(trained), "checkout")
    return tmp_path / "checkout"


def test_the_model_to_publish_is_the_one_that_dvc_yaml_declares(folder: Path) -> None:
    assert read_model_name(folder, "HEAD") == "toy"
    assert next_version(folder, "toy") == "toy@v1.0.0"
    (folder / "dvc.yaml").write_text((folder / "dvc.yaml").read_text().partition("artifacts:")[0])
    commit_all(folder)
    with pytest.raises(PipelineError, match="the one to publish; found none"):
        read_model_name(folder, "HEAD")


def test_versions_are_shown_as_a_table_and_as_json() -> None:
    made = "2026-11-23 17:55+00:00"
    versions = [
        Version(
            "v1.1.0",
            "2288c33" + "0" * 33,
            made,
            ("prod",),
            {"accuracy": 0.99354, "loss": 1},
            "champion",
        ),
        Version(
            "v1.0.0", "9965298" + "0" * 33, made, (), {"accuracy": 0.9943, "per_class.3.f1": 1}
        ),
    ]
    assert describe(versions).splitlines() == [
        "version  stage  branch    commit   created                 accuracy  loss",
        "v1.1.0   prod   champion  2288c33  2026-11-23 17:55+00:00  0.9935    1",
        "v1.0.0   -      -         9965298  2026-11-23 17:55+00:00  0.9943    -",
    ]
    assert json.loads(to_json(versions))[0]["stages"] == ["prod"]
    own = {"own.images": 56, "own.accuracy": 0.98214, "own.per_class.3.f1": 1}
    versions[0].metrics.update(own)
    first, *rows = (line.split()[-2:] for line in describe(versions).splitlines())
    assert [first, *rows] == [["loss", "own.accuracy"], ["1", "0.9821"], ["-", "-"]]
    assert describe([]) == "no versions yet"
