"""Kills, full disks and stops in real `dvc repro` runs, on the sample of real digits.

A moment too short to hit from outside is hit from within: Python loads shim/sitecustomize.py in
every process, and it sends the signal, sets the limit, or notes each step that training takes. The
product knows nothing of it.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import STAGES, edit_params
from toy import execute

from pipeline.paths import RECEIPT
from pipeline.repository.processes import subprocess_environment

pytestmark = pytest.mark.slow

SHIM = Path(__file__).with_name("shim")
EPOCHS, EVERY, BATCH, IMAGES = 3, 4, 32, 500
STEPS = EPOCHS * 16
OUTPUTS = {  # what each stage makes, the first of those too large for a full disk
    "fetch": "data/raw",
    "preprocess": "data/tensors/train.safetensors",
    "train": "models/model.safetensors",
    "evaluate": "reports/predictions.csv",
    "report": "reports/index.html",
}


def draw_kills() -> list[str]:
    """Return twenty moments, the same every time.

    In a step, between a checkpoint's write and its rename, and at the end.
    """
    draw = random.Random(4)
    steps = [f"step {draw.randint(1, STEPS)} {draw.uniform(0, 0.03):.4f}" for _ in range(13)]
    renames = [f"rename .checkpoints/ {draw.randint(1, EPOCHS * 4)}" for _ in range(4)]
    return [*steps, *renames, "rename models/ 1", f"rename {RECEIPT} 1", "unlink .checkpoints/ 1"]


def repro(folder: Path, **faults: str) -> subprocess.CompletedProcess[str]:
    variables = (
        subprocess_environment()
        | {"PYTHONPATH": str(SHIM), "FAULT_LOG": str(folder / "steps.log")}
        | faults
    )
    return subprocess.run(
        ["dvc", "repro"], cwd=folder, env=variables, capture_output=True, text=True
    )


def images_trained(folder: Path) -> int:
    return sum(map(int, (folder / "steps.log").read_text().split()))


def error_lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    """What the stage said; the others are DVC's."""
    assert "Traceback" not in result.stdout + result.stderr, result.stdout + result.stderr
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def leftovers(folder: Path) -> list[str]:
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*partial*")
        if ".dvc" not in path.parts
    ]


@pytest.fixture(scope="session")
def untrained(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything is up to date but the training, of which DVC's cache holds nothing."""
    folder = tmp_path_factory.mktemp("untrained") / "repository"
    shutil.copytree(reproduced, folder, symlinks=True)
    edit_params(folder, "train", "epochs", EPOCHS)
    edit_params(folder, "train", "checkpoint_every", EVERY)
    return folder


@pytest.fixture(scope="session")
def uninterrupted(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The lock file of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "repository"
    shutil.copytree(untrained, folder, symlinks=True)
    assert repro(folder).returncode == 0
    assert images_trained(folder) == EPOCHS * IMAGES
    return (folder / "dvc.lock").read_bytes()


@pytest.fixture
def fresh(reproduced: Path, tmp_path: Path) -> Path:
    """Nothing has run yet."""
    folder = tmp_path / "fresh"
    ignored = shutil.ignore_patterns(
        ".git", "cache", "tmp", "dvc.lock", "raw", "tensors", "models", "reports"
    )
    shutil.copytree(reproduced, folder, symlinks=True, ignore=ignored)
    execute(folder, "git", "init", "--quiet")
    return folder


@pytest.mark.parametrize("moment", draw_kills())
def test_after_a_kill_the_next_run_gives_the_same_bytes(
    untrained: Path, uninterrupted: bytes, tmp_path: Path, moment: str
) -> None:
    folder = tmp_path / "repository"
    shutil.copytree(untrained, folder, symlinks=True)
    before = (folder / "dvc.lock").read_bytes()
    killed = repro(folder, FAULT_KILL=moment, FAULT_SIGNAL="9")
    assert killed.returncode != 0
    assert re.search(
        r"pipeline\.stages\.train, exited with (-9|137)", killed.stderr
    )  # as the shell has it
    assert (folder / "dvc.lock").read_bytes() == before
    again = repro(folder)
    assert again.returncode == 0, again.stderr
    assert (folder / "dvc.lock").read_bytes() == uninterrupted
    repeated = images_trained(folder) - EPOCHS * IMAGES
    print(f"{moment}: {repeated} images repeated; {re.findall('resuming.*', again.stdout)}")
    assert 0 <= repeated <= EVERY * BATCH
    assert leftovers(folder) == []
    assert list((folder / ".checkpoints").iterdir()) == []


@pytest.mark.parametrize("stage", STAGES)
def test_sigterm_is_one_line_and_leaves_nothing_half_written(
    fresh: Path, reproduced: Path, stage: str
) -> None:
    stopped = repro(fresh, FAULT_KILL=f"rename {OUTPUTS[stage]} 1", FAULT_SIGNAL="15")
    assert stopped.returncode != 0
    assert error_lines(stopped) == [
        "error: stopped by SIGTERM; nothing half-written is left, run it again"
    ]
    assert f"pipeline.stages.{stage}, exited with {128 + signal.SIGTERM}" in stopped.stderr
    assert leftovers(fresh) == []
    assert repro(fresh).returncode == 0
    assert (fresh / "dvc.lock").read_bytes() == (reproduced / "dvc.lock").read_bytes()


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    fresh: Path, reproduced: Path, stage: str
) -> None:
    """No file of the stage may grow over 200 bytes.

    Of what training writes, only the first line of the learning curve fits.
    """
    full = repro(fresh, FAULT_LIMIT=f"pipeline.stages.{stage}")
    assert full.returncode != 0
    (line,) = error_lines(full)
    assert "File too large" in line
    assert f"pipeline.stages.{stage}, exited with" in full.stderr
    assert leftovers(fresh) == []
    assert not (fresh / OUTPUTS[stage]).exists()
    assert repro(fresh).returncode == 0
    assert (fresh / "dvc.lock").read_bytes() == (reproduced / "dvc.lock").read_bytes()


def test_a_disk_that_fills_between_checkpoints_loses_none(
    untrained: Path, uninterrupted: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "repository"
    shutil.copytree(untrained, folder, symlinks=True)
    assert repro(folder, FAULT_KILL="step 30 0", FAULT_SIGNAL="9").returncode != 0
    full = repro(folder, FAULT_LIMIT="pipeline.stages.train")
    assert full.returncode != 0
    assert len(error_lines(full)) == 1
    again = repro(folder)
    assert "resuming after epoch 1 of 3" in again.stdout
    assert (folder / "dvc.lock").read_bytes() == uninterrupted


@pytest.mark.parametrize("stage", STAGES)
def test_a_read_only_folder_is_one_line_and_keeps_what_was_there(
    repository: Path, stage: str
) -> None:
    """Mounted so, because root may write where permissions forbid it."""
    folder = (repository / OUTPUTS[stage]).parent
    mount = f"mount --bind '{folder}' '{folder}' && mount -o remount,ro,bind '{folder}'"
    unshare = (
        ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    )
    if subprocess.run([*unshare, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    command = f"{mount} && exec '{sys.executable}' -m pipeline.stages.{stage}"
    result = subprocess.run(
        [*unshare, "sh", "-c", command],
        cwd=repository,
        env=subprocess_environment(),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert re.fullmatch(r"error: .*Read-only file system.*\n", result.stderr), result.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert repro(repository).returncode == 0


def test_of_two_runs_at_once_one_works_and_the_other_says_so(
    untrained: Path, uninterrupted: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "repository"
    shutil.copytree(untrained, folder, symlinks=True)
    first = subprocess.Popen(
        ["dvc", "repro"],
        cwd=folder,
        env=subprocess_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout
    while "Running stage 'train'" not in first.stdout.readline():
        assert first.poll() is None
    second = subprocess.run(
        ["dvc", "repro"], cwd=folder, env=subprocess_environment(), capture_output=True, text=True
    )
    first.communicate()
    assert first.returncode == 0
    assert second.returncode == 0 or re.search(
        r"Unable to acquire lock|is busy, it is being blocked by", second.stderr
    )
    assert (folder / "dvc.lock").read_bytes() == uninterrupted
    assert "didn't change" in repro(folder).stdout
