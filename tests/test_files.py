from pathlib import Path

import pytest

from pipeline.files import atomic_write


def test_a_finished_write_replaces_the_file_and_makes_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for content in ("first", "second"):
        with atomic_write(path) as temporary:
            temporary.write_text(content)
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        (temporary.parent / ".tmpJTji1e").touch()
        temporary.parent.rename(tmp_path / "left")
        raise RuntimeError
    (tmp_path / "left").rename(temporary.parent)
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
    assert list(tmp_path.iterdir()) == [path]
