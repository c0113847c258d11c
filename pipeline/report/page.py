"""The report's page: computes what it shows, and renders it."""

import base64
import hashlib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from scipy.stats import binomtest

from pipeline.files import atomic_write
from pipeline.mnist.idx import OWN_SOURCE, Digits, UInt8Array
from pipeline.mnist.layers import LayerTrace, convolution_step
from pipeline.mnist.tensors import TensorInfo
from pipeline.report import figures
from pipeline.report.measurements import DataCounts

TEMPLATES = Path(__file__).parent
SCRIPTS = (  # in the order in which they use one another
    "page.js",
    "network.js",
    "preparation.js",
    "changes.js",
    "maps.js",
    "pad.js",
    "layer.js",
    "draw.js",
)
STYLES = ("page.css", "draw.css")
NOTEBOOK_ACCURACY = 0.9911  # what the notebook reports, on MNIST
CONFUSED_PAIRS = 8  # shown, the most frequent
MAP_COLUMNS = 8
SPLITS = ("train", "validation", "test")


def headline(correct: int, images: int, dataset: str) -> dict[str, Any]:
    """Return the accuracy's Wilson interval of 95 %, its chart and the counts behind it."""
    low, high = wilson_interval(correct, images)
    notebook = NOTEBOOK_ACCURACY if dataset == "MNIST" else None
    chart = figures.draw_interval(
        correct / images, low, high, {"the notebook": notebook} if notebook else {}
    )
    counts = {"errors": images - correct, "images": images}
    return {**counts, "low": low, "high": high, "notebook": notebook, "chart": chart}


def wilson_interval(correct: int, images: int) -> tuple[float, float]:
    """Return the interval of 95 % of an accuracy."""
    interval = binomtest(correct, images).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def draw_curves(history: pd.DataFrame) -> dict[str, Markup]:
    """Return the charts of the history, each under its caption."""
    losses = figures.draw_losses(history)
    accuracy = figures.draw_by_epoch(
        history, "validation_accuracy", "validation accuracy, %", scale=100
    )
    rate = figures.draw_by_epoch(history, "learning_rate", "learning rate")
    return {
        "Train and validation loss by epoch": losses,
        "Validation accuracy by epoch": accuracy,
        "Learning rate of each epoch's last step": rate,
    }


def count_confusions(predictions: pd.DataFrame, classes: int) -> pd.DataFrame:
    """Return the number of images by label (rows) and prediction (columns)."""
    counts = pd.crosstab(predictions["label"], predictions["prediction"])
    return counts.reindex(index=range(classes), columns=range(classes), fill_value=0)


def most_confused(counts: pd.DataFrame) -> list[dict[str, int]]:
    """Return the most frequent pairs of a label and another prediction."""
    pairs = [
        {"label": label, "prediction": prediction, "count": int(number)}
        for (label, prediction), number in np.ndenumerate(counts.to_numpy())
        if label != prediction and number
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])[:CONFUSED_PAIRS]


def most_confident_mistakes(predictions: pd.DataFrame, count: int) -> pd.DataFrame:
    wrong = predictions[predictions["label"] != predictions["prediction"]]
    return wrong.sort_values("confidence", ascending=False, kind="stable").head(count)


def draw_mistakes(mistakes: pd.DataFrame, digits: Digits) -> list[dict[Hashable, Any]]:
    """Return the rows of a gallery, each with its image."""
    return [
        row | {"image": figures.draw_digit(digits.images[index, 0])}
        for index, row in zip(mistakes.index, mistakes.to_dict("records"), strict=True)
    ]


def own_view(
    predictions: pd.DataFrame,
    digits: Digits,
    counts: DataCounts,
    info: TensorInfo,
    gallery: int,
) -> dict[str, Any] | None:
    """Return what the page shows of the own images, None if there are none.

    Args:
        predictions: of the held-out ones
        digits: the held-out ones
        counts: of all images
        info: of the data set
        gallery: how many mistakes are shown, at most
    """
    splits = counts.images.get(OWN_SOURCE)
    if not splits:
        return None
    right = predictions["label"] == predictions["prediction"]
    correct, held_out = int(right.sum()), len(right)
    rows = []
    for label, name in enumerate(info.classes):
        of_class = right[predictions["label"] == label]
        rows.append(
            {
                "class": figures.shorten(name),
                **{split: splits.get(split, {}).get(name, 0) for split in SPLITS},
                "recall": float(of_class.mean()) if len(of_class) else None,
            }
        )
    return {
        "images": sum(sum(split.values()) for split in splits.values()),
        "held_out": held_out,
        "errors": held_out - correct,
        "interval": wilson_interval(correct, held_out) if held_out else None,
        "rows": rows,
        "warnings": counts.warnings,
        "mistakes": draw_mistakes(most_confident_mistakes(predictions, gallery), digits),
    }


def draw_filters(trace: LayerTrace) -> dict[str, Any] | None:
    """Return the image of the first convolution's filters, their number and their side."""
    if trace.filters is None:
        return None
    count, _, side, _ = trace.filters.shape
    image = figures.draw_maps(trace.filters[:, 0], MAP_COLUMNS)
    return {"count": count, "side": side, "image": image}


def example_view(
    example: int, trace: LayerTrace, image: UInt8Array, info: TensorInfo
) -> dict[str, Any]:
    """Return what the page shows of one image's way through the network.

    `example` is the image's place in the trace.
    """
    kinds = {layer.name: layer.kind for layer in trace.info.layers}
    logits = trace.logits[example].astype(float)
    exponentials = np.exp(logits - logits.max())
    return {
        "image": figures.draw_digit(image),
        "maps": {
            name: figures.draw_maps(outputs[example], MAP_COLUMNS)
            for name, outputs in trace.outputs.items()
            if outputs.ndim <= 4 and kinds[name] != "Flatten"
        },
        "step": convolution_step(trace, example, image, info),
        "logits": logits.tolist(),
        "exponentials": exponentials.tolist(),
        "probabilities": (exponentials / exponentials.sum()).tolist(),
    }


def save_mistakes(path: Path, images: UInt8Array, mistakes: pd.DataFrame, info: TensorInfo) -> None:
    """Write one image that shows all `mistakes`, for `dvc plots`."""
    names = [figures.shorten(name, 9) for name in info.classes]
    captions = [
        f"{names[row['label']]} → {names[row['prediction']]}, {row['confidence']:.1%}"
        for row in mistakes.to_dict("records")
    ]
    with atomic_write(path) as temporary:
        title = f"The {len(mistakes)} most confident mistakes: label → prediction, confidence"
        figures.save_sheet(temporary, images[mistakes.index, 0], captions, title)


def render(**values: Any) -> str:
    """Return the page. The browser may run its own script only, and load nothing."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = (
        "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names)
        for names in (SCRIPTS, STYLES)
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    parts = {"script": Markup(script), "style": Markup(style), "script_hash": f"sha256-{digest}"}
    return environment.get_template("page.html").render(**parts, **values)
