"""Files and folders that are written whole or not at all."""

from pathlib import Path

import pytest

from pipeline.files import atomic_folder, atomic_write


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
        (temporary.parent / ".tmpJTji1e").touch()  # a file of safetensors' own
        temporary.parent.rename(tmp_path / "left")
        raise RuntimeError
    (tmp_path / "left").rename(temporary.parent)
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_folder_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    for name in ("first", "second"):
        with atomic_folder(path) as temporary:
            (temporary / name).touch()
            assert not (path / name).exists()
    assert [file.name for file in path.iterdir()] == ["second"]
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_folder_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(RuntimeError), atomic_folder(path) as temporary:
        (temporary / "half").touch()
        raise RuntimeError
    assert [file.name for file in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_starts_empty_whatever_a_killed_write_left(tmp_path: Path) -> None:
    (tmp_path / ".folder.partial" / "folder").mkdir(parents=True)
    (tmp_path / ".folder.partial" / "folder" / "half").touch()
    with atomic_folder(tmp_path / "folder") as temporary:
        assert list(temporary.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
