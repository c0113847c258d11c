"""Show the results as one page that needs no other file, and the mistakes in `dvc plots`.

Reads the section `report` of params.yaml, and those of preprocess and train only to show them; what
train and evaluate write to reports/; and data/tensors/test.safetensors. Writes reports/index.html
and reports/mistakes.png. Run: python -m pipeline.stages.report
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pydantic import Field

from pipeline.errors import DataError, run_main
from pipeline.files import atomic_write
from pipeline.mnist.layers import load_trace
from pipeline.mnist.tensors import load_digits
from pipeline.params import Params, load_params, load_section
from pipeline.paths import (
    HISTORY,
    LAYERS,
    METRICS,
    MISTAKES,
    PREDICTIONS,
    RELIABILITY,
    REPORT,
    TEST,
)
from pipeline.report import figures
from pipeline.report.page import (
    MAP_COLUMNS,
    count_confusions,
    draw_curves,
    example_view,
    headline,
    most_confident_mistakes,
    most_confused,
    render,
    save_mistakes,
)

Result = TypeVar("Result")


class ReportParams(Params):
    mistakes: int = Field(ge=0, le=1000)  # images in the gallery


def read_stage_output(path: Path, parse: Callable[[Path], Result]) -> Result:
    """Return what `parse` makes of a file that train or evaluate writes. Raises DataError."""
    try:
        return parse(path)
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing; run the stages before this one: dvc repro evaluate"
        ) from error
    except ValueError as error:  # what json and pandas raise
        raise DataError(
            f"{path} cannot be read ({error}); make it again: dvc repro --force evaluate"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def main() -> None:
    params = load_params("report", ReportParams)
    metrics = read_stage_output(METRICS, read_json)
    history, predictions, bins = (
        read_stage_output(path, pd.read_csv) for path in (HISTORY, PREDICTIONS, RELIABILITY)
    )
    trace = load_trace(LAYERS)
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
            row | {"image": figures.draw_digit(test.images[row["index"], 0])}
            for row in mistakes.to_dict("records")
        ],
        bins=bins.to_dict("records"),
        reliability=figures.draw_reliability(bins),
        layers=trace.layers,
        filters=figures.draw_maps(trace.filters[:, 0], MAP_COLUMNS),
        filter_shape=trace.filters.shape,
        examples=[
            predictions.loc[index].to_dict()
            | example_view(example, trace, test.images[index, 0], info)
            for example, index in enumerate(trace.examples)
        ],
    )
    save_mistakes(MISTAKES, test.images, mistakes, info)
    with atomic_write(REPORT) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"{REPORT}: {metrics['accuracy']:.2%} accuracy, {len(mistakes)} mistakes shown")


if __name__ == "__main__":
    run_main(main)
