"""The network in the report's page against PyTorch's, on 1,000 test digits of MNIST, in Chromium.

Run: python -m benchmarks.drawing, after `dvc repro`. The digits go through the page's own forward
pass; and drawn large, as PNG, through its preparation, too, against `mnist predict`.
"""

import base64
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from playwright.sync_api import Page, sync_playwright

from pipeline.mnist.idx import UInt8Array
from pipeline.mnist.inference import TensorDigits, predict
from pipeline.mnist.model import load_model
from pipeline.mnist.predict import predict_files
from pipeline.mnist.tensors import load_digits
from pipeline.paths import MODEL, REPORT, TEST

DIGITS = 1000  # the first of the test split
PART = 100  # drawings that are handed to the page at once
READ = """([text, images]) => {
    const network = readNetwork(text || document.getElementById("network").textContent);
    return images.map((image) => {
        const pixels = Uint8Array.from(atob(image), (character) => character.charCodeAt(0));
        const start = performance.now();
        const outputs = forward(network, pixels);
        return [logitsOf(network, outputs), performance.now() - start];
    });
}"""
READ_DRAWINGS = """async (images) => {
    const network = readNetwork(document.getElementById("network").textContent);
    const found = [];
    for (const source of images) {
        const image = Object.assign(new Image(), { src: "data:image/png;base64," + source });
        await image.decode();
        const { width, height } = image;
        const canvas = Object.assign(document.createElement("canvas"), { width, height });
        const context = canvas.getContext("2d");
        context.drawImage(image, 0, 0);
        const { data } = context.getImageData(0, 0, width, height);
        const values = Float64Array.from({ length: width * height }, (_, place) => data[4 * place]);
        const pixels = prepare({ values, width, height }, network.preparation);
        found.push(network.classes[bestOf(logitsOf(network, forward(network, pixels)))]);
    }
    return found;
}"""


def encode(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def read_in_page(
    page: Page, images: UInt8Array, network: str = ""
) -> tuple[NDArray[np.float64], float]:
    """Return logits [N, classes] of images [N, 28, 28], and the median time of one, in ms.

    The network is the page's, or another one as its JSON.
    """
    rows = page.evaluate(READ, [network, [encode(image.tobytes()) for image in images]])
    return np.array([logits for logits, _ in rows]), statistics.median(time for _, time in rows)


def read_in_pytorch(model: Path, images: UInt8Array) -> NDArray[np.float32]:
    network, info = load_model(model)
    digits = TensorDigits(torch.from_numpy(images).unsqueeze(1), torch.empty(0), info)
    logits: NDArray[np.float32] = predict(network, digits).numpy()
    return logits


def draw(images: UInt8Array, folder: Path) -> list[Path]:
    """Write each image [28, 28] as a PNG of 280 × 280, dark on light."""
    paths = [folder / f"{place}.png" for place in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        large = Image.fromarray(image).resize((280, 280), Image.Resampling.BICUBIC)
        ImageOps.invert(large).save(path)
    return paths


def count_same_drawings(page: Page, paths: list[Path]) -> int:
    """How many image files the page reads as `mnist predict` does in this folder."""
    predictions, _ = predict_files([str(path) for path in paths])
    found: list[str] = []
    for part in range(0, len(paths), PART):
        sources = [encode(path.read_bytes()) for path in paths[part : part + PART]]
        found += page.evaluate(READ_DRAWINGS, sources)
    return sum(row.prediction == name for row, name in zip(predictions, found, strict=True))


def main() -> None:
    images = load_digits(TEST)[0].images[:DIGITS, 0]
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as name:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(REPORT.absolute().as_uri())
        found, median = read_in_page(page, images)
        same = count_same_drawings(page, draw(images, Path(name)))
        browser.close()
    expected = read_in_pytorch(MODEL, images)
    print(f"same class as PyTorch's: {(found.argmax(1) == expected.argmax(1)).sum()} of {DIGITS:,}")
    print(f"largest difference of a logit: {np.abs(found - expected).max():.4f}")
    print(f"one forward pass, the median: {median:.1f} ms")
    print(f"drawings read as `mnist predict` reads them: {same} of {DIGITS:,}")


if __name__ == "__main__":
    main()
