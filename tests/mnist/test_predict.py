"""What image files show: what is read, and when it is unsure."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from pipeline.errors import DataError
from pipeline.mnist.idx import UInt8Array
from pipeline.mnist.predict import predict_files, to_prediction
from pipeline.mnist.preparation import prepare
from pipeline.mnist.tensors import load_digits
from pipeline.paths import PREDICTIONS, TEST
from pipeline.repository.processes import subprocess_environment


def command(*arguments: str, data: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "predict", *arguments],
        env=subprocess_environment(),
        input=data,
        capture_output=True,
    )


def noise(size: int, fall: float, seed: int) -> Any:
    """Noise whose power falls with frequency: `fall` 0 is white, 2 is like photographs."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    frequency[0, 0] = 1
    values = np.fft.ifft2(
        np.fft.fft2(np.random.default_rng(seed).normal(size=(size, size))) / frequency ** (fall / 2)
    )
    return 255 * (values.real - values.real.min()) / np.ptp(values.real)


@pytest.mark.parametrize("size", [20, 28, 100, 280])
@pytest.mark.parametrize("inverted", [False, True])
def test_digits_of_any_size_are_read_as_the_model_reads_the_tensor(
    digits: UInt8Array, size: int, inverted: bool
) -> None:
    expected = pd.read_csv(PREDICTIONS)["prediction"][:100]
    names = [f"{number}.png" for number in range(100)]
    for name, digit in zip(names, digits, strict=False):
        image = Image.fromarray(digit).resize((size, size), Image.Resampling.BICUBIC)
        (ImageOps.invert(image) if inverted else image).save(name)
    predictions, errors = predict_files(names)
    assert errors == []
    agree = sum(
        prediction.prediction == str(digit)
        for prediction, digit in zip(predictions, expected, strict=True)
    )
    # this model has seen 700 digits; one trained on MNIST reads all 100 (benchmarks/predict.py)
    assert agree >= 85


def in_a_shop(image: Image.Image) -> Image.Image:
    """Dark on light and large, with a margin."""
    page, ink = Image.new("L", (600, 420), 245), image.resize((300, 300))
    page.paste(ink.point([245 - grey * 245 // 255 for grey in range(256)]), (90, 60))
    return page


@pytest.mark.parametrize("show", [Image.Image.copy, ImageOps.invert, in_a_shop])
def test_clothes_are_read_as_the_model_reads_the_tensors(
    clothes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, show: Any
) -> None:
    monkeypatch.chdir(clothes)
    test, info = load_digits(TEST)
    expected = pd.read_csv(PREDICTIONS)
    names = [str(tmp_path / f"{number}.png") for number in range(100)]
    for name, image in zip(names, test.images[:, 0], strict=True):
        show(Image.fromarray(image)).save(name)
    predictions, errors = predict_files(names)
    found = [info.classes.index(prediction.prediction) for prediction in predictions]
    assert errors == []
    assert (expected["prediction"] == found).sum() >= 85
    right = (expected["prediction"] == expected["label"]).sum()
    assert (expected["label"] == found).sum() >= right - 5


@pytest.mark.parametrize("size", [28, 100, 400])
@pytest.mark.parametrize("fall", [0, 1, 2])
def test_noise_is_unsure(finished_workspace: Path, size: int, fall: float) -> None:
    for seed in range(10):
        assert not prepare(noise(size, fall, seed), "noise", "centred").on_plain_background
    Image.fromarray(noise(100, 0, 1).astype(np.uint8)).save("noise.png")
    [[prediction], _] = predict_files(["noise.png"])
    assert prediction.unsure == "no single digit on a plain background"


def test_little_confidence_is_unsure() -> None:
    assert to_prediction("a.png", ["3", "5"], [0.8999, 0.1]).unsure == "confidence below 90%"
    assert to_prediction("a.png", ["3", "5"], [0.9001, 0.0999]).unsure is None


def test_the_command_reads_what_it_can_and_names_what_it_cannot(digits: UInt8Array) -> None:
    Image.fromarray(digits[0]).save("good.png")
    Path("empty.png").touch()
    result = command("empty.png", "good.png", "missing.png", ".")
    assert result.returncode == 3
    digit = pd.read_csv(PREDICTIONS)["prediction"][0]
    line, *rest = result.stdout.decode().splitlines()
    assert line.startswith(f"good.png  {digit}  ")
    assert rest == []
    assert result.stderr.decode().splitlines() == [
        "error: empty.png is empty; it must be an image file",
        "error: missing.png cannot be read: No such file or directory",
        "error: . cannot be read: Is a directory",
    ]


def test_json_and_standard_input(digits: UInt8Array) -> None:
    buffer = io.BytesIO()
    Image.fromarray(255 - digits[0]).save(buffer, format="BMP")
    result = command("--json", "-", data=buffer.getvalue())
    assert (result.returncode, result.stderr) == (0, b"")
    [prediction] = json.loads(result.stdout)
    row = pd.read_csv(PREDICTIONS).iloc[0]
    assert prediction["file"] == "-"
    assert (
        prediction["prediction"]
        == prediction["top"][0]["prediction"]
        == str(int(row["prediction"]))
    )
    assert (
        prediction["confidence"]
        == prediction["top"][0]["confidence"]
        == pytest.approx(row["confidence"], abs=2e-6)
    )
    assert len(prediction["top"]) == 3
    assert prediction["unsure"] is None or row["confidence"] < 0.9


def test_nothing_readable_is_an_empty_list(finished_workspace: Path) -> None:
    result = command("--json", "missing.png")
    assert (result.returncode, json.loads(result.stdout)) == (3, [])


def test_without_a_model_it_says_how_to_get_one(workspace: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"^models/model.safetensors is missing; run the stage before this one: dvc rep",
    ):
        predict_files(["seven.png"])
