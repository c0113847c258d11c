"""Draw what came out as one self-contained page, and the mistakes as an image for `dvc plots`.

Reads the section `report` of params.yaml (and shows those of preprocess and train), what train and evaluate wrote in
reports/, and data/tensors/test.safetensors; writes reports/index.html and reports/mistakes.png.
Run: python -m pipeline.stages.report
"""

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import Field
from scipy.stats import binomtest

from pipeline import figures
from pipeline.data import Bytes, TensorInfo, load_digits
from pipeline.errors import DataError, run
from pipeline.files import atomic_write
from pipeline.insides import Insides, convolution_step, load_insides
from pipeline.params import Params, load_params, load_section

TEST = Path("data/tensors/test.safetensors")
METRICS = Path("reports/metrics.json")
HISTORY = Path("reports/history.csv")
PREDICTIONS = Path("reports/predictions.csv")
RELIABILITY = Path("reports/reliability.csv")
INSIDES = Path("reports/insides.safetensors")
REPORT = Path("reports/index.html")
MISTAKES = Path("reports/mistakes.png")
TEMPLATES = Path(__file__).parent

NOTEBOOK_ACCURACY = 0.9911  # what the notebook reports, on MNIST
CONFUSED_PAIRS = 8  # in the list of the most frequent
MAP_COLUMNS = 8

Result = TypeVar("Result")


class ReportParams(Params):
    mistakes: int = Field(ge=0, le=1000)  # images in the gallery


def headline(correct: int, images: int, dataset: str) -> dict[str, Any]:
    """The accuracy with its Wilson interval of 95 %."""
    interval = binomtest(correct, images).proportion_ci(method="wilson")
    low, high = float(interval.low), float(interval.high)
    notebook = NOTEBOOK_ACCURACY if dataset == "MNIST" else None
    chart = figures.draw_interval(correct / images, low, high, {"the notebook": notebook} if notebook else {})
    counts = {"errors": images - correct, "images": images}
    return {**counts, "low": low, "high": high, "notebook": notebook, "chart": chart}


def draw_curves(history: pd.DataFrame) -> dict[str, Markup]:
    """By what they show in words."""
    accuracy = figures.draw_by_epoch(history, "validation_accuracy", "validation accuracy, %", scale=100)
    return {
        "Train and validation loss by epoch": figures.draw_losses(history),
        "Validation accuracy by epoch": accuracy,
        "Learning rate of each epoch's last step": figures.draw_by_epoch(history, "learning_rate", "learning rate"),
    }


def count_confusions(predictions: pd.DataFrame, classes: int) -> pd.DataFrame:
    """Images by label (rows) and prediction (columns)."""
    counts = pd.crosstab(predictions["label"], predictions["prediction"])
    return counts.reindex(index=range(classes), columns=range(classes), fill_value=0)


def most_confused(counts: pd.DataFrame) -> list[dict[str, int]]:
    pairs = [
        {"label": label, "prediction": prediction, "count": int(number)}
        for (label, prediction), number in np.ndenumerate(counts.to_numpy())
        if label != prediction and number
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])[:CONFUSED_PAIRS]


def most_confident_mistakes(predictions: pd.DataFrame, count: int) -> pd.DataFrame:
    wrong = predictions[predictions["label"] != predictions["prediction"]]
    return wrong.sort_values(["confidence", "index"], ascending=[False, True]).head(count)


def look_at(example: int, insides: Insides, image: Bytes, info: TensorInfo) -> dict[str, Any]:
    """One image on its way through the network, as the page shows it."""
    values = {name: outputs[example] for name, outputs in insides.outputs.items()}
    logits = values[insides.layers[-1].name]
    exponentials = np.exp(logits - logits.max())
    return {
        "image": figures.draw_digit(image),
        "maps": {
            layer.name: figures.draw_maps(values[layer.name], MAP_COLUMNS)
            for layer in insides.layers[:-1]
            if layer.kind != "Flatten"
        },
        "step": convolution_step(insides, example, image, info),
        "logits": logits.tolist(),
        "exponentials": exponentials.tolist(),
        "probabilities": (exponentials / exponentials.sum()).tolist(),
    }


def save_mistakes(path: Path, images: Bytes, mistakes: pd.DataFrame, info: TensorInfo) -> None:
    """For `dvc plots`: one image of them all."""
    names = [figures.shorten(name, 9) for name in info.classes]
    captions = [
        f"{names[row['label']]} → {names[row['prediction']]}, {row['confidence']:.1%}"
        for row in mistakes.to_dict("records")
    ]
    with atomic_write(path) as temporary:
        title = f"The {len(mistakes)} most confident mistakes: label → prediction, confidence"
        figures.save_sheet(temporary, images[mistakes["index"], 0], captions, title)


def render(**values: Any) -> str:
    """The page; only its own script may run, and nothing may be loaded."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    own = {"script": Markup(script), "style": Markup(style), "script_hash": f"sha256-{digest}"}
    return environment.get_template("report.html").render(**own, **values)


def read_result(path: Path, parse: Callable[[Path], Result]) -> Result:
    try:
        return parse(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; run the stages before this one: dvc repro evaluate") from error
    except ValueError as error:  # of json and of pandas
        raise DataError(f"{path} cannot be read ({error}); make it again: dvc repro --force evaluate") from error


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def main() -> None:
    params = load_params("report", ReportParams)
    metrics = read_result(METRICS, read_json)
    history, predictions, bins = (read_result(path, pd.read_csv) for path in (HISTORY, PREDICTIONS, RELIABILITY))
    insides = load_insides(INSIDES)
    test, info = load_digits(TEST)
    correct = int((predictions["label"] == predictions["prediction"]).sum())
    counts = count_confusions(predictions, len(info.classes))
    mistakes = most_confident_mistakes(predictions, params.mistakes)
    page = render(
        dataset=info.dataset,
        classes=[figures.shorten(name) for name in info.classes],
        info=info,
        metrics=metrics,
        params={name: load_section(name) for name in ("preprocess", "train")},
        result=headline(correct, len(predictions), info.dataset),
        history=history.to_dict("records"),
        curves=draw_curves(history),
        counts=counts.to_numpy().tolist(),
        confused=most_confused(counts),
        class_chart=figures.draw_classes(metrics["per_class"]),
        mistakes=[
            row | {"image": figures.draw_digit(test.images[row["index"], 0])} for row in mistakes.to_dict("records")
        ],
        bins=bins.to_dict("records"),
        reliability=figures.draw_reliability(bins),
        layers=insides.layers,
        filters=figures.draw_maps(insides.filters[:, 0], MAP_COLUMNS),
        filter_shape=insides.filters.shape,
        examples=[
            predictions.loc[index].to_dict() | look_at(place, insides, test.images[index, 0], info)
            for place, index in enumerate(insides.examples)
        ],
    )
    save_mistakes(MISTAKES, test.images, mistakes, info)
    with atomic_write(REPORT) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"{REPORT}: {metrics['accuracy']:.2%} accuracy, {len(mistakes)} mistakes shown")


if __name__ == "__main__":
    run(main)
