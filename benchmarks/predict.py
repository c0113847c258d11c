"""How well `predict` reads test digits that were written to image files, and noise.

Run: python -m benchmarks.predict, after `dvc repro`. A digit counts if `predict` reads from
the file what the model reads from the test split's tensor.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.mnist.idx import UInt8Array
from pipeline.mnist.predict import predict_files
from pipeline.mnist.tensors import load_digits
from pipeline.paths import PREDICTIONS, TEST

DIGITS = 100  # the first of the test split
SIZES = (20, 28, 56, 112, 280, 1000)  # pixels
NOISES = 300


def enlarge(digit: UInt8Array, size: int) -> Image.Image:
    return Image.fromarray(digit).resize((size, size), Image.Resampling.BICUBIC)


def scan(digit: UInt8Array, rng: np.random.Generator) -> Image.Image:
    """The digit in dark ink on a grey page with grain, under light that fades to one side."""
    page = np.zeros((700, 500))
    top, left = rng.integers(50, 350), rng.integers(50, 150)
    page[top : top + 280, left : left + 280] = np.asarray(enlarge(digit, 280))
    light = 225 - np.linspace(0, 30, 500) + rng.normal(0, 4, page.shape)
    return Image.fromarray((light - page / 255 * 150).clip(0, 255).astype(np.uint8))


def noise(rng: np.random.Generator, size: int, fall: float) -> Image.Image:
    """Noise whose power falls with frequency: `fall` 0 is white, 2 is like photographs."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    frequency[0, 0] = 1
    values: NDArray[np.float64] = np.fft.ifft2(
        np.fft.fft2(rng.normal(size=(size, size))) / frequency ** (fall / 2)
    ).real
    return Image.fromarray((255 * (values - values.min()) / np.ptp(values)).astype(np.uint8))


def variants(
    rng: np.random.Generator,
) -> Iterator[tuple[str, str, Callable[[UInt8Array], Image.Image]]]:
    """Yield kinds of files: a name, a suffix, and a function that makes an image of a digit."""
    for size in SIZES:
        light = partial(enlarge, size=size)
        yield f"{size} × {size} pixels, light on dark", "png", light
        yield f"{size} × {size} pixels, dark on light", "png", partial(invert, light)
    yield "a page with grain and uneven light, JPEG", "jpg", partial(scan, rng=rng)


def invert(make: Callable[[UInt8Array], Image.Image], digit: UInt8Array) -> Image.Image:
    return ImageOps.invert(make(digit))


def main() -> None:
    rng = np.random.default_rng(1)
    digits, info = load_digits(TEST)
    expected = [info.classes[index] for index in pd.read_csv(PREDICTIONS)["prediction"][:DIGITS]]
    with tempfile.TemporaryDirectory() as folder:
        for title, suffix, make in variants(rng):
            names = [f"{folder}/{number}.{suffix}" for number in range(DIGITS)]
            for name, digit in zip(names, digits.images[:, 0], strict=False):
                make(digit).save(name, quality=75)
            found, _ = predict_files(names)
            agree = sum(
                prediction.prediction == digit
                for prediction, digit in zip(found, expected, strict=True)
            )
            unsure = sum(prediction.unsure is not None for prediction in found)
            print(
                f"{title}: {agree} of {DIGITS} as the model reads the tensor; unsure {unsure}",
                flush=True,
            )
        names = [f"{folder}/{number}.png" for number in range(NOISES)]
        for number, name in enumerate(names):
            noise(rng, size=(28, 100, 400)[number % 3], fall=number // 3 % 4).save(name)
        unsure = sum(prediction.unsure is not None for prediction in predict_files(names)[0])
        print(f"noise, white to smoother than a photograph: unsure {unsure} of {NOISES}")


if __name__ == "__main__":
    main()
