"""Verifying graphs with data that no command makes, on small repositories."""

import shutil
from pathlib import Path

import pytest
from toy import GIT, append, commit_all, execute, make_workspace

from pipeline.release.verification import Verification, conclusion
from pipeline.release.verify import VerifyError, verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A stage reads what data.dvc tracks, another is frozen, a third is of sub/dvc.yaml."""
    folder = make_workspace(tmp_path / "w", {"kept": "", "only": ""})
    (folder / "data").write_text("data")
    execute(folder, "dvc", "add", "data")
    text = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(text.replace("- only.py", "- only.py\n    - data"))
    (folder / "sub").mkdir()
    sub = "stages: {train: {cmd: echo 1 > model, outs: [model]}}"
    (folder / "sub" / "dvc.yaml").write_text(sub)
    execute(folder, "dvc", "repro", "--all-pipelines")
    execute(folder, "dvc", "freeze", "kept")
    commit_all(folder)
    return folder


def stages(verification: Verification) -> dict[str, bool]:
    return {out.stage: out.is_same for out in verification.outs}


def test_data_of_a_dvc_file_and_every_lock_are_verified(folder: Path) -> None:
    assert stages(verify(folder, "HEAD")) == dict.fromkeys(
        ["data.dvc", "kept", "only", "sub/dvc.yaml:train"], True
    )
    lock = folder / "sub" / "dvc.lock"
    lock.write_text(lock.read_text().replace("md5: b", "md5: c"))
    execute(folder, *GIT, "commit", "-qam", "another hash")
    verification = verify(folder, "HEAD")
    assert verification.first_different == "sub/dvc.yaml:train"
    assert [name for name, is_same in stages(verification).items() if not is_same] == [
        "sub/dvc.yaml:train"
    ]


def test_data_that_was_changed_behind_dvcs_back_is_named(folder: Path) -> None:
    (folder / "data").unlink()
    (folder / "data").write_text("other")
    verification = verify(folder, "HEAD")
    assert conclusion(verification).startswith("different: data.dvc: data in the workspace has md5")


def test_data_that_the_cache_lacks_is_one_line_that_names_it(folder: Path) -> None:
    shutil.rmtree(folder / ".dvc" / "cache")
    with pytest.raises(VerifyError, match=r"^data.dvc, kept: not in the cache; get .*: dvc fetch"):
        verify(folder, "HEAD")


def test_the_stage_that_fails_is_named(folder: Path) -> None:
    append(folder / "only.py", "raise SystemExit('error: no luck')")
    execute(folder, *GIT, "commit", "-qam", "it fails now")
    with pytest.raises(VerifyError, match="the stage only did not run to its end: error: no luck"):
        verify(folder, "HEAD")
