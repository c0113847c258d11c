"""Draw what came out as one self-contained page.

Reads the section `report` of params.yaml, reports/{metrics.json,history.csv,predictions.csv} and
data/tensors/test.safetensors; writes reports/index.html. Run: python -m pipeline.stages.report
"""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image
from pydantic import Field

from pipeline.data import Bytes, load_digits
from pipeline.errors import DataError, run
from pipeline.files import atomic_write
from pipeline.params import Params, load_params

TEST = Path("data/tensors/test.safetensors")
METRICS = Path("reports/metrics.json")
HISTORY = Path("reports/history.csv")
PREDICTIONS = Path("reports/predictions.csv")
REPORT = Path("reports/index.html")
TEMPLATE = Path(__file__).with_name("report.html")

# Equal inputs give equal bytes: element ids come from this salt, text stays text, no date is written.
SVG_STYLE: dict[Any, Any] = {"svg.hashsalt": "report", "svg.fonttype": "none", "font.family": "sans-serif"}

Result = TypeVar("Result")


class ReportParams(Params):
    mistakes: int = Field(ge=0, le=1000)  # images in the gallery


def draw_learning_curves(history: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, accuracy = figure.subplots(1, 2)
    losses.plot(history["epoch"], history["train_loss"], marker="o", label="train")
    losses.plot(history["epoch"], history["validation_loss"], marker="o", label="validation")
    losses.set(xlabel="epoch", ylabel="loss", xticks=history["epoch"])
    losses.legend(frameon=False)
    accuracy.plot(history["epoch"], 100 * history["validation_accuracy"], marker="o", color="C1")
    accuracy.set(xlabel="epoch", ylabel="validation accuracy, %", xticks=history["epoch"])
    return figure


def draw_confusion_matrix(predictions: pd.DataFrame, classes: list[str]) -> Figure:
    """Rows are labels, columns predictions; colour shows the errors only, so that the diagonal does not drown them."""
    counts = pd.crosstab(predictions["label"], predictions["prediction"])
    counts = counts.reindex(index=range(len(classes)), columns=range(len(classes)), fill_value=0)
    errors = counts.to_numpy().copy()
    np.fill_diagonal(errors, 0)
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(errors, cmap="Reds", vmax=max(1, 1.5 * errors.max()))
    for row, column in np.ndindex(errors.shape):
        if count := int(counts.to_numpy()[row, column]):
            axes.text(column, row, str(count), ha="center", va="center", fontsize=9)
    axes.set(xlabel="prediction", ylabel="label", xticks=range(len(classes)), yticks=range(len(classes)))
    names = [name if len(name) <= 20 else f"{name[:19]}…" for name in classes]
    axes.set_xticklabels(names, rotation=0 if max(map(len, names)) < 4 else 60, parse_math=False)
    axes.set_yticklabels(names, parse_math=False)
    return figure


def most_confident_mistakes(predictions: pd.DataFrame, count: int) -> pd.DataFrame:
    wrong = predictions[predictions["label"] != predictions["prediction"]]
    return wrong.sort_values(["confidence", "index"], ascending=[False, True]).head(count)


def to_svg(figure: Figure) -> Markup:
    buffer = io.StringIO()
    with rc_context(SVG_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    return Markup(svg[svg.index("<svg") :])  # drawn by matplotlib, which escapes text itself


def to_png_url(image: Bytes) -> str:
    """A uint8 [28, 28] image as a data URL, dark on light."""
    buffer = io.BytesIO()
    Image.fromarray(255 - image).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


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
    history, predictions = read_result(HISTORY, pd.read_csv), read_result(PREDICTIONS, pd.read_csv)
    test, info = load_digits(TEST)
    classes = list(info.classes)
    mistakes = [
        {
            "image": to_png_url(test.images[row["index"], 0]),
            "label": classes[row["label"]],
            "prediction": classes[row["prediction"]],
            "confidence": row["confidence"],
        }
        for row in most_confident_mistakes(predictions, params.mistakes).to_dict("records")
    ]
    environment = Environment(loader=FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template(TEMPLATE.name).render(
        dataset=info.dataset,
        metrics=metrics,
        images=len(predictions),
        errors=int((predictions["label"] != predictions["prediction"]).sum()),
        curves=to_svg(draw_learning_curves(history)),
        confusion=to_svg(draw_confusion_matrix(predictions, classes)),
        mistakes=mistakes,
    )
    with atomic_write(REPORT) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"{REPORT}: {metrics['accuracy']:.2%} accuracy, {len(mistakes)} mistakes shown")


if __name__ == "__main__":
    run(main)
