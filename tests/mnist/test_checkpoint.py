"""Checkpoints: what comes back, what is refused, and on what their names depend."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.mnist import checkpoint
from pipeline.mnist.checkpoint import Checkpoint, checkpoint_path, load_checkpoint, save_checkpoint

SAVED = Checkpoint(
    {
        "weights": torch.arange(6.0).reshape(2, 3),
        "generator": torch.Generator().manual_seed(3).get_state(),
    },
    {"epoch": 2, "history": [[1, 0.1 + 0.2]], "scheduler": {"last_epoch": 7}},
)


@pytest.fixture
def path(workspace: Path) -> Path:
    return checkpoint_path([Path("params.yaml")], seed=1)


def test_a_checkpoint_comes_back_as_it_was_saved(path: Path) -> None:
    save_checkpoint(path, SAVED)
    loaded = load_checkpoint(path)
    assert loaded and loaded.values == SAVED.values
    assert loaded.tensors.keys() == SAVED.tensors.keys()
    assert all(torch.equal(tensor, SAVED.tensors[name]) for name, tensor in loaded.tensors.items())


def test_none_is_no_warning(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_checkpoint(path) is None
    assert capsys.readouterr().err == ""


def test_a_flipped_bit_anywhere_is_noticed_in_one_line(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(path, SAVED)
    content = path.read_bytes()
    for position in range(0, len(content), 37):
        damaged = bytearray(content)
        damaged[position] ^= 4
        path.write_bytes(damaged)
        assert load_checkpoint(path) is None, position
        warning = capsys.readouterr().err
        assert warning.startswith(f"warning: the checkpoint {path} is damaged (")
        assert warning.count("\n") == 1


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 a pickle", (2**62).to_bytes(8, "little") + b"{}"]
)
def test_a_file_that_is_no_checkpoint_is_ignored(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert load_checkpoint(path) is None


def test_the_place_changes_with_each_thing_the_training_depends_on(
    workspace: Path, monkeypatch: Any
) -> None:
    facts: dict[str, Any] = {"params": {"seed": 1}, "environment": {"threads": 2}}
    places = [checkpoint_path([Path("params.yaml")], **facts)]
    assert checkpoint_path([Path("params.yaml")], **facts) == places[0]
    places.append(checkpoint_path([Path("params.yaml")], **facts | {"params": {"seed": 2}}))
    places.append(checkpoint_path([Path("params.yaml")], **facts | {"environment": {"threads": 1}}))
    Path("params.yaml").write_bytes(Path("params.yaml").read_bytes() + b"#")
    places.append(checkpoint_path([Path("params.yaml")], **facts))
    changed = workspace / "code.py"
    changed.write_text("# changed")
    monkeypatch.setattr(checkpoint, "__file__", str(changed))
    places.append(checkpoint_path([Path("params.yaml")], **facts))
    assert len(set(places)) == len(places)


def test_the_folder_keeps_the_newest_and_no_more(path: Path) -> None:
    for number in range(8):
        other = path.with_name(f"{number}.safetensors")
        save_checkpoint(other, SAVED)
        os.utime(other, (number, number))
    save_checkpoint(path, SAVED)
    assert {file.name for file in path.parent.iterdir()} == {
        *(f"{n}.safetensors" for n in (4, 5, 6, 7)),
        path.name,
    }


def test_nothing_in_the_file_can_be_executed(path: Path) -> None:
    save_checkpoint(path, SAVED)
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header.keys() == {"__metadata__", *SAVED.tensors}
