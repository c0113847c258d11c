"""Charts as SVG, drawn by matplotlib, and images as PNG, written by Pillow.

Equal inputs give equal bytes. A chart is part of the page and follows its colours, light or dark:
each colour here is a placeholder, and `to_svg` replaces it by the page's CSS variable.
"""

import base64
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from PIL import Image

from pipeline.mnist.idx import IMAGE_SIZE, UInt8Array
from pipeline.mnist.layers import Float32Array

COLOURS = {
    "ink": "#010203",
    "muted": "#040506",
    "line": "#070809",
    "first": "#0a0b0c",
    "second": "#0d0e0f",
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # a class may be called "$5"
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["line"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 5,
}
POSITIVE, NEGATIVE = (232, 89, 12), (28, 110, 214)  # colours of values above and below zero
OPACITY_EXPONENT = 0.7  # a value's opacity is |value| ** this; below 1, small values are visible
SHEET_COLUMNS = 10


def chart(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def draw_losses(history: pd.DataFrame) -> Markup:
    with rc_context(STYLE):
        figure, axes = chart(4.4, 3.1)
        axes.plot(
            history["epoch"],
            history["train_loss"],
            marker="o",
            color=COLOURS["first"],
            label="train",
        )
        axes.plot(
            history["epoch"],
            history["validation_loss"],
            marker="s",
            color=COLOURS["second"],
            label="validation",
        )
        axes.set(xlabel="epoch", ylabel="loss (logarithmic)", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        return to_svg(figure, "losses")


def draw_by_epoch(history: pd.DataFrame, column: str, label: str, scale: float = 1) -> Markup:
    with rc_context(STYLE):
        figure, axes = chart(4.4, 3.1)
        axes.plot(history["epoch"], scale * history[column], marker="o", color=COLOURS["first"])
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return to_svg(figure, column)


def draw_interval(accuracy: float, low: float, high: float, others: dict[str, float]) -> Markup:
    """Draw the accuracy, its interval from `low` to `high`, and named others to compare with."""
    with rc_context(STYLE | {"axes.spines.left": False}):
        figure, axes = chart(4.6, 1.25)
        axes.plot([100 * low, 100 * high], [0, 0], linewidth=10, color=COLOURS["first"], alpha=0.35)
        axes.plot([100 * accuracy], [0], marker="o", markersize=11, color=COLOURS["first"])
        for name, value in others.items():
            axes.plot(
                [100 * value], [0], marker="D", markersize=8, color=COLOURS["second"], clip_on=False
            )
            axes.annotate(name, (100 * value, 0), (0, 12), textcoords="offset points", ha="center")
        axes.set(xlabel="test accuracy, %", yticks=[], ylim=(-1, 1.6))
        axes.margins(x=0.12)
        return to_svg(figure, "interval")


def draw_classes(per_class: dict[str, dict[str, float]]) -> Markup:
    """Draw precision, recall and F1 of every class, in one row for each."""
    marks = {"precision": ("<", "first"), "recall": (">", "second"), "f1": ("|", "ink")}
    with rc_context(STYLE | {"axes.grid.axis": "y"}):
        figure, axes = chart(4.8, 0.7 + 0.3 * len(per_class))
        for name, (marker, colour) in marks.items():
            values = [100 * figures[name] for figures in per_class.values()]
            size = 12 if marker == "|" else 7
            axes.plot(
                values,
                range(len(values)),
                marker,
                color=COLOURS[colour],
                label=name.title(),
                markersize=size,
            )
        axes.set(xlabel="%", yticks=range(len(per_class)), ylim=(len(per_class) - 0.5, -0.5))
        axes.set_yticklabels([shorten(name) for name in per_class])
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
        return to_svg(figure, "classes")


def draw_reliability(table: pd.DataFrame) -> Markup:
    """Draw accuracy by confidence, and below it the number of images.

    On the diagonal the confidence is as large as the accuracy.
    """
    middles, widths = 50 * (table["lower"] + table["upper"]), 92 * (table["upper"] - table["lower"])
    bars: dict[str, Any] = {"x": middles, "width": widths, "linewidth": 0}
    with rc_context(STYLE):
        figure = Figure(figsize=(5, 4), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        top.bar(height=100 * table["accuracy"], color=COLOURS["first"], alpha=0.3, **bars)
        top.plot([0, 100], [0, 100], linestyle="--", linewidth=1, color=COLOURS["muted"])
        top.plot(100 * table["confidence"], 100 * table["accuracy"], "o", color=COLOURS["first"])
        top.set(ylabel="accuracy, %", ylim=(0, 104))
        bottom.bar(height=table["images"], color=COLOURS["muted"], **bars)
        bottom.set(
            xlabel="confidence, %", ylabel="images", yscale="log", xlim=(0, 101), ylim=(0.5, None)
        )
        bottom.yaxis.set_major_locator(LogLocator(numticks=4))
        bottom.yaxis.set_major_formatter(FuncFormatter(lambda images, _: f"{images:,.0f}"))
        bottom.yaxis.set_minor_formatter(NullFormatter())
        return to_svg(figure, "reliability")


def to_svg(figure: Figure, name: str) -> Markup:
    """Return the figure as an <svg> element, its ids prefixed with `name`.

    So they differ from the ids of the other charts on the page.
    """
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r'( id="|="#|url\(#)', rf"\1{name}-", svg[svg.index("<svg") :])
    for colour, placeholder in COLOURS.items():
        svg = svg.replace(placeholder, f"var(--{colour})")
    return Markup(svg)  # matplotlib escapes text itself


def draw_digit(image: UInt8Array) -> str:
    """Return an image [28, 28], dark on light, as a data URL."""
    return to_url(Image.fromarray(255 - image))


def draw_maps(maps: Float32Array, columns: int) -> str:
    """Return maps [N, H, W] in rows of `columns`, one map [H, W] or numbers [N], as a data URL.

    Values above zero are orange, values below are blue, and zero is transparent.
    """
    values = np.nan_to_num(maps.astype(float).reshape(-1, *np.atleast_2d(maps).shape[-2:]))
    largest = max(float(np.abs(values).max()), 1e-12)
    levels = np.round(127 * (values / largest)).astype(int) + 128  # 1..255: 0 is for the gaps
    image = Image.fromarray(tile(levels.astype(np.uint8), columns), mode="P")
    image.putpalette(
        [channel for level in range(256) for channel in (POSITIVE if level > 128 else NEGATIVE)]
    )
    sizes = [abs(level - 128) / 127 for level in range(1, 256)]
    alphas = [0, *(round(255 * size**OPACITY_EXPONENT) for size in sizes)]
    return to_url(image, transparency=bytes(alphas))


def tile(images: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Put images [N, H, W] next to each other in rows of `columns`, with a pixel of 0 between."""
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    padded = np.pad(images, [(0, rows * columns - len(images)), (0, 1), (0, 1)])
    height, width = padded.shape[1:]
    sheet = (
        padded.reshape(rows, columns, height, width)
        .swapaxes(1, 2)
        .reshape(rows * height, columns * width)
    )
    return sheet[:-1, :-1]


def to_url(image: Image.Image, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def save_sheet(path: Path, images: UInt8Array, captions: Sequence[str], title: str) -> None:
    """Write images [N, 28, 28], each above its caption, as one PNG."""
    width, height = IMAGE_SIZE + 4, IMAGE_SIZE + 10  # with a caption and margins
    right, bottom = SHEET_COLUMNS * width, max(1, math.ceil(len(images) / SHEET_COLUMNS)) * height
    with rc_context({"text.parse_math": False, "font.size": 9}):
        figure = Figure(figsize=(right / 29, bottom / 29 + 0.4), layout="constrained")
        axes = figure.subplots()
        for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
            left, top = index % SHEET_COLUMNS * width + 2, index // SHEET_COLUMNS * height
            extent = (left, left + IMAGE_SIZE, top + IMAGE_SIZE, top)
            axes.imshow(image, cmap="Greys", extent=extent, vmin=0, vmax=255)
            axes.text(left + IMAGE_SIZE / 2, top + IMAGE_SIZE + 1, caption, ha="center", va="top")
        axes.set(title=title, xlim=(0, right), ylim=(bottom, 0), aspect="equal")
        axes.axis("off")
        figure.savefig(path, format="png", dpi=100, metadata={"Software": None})


def shorten(name: str, length: int = 20) -> str:
    """Cut a long name, with an ellipsis for its last character."""
    return name if len(name) <= length else f"{name[: length - 1]}…"
