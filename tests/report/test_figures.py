"""Charts and images of the report: their bytes, and what they draw."""

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.report import figures

HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2],
        "learning_rate": [0.002, 0.001],
        "train_loss": [0.5, 0.1],
        "validation_loss": [0.3, 0.2],
        "validation_accuracy": [0.9, 0.95],
    }
)
BINS = pd.DataFrame(
    {"lower": [0.5], "upper": [0.6], "images": [7], "confidence": [0.55], "accuracy": [0.4]}
)
PER_CLASS = {
    "$5": {"precision": 0.9, "recall": 0.8, "f1": 0.85},
    "<b>": {"precision": 0.5, "recall": 1, "f1": 0.67},
}
CHARTS = {
    "losses": lambda: figures.draw_losses(HISTORY),
    "learning_rate": lambda: figures.draw_by_epoch(HISTORY, "learning_rate", "learning rate"),
    "interval": lambda: figures.draw_interval(0.9, 0.88, 0.92, {"the notebook": 0.85}),
    "classes": lambda: figures.draw_classes(PER_CLASS),
    "reliability": lambda: figures.draw_reliability(BINS),
}


def pixels(url: str, mode: str) -> NDArray[np.uint8]:
    content = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert(mode))


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_has_equal_bytes_ids_of_its_own_and_the_pages_colours(name: str) -> None:
    svg = CHARTS[name]()
    assert svg == CHARTS[name]()
    ElementTree.fromstring(svg)
    assert all(found.startswith(f"{name}-") for found in re.findall(r' id="([^"]+)', svg))
    assert set(re.findall(r"#([0-9a-f]{6})", svg)) == set()  # every colour is a variable
    assert "var(--ink)" in svg or "var(--muted)" in svg
    assert "Date" not in svg


def test_a_charts_text_is_text_and_no_formula() -> None:
    texts = [
        "".join(text.itertext())
        for text in ElementTree.fromstring(CHARTS["classes"]()).iter()
        if "text" in text.tag
    ]
    assert {"$5", "<b>"} <= set(texts)


def test_images_are_tiled_row_by_row_with_a_pixel_between() -> None:
    images = np.arange(1, 4, dtype=np.uint8)[:, None, None] * np.ones((3, 2, 2), dtype=np.uint8)
    assert figures.tile(images, 2).tolist() == [
        [1, 1, 0, 2, 2],
        [1, 1, 0, 2, 2],
        [0, 0, 0, 0, 0],
        [3, 3, 0, 0, 0],
        [3, 3, 0, 0, 0],
    ]
    assert figures.tile(images[:1], 8).tolist() == [[1, 1], [1, 1]]


def test_maps_are_orange_above_zero_blue_below_and_clear_at_zero() -> None:
    found = pixels(figures.draw_maps(np.array([[[2, 0, -2, 1]]], dtype=np.float32), 8), "RGBA")[0]
    assert found[0].tolist() == [*figures.POSITIVE, 255]
    assert found[1][3] == 0
    assert found[2].tolist() == [*figures.NEGATIVE, 255]
    assert 0 < found[3][3] < 255
    assert pixels(figures.draw_maps(np.zeros(3, dtype=np.float32), 8), "RGBA").shape == (1, 3, 4)


def test_a_digit_is_dark_on_light() -> None:
    image = np.arange(28 * 28, dtype=np.uint16).reshape(28, 28).astype(np.uint8)
    assert np.array_equal(pixels(figures.draw_digit(image), "L"), 255 - image)


@pytest.mark.parametrize("count", [0, 1, 25])
def test_a_sheet_of_any_number_has_equal_bytes(tmp_path: Path, count: int) -> None:
    images = np.full((count, 28, 28), 255, dtype=np.uint8)
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for path in paths:
        figures.save_sheet(path, images, ["$5 → <b>"] * count, "mistakes")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with Image.open(paths[0]) as sheet:
        dark = (np.asarray(sheet.convert("L")) == 0).sum()
    assert 4000 * count <= dark
    assert count or dark < 1000  # the title


def test_a_long_name_is_cut() -> None:
    assert figures.shorten("a" * 20) == "a" * 20
    assert figures.shorten("a" * 21) == "a" * 19 + "…"
