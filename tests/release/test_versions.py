"""The model that is published, and the names of its versions."""

from pathlib import Path

import pytest
from toy import commit_all, execute

from pipeline.errors import PipelineError
from pipeline.release.versions import next_version, read_model_name


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
