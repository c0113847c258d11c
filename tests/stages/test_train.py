"""The train stage: its files and bytes, and how a killed training resumes."""

import json
import os
import pty
import shutil
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers import NO_DISTORTION, set_params
from networks import NETWORKS

from pipeline.errors import PipelineError
from pipeline.mnist.checkpoint import Checkpoint, save_checkpoint
from pipeline.mnist.idx import Digits
from pipeline.mnist.inference import load_to_device, predict
from pipeline.mnist.model import load_model
from pipeline.mnist.tensors import load_digits, save_digits
from pipeline.mnist.training import Epoch, TrainingState
from pipeline.paths import (
    CHECKPOINTS,
    HISTORY,
    MODEL,
    OWN_TRAIN,
    OWN_VALIDATION,
    RECEIPT,
    TRAIN,
    VALIDATION,
)
from pipeline.stages import train


def run_train(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.stages.train"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_the_model_and_its_history_are_written(finished_workspace: Path) -> None:
    history = pd.read_csv(HISTORY)
    columns = ["epoch", "learning_rate", "train_loss", "validation_loss", "validation_accuracy"]
    assert list(history.columns) == columns
    assert list(history["epoch"]) == [1, 2]
    assert load_model(MODEL)[1].dataset == "sample"


def test_calibrating_changes_the_temperature_and_no_weight(finished_workspace: Path) -> None:
    def validate() -> tuple[dict[str, torch.Tensor], torch.Tensor, float]:
        network, _ = load_model(MODEL)
        digits = load_to_device(VALIDATION, torch.device("cpu"))
        logits = predict(network, digits)
        return network.state_dict(), logits, F.cross_entropy(logits, digits.labels).item()

    set_params(train={"label_smoothing": 0.3})
    train.main()
    weights, logits, loss = validate()
    set_params(train={"label_smoothing": 0.3, "calibrate": True})
    train.main()
    same, divided, least = validate()
    assert all(map(torch.equal, weights.values(), same.values()))
    torch.testing.assert_close(divided, logits / load_model(MODEL)[1].temperature)
    assert least < loss - 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONHASHSEED": "0", "LC_ALL": "C", "TZ": "UTC"},
        {"PYTHONHASHSEED": "1", "LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo"},
        {
            "PYTHONHASHSEED": "random",
            "LC_ALL": "",  # the caller's LC_ALL would come before LANG
            "LANG": "de_DE.UTF-8",
            "TZ": "America/St_Johns",
            "PYTHONUTF8": "0",
            "COLUMNS": "40",
        },
    ],
)
def test_no_environment_changes_the_bytes(
    finished_workspace: Path, environment: dict[str, str]
) -> None:
    before = MODEL.read_bytes(), HISTORY.read_bytes()
    run_train(**environment).check_returncode()
    assert (MODEL.read_bytes(), HISTORY.read_bytes()) == before


@pytest.mark.slow
def test_another_folder_changes_no_byte(
    finished_workspace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("elsewhere") / "in a folder, deeper — ü"
    shutil.copytree(finished_workspace, folder)
    (folder / MODEL).unlink()
    subprocess.run(
        [sys.executable, "-m", "pipeline.stages.train"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    assert (folder / MODEL).read_bytes() == MODEL.read_bytes()
    assert (folder / HISTORY).read_bytes() == HISTORY.read_bytes()


@pytest.mark.slow
def test_a_terminal_changes_no_byte(finished_workspace: Path) -> None:
    """In a terminal there is a progress bar, which reads the loss within an epoch."""
    before = MODEL.read_bytes(), HISTORY.read_bytes()
    terminal, its_end = pty.openpty()
    termios.tcsetwinsize(its_end, (24, 100))
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.stages.train"], stdout=its_end, stderr=its_end
    )
    os.close(its_end)
    shown = b""
    with suppress(OSError):  # EIO: the other end is closed
        while chunk := os.read(terminal, 4096):
            shown += chunk
    os.close(terminal)
    assert process.wait() == 0
    assert b"epoch 1/2: 100%" in shown
    assert (MODEL.read_bytes(), HISTORY.read_bytes()) == before


def test_another_seed_gives_another_model(finished_workspace: Path) -> None:
    before = MODEL.read_bytes()
    set_params(train={"seed": 2})
    train.main()
    assert MODEL.read_bytes() != before


@pytest.mark.parametrize(("keep", "kept"), [("best", 3.0), ("last", 4.0)])
def test_the_best_epoch_is_kept_or_the_last(
    finished_workspace: Path, monkeypatch: pytest.MonkeyPatch, keep: str, kept: float
) -> None:
    def fit(state: TrainingState, *arguments: object, **settings: object) -> Iterator[Epoch]:
        """Epochs whose weights all equal their number; the best accuracy comes twice."""
        for number, accuracy in enumerate([0.5, 0.9, 0.9, 0.7], start=1):
            with torch.no_grad():
                for parameter in state.network.parameters():
                    parameter.fill_(number)
            state.history.append(Epoch(number, 0.1, 1.0, 1.0, accuracy))
            yield state.history[-1]

    monkeypatch.setattr(train, "fit", fit)
    set_params(train={"keep": keep, "epochs": 4})
    train.main()
    assert {weight.unique().item() for weight in load_model(MODEL)[0].state_dict().values()} == {
        kept
    }


def test_the_history_can_be_read_after_every_epoch(
    finished_workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    write = train.write_history

    def write_and_read(history: list[Epoch]) -> None:
        write(history)
        lengths.append(len(pd.read_csv(HISTORY)))

    monkeypatch.setattr(train, "write_history", write_and_read)
    train.main()
    assert lengths == [1, 2]


def test_without_a_terminal_each_epoch_is_one_line_and_there_is_no_bar(
    finished_workspace: Path,
) -> None:
    result = run_train()
    assert result.returncode == 0
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["epoch 1/2", "epoch 2/2"]
    assert result.stderr == ""


def test_a_missing_tensor_file_is_one_line_and_exit_code_3(finished_workspace: Path) -> None:
    VALIDATION.unlink()
    before = MODEL.read_bytes()
    result = run_train()
    assert result.returncode == 3
    assert result.stderr == (
        "error: data/tensors/validation.safetensors is missing; run the stage before this one:"
        " dvc repro preprocess\n"
    )
    assert MODEL.read_bytes() == before


def test_a_diverged_training_says_so_and_keeps_the_old_model(finished_workspace: Path) -> None:
    set_params(train={"learning_rate": 1.0, "epochs": 3, "distortion": NO_DISTORTION})
    digits, info = load_digits(TRAIN)
    save_digits(TRAIN, digits, info.model_copy(update={"std": 1e-38}))
    before = MODEL.read_bytes()
    with pytest.raises(
        PipelineError, match=r"^training diverged: the loss of epoch 1 is \w+; lower params.yaml: "
    ):
        train.main()
    assert MODEL.read_bytes() == before


def test_one_batch_and_one_epoch_are_enough(finished_workspace: Path) -> None:
    set_params(train={"epochs": 1, "batch_size": 10_000})
    train.main()
    assert list(pd.read_csv(HISTORY)["epoch"]) == [1]


def test_bad_params_are_exit_code_2(finished_workspace: Path) -> None:
    set_params(train={"batch_size": 0})
    result = run_train()
    assert (result.returncode, result.stderr) == (
        2,
        "error: params.yaml: train.batch_size must be greater than 0, got 0\n",
    )


def kill_after(saves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, and end as by a kill as soon as so many checkpoints are written."""
    count = 0

    def save_and_die(path: Path, content: Checkpoint) -> None:
        nonlocal count
        save_checkpoint(path, content)
        count += 1
        if count == saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(train, "save_checkpoint", save_and_die)
        train.main()


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize(
    ("every", "saves", "message"),
    [
        (0, 1, "resuming after epoch 1 of 3"),
        (0, 3, "resuming after epoch 3 of 3"),
        (5, 2, "resuming after epoch 0 of 3 and 320 images"),
        (5, 6, "resuming after epoch 1 of 3 and 320 images"),
    ],
)
def test_a_resumed_training_gives_the_bytes_of_an_uninterrupted_one(
    finished_workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    keep: str,
    every: int,
    saves: int,
    message: str,
) -> None:
    set_params(train={"epochs": 3, "keep": keep})
    train.main()
    expected = MODEL.read_bytes(), HISTORY.read_bytes()
    set_params(train={"epochs": 3, "keep": keep, "checkpoint_every": every})
    kill_after(saves, monkeypatch)
    MODEL.unlink()
    HISTORY.unlink()  # DVC deletes both
    # another interval is no other training
    set_params(train={"epochs": 3, "keep": keep, "checkpoint_every": 7})
    capsys.readouterr()
    train.main()
    assert capsys.readouterr().out.splitlines()[0] == message
    assert (MODEL.read_bytes(), HISTORY.read_bytes()) == expected
    assert list(CHECKPOINTS.iterdir()) == []


def test_a_training_with_weighted_own_images_resumes_to_the_same_bytes(
    own_workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_params(train={"own_weight": 3})
    train.main()
    expected = MODEL.read_bytes(), HISTORY.read_bytes()
    set_params(train={"own_weight": 3, "checkpoint_every": 5})
    for saves in (2, 6):
        kill_after(saves, monkeypatch)
        train.main()
        assert (MODEL.read_bytes(), HISTORY.read_bytes()) == expected


@pytest.mark.parametrize("name", ["dropout", "batch normalization", "noise"])
@pytest.mark.parametrize(("every", "saves"), [(0, 1), (5, 2), (5, 6)])
def test_whatever_a_network_draws_or_counts_goes_on_after_a_kill(
    finished_workspace: Path, monkeypatch: pytest.MonkeyPatch, name: str, every: int, saves: int
) -> None:
    """Killed after an epoch, or within one: the same bytes as of an undisturbed training."""
    monkeypatch.setattr(train, "build_network", lambda params, classes: NETWORKS[name]())
    set_params(train={"keep": "last"})
    train.main()
    expected = MODEL.read_bytes(), HISTORY.read_bytes()
    set_params(train={"keep": "last", "checkpoint_every": every})
    kill_after(saves, monkeypatch)
    train.main()
    assert (MODEL.read_bytes(), HISTORY.read_bytes()) == expected


def test_own_images_are_trained_on_and_validate(own_workspace: Path) -> None:
    before = MODEL.read_bytes(), HISTORY.read_bytes()
    train.main()
    assert (MODEL.read_bytes(), HISTORY.read_bytes()) == before
    for name in (OWN_TRAIN, OWN_VALIDATION):
        digits, info = load_digits(name)
        save_digits(name, Digits(digits.images[1:], digits.labels[1:]), info)
        train.main()
        assert HISTORY.read_bytes() != before[1]
    set_params(train={"own_weight": 0})
    digits, info = load_digits(OWN_VALIDATION)
    save_digits(OWN_VALIDATION, Digits(digits.images[:0], digits.labels[:0]), info)
    train.main()
    without = MODEL.read_bytes()
    digits, info = load_digits(OWN_TRAIN)
    save_digits(OWN_TRAIN, Digits(digits.images[:0], digits.labels[:0]), info)
    train.main()
    assert MODEL.read_bytes() == without


def test_a_damaged_checkpoint_is_a_warning_and_training_starts_anew(
    finished_workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = MODEL.read_bytes()
    kill_after(1, monkeypatch)
    (path,) = CHECKPOINTS.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    train.main()
    output = capsys.readouterr()
    assert output.err.startswith(f"warning: the checkpoint {path} is damaged (")
    assert output.out.splitlines()[0].startswith("epoch 1/2")
    assert MODEL.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 2), ("epochs", 3), ("learning_rate", 0.003), ("keep", "last")]
)
def test_another_trainings_checkpoint_is_left_alone(
    finished_workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: object,
) -> None:
    kill_after(1, monkeypatch)
    others = list(CHECKPOINTS.iterdir())
    set_params(train={name: value})
    capsys.readouterr()
    train.main()
    assert "resuming" not in capsys.readouterr().out
    assert list(CHECKPOINTS.iterdir()) == others


def test_the_receipt_tells_the_environment(finished_workspace: Path) -> None:
    [receipt] = json.loads(RECEIPT.read_text(encoding="utf-8"))
    assert receipt["device"] == "cpu"
    assert receipt["threads"] == torch.get_num_threads()
    assert (
        receipt["torch"] == torch.__version__.partition("+")[0]
        or receipt["torch"] == torch.__version__
    )
