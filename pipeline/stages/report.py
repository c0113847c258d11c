"""Show the results as one page that needs no other file, and the mistakes in `dvc plots`.

Reads the section `report` of params.yaml, and those of preprocess and train only to show them; what
preprocess, train and evaluate write to reports/; and data/tensors/{test,own_test}.safetensors.
Writes reports/index.html and reports/mistakes.png. Run: python -m pipeline.stages.report
"""

import pandas as pd
from pydantic import Field

from pipeline.errors import run_main
from pipeline.files import atomic_write
from pipeline.mnist.idx import OWN_SOURCE, Digits
from pipeline.mnist.layers import LayerTrace, load_trace
from pipeline.mnist.tensors import TensorInfo, load_digits
from pipeline.params import Params, load_params, load_section
from pipeline.paths import (
    DATA_COUNTS,
    HISTORY,
    LAYERS,
    METRICS,
    MISTAKES,
    OWN_TEST,
    PREDICTIONS,
    RELIABILITY,
    REPORT,
    TEST,
)
from pipeline.report import figures
from pipeline.report.drawing import to_json
from pipeline.report.measurements import (
    HistoryRow,
    PredictionRow,
    ReliabilityRow,
    read_counts,
    read_metrics,
    read_table,
    unreadable,
)
from pipeline.report.page import (
    count_confusions,
    draw_curves,
    draw_filters,
    draw_mistakes,
    example_view,
    headline,
    most_confident_mistakes,
    most_confused,
    own_view,
    render,
    save_mistakes,
)


class ReportParams(Params):
    mistakes: int = Field(ge=0, le=1000)  # images in the gallery


def check_predictions(
    predictions: pd.DataFrame, source: str, digits: Digits, info: TensorInfo
) -> pd.DataFrame:
    """Return the predictions of a source's images, in their order.

    Raises DataError unless there is one for each image, of the classes that there are.
    """
    rows = predictions[predictions["source"] == source].reset_index(drop=True)
    if len(rows) != len(digits.labels):
        reason = f"it must have {len(digits.labels):,} rows of {source}, got {len(rows):,}"
        raise unreadable(PREDICTIONS, reason)
    classes = len(info.classes)
    for column in ("label", "prediction"):
        if len(rows) and (largest := rows[column].max()) >= classes:
            raise unreadable(PREDICTIONS, f"{column} must be less than {classes}, got {largest}")
    return rows


def check_trace(trace: LayerTrace, images: int, info: TensorInfo) -> None:
    """Raise DataError if an image or a class is named that the test split does not have."""
    classes = len(info.classes)
    if trace.logits.shape[1] != classes or not all(0 <= row < images for row in trace.examples):
        raise unreadable(LAYERS, f"it must be of {classes} classes and {images:,} test images")


def main() -> None:
    params = load_params("report", ReportParams)
    metrics = read_metrics(METRICS)
    history = read_table(HISTORY, HistoryRow)
    bins = read_table(RELIABILITY, ReliabilityRow)
    trace = load_trace(LAYERS)
    (test, info), (own_test, _) = load_digits(TEST), load_digits(OWN_TEST)
    all_predictions = read_table(PREDICTIONS, PredictionRow)
    predictions = check_predictions(all_predictions, info.dataset, test, info)
    own = own_view(
        check_predictions(all_predictions, OWN_SOURCE, own_test, info),
        own_test,
        read_counts(DATA_COUNTS),
        info,
        params.mistakes,
    )
    check_trace(trace, len(test.labels), info)
    correct = int((predictions["label"] == predictions["prediction"]).sum())
    counts = count_confusions(predictions, len(info.classes))
    mistakes = most_confident_mistakes(predictions, params.mistakes)
    page = render(
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
        mistakes=draw_mistakes(mistakes, test),
        own=own,
        bins=bins.to_dict("records"),
        reliability=figures.draw_reliability(bins),
        network=trace.info,
        drawing=to_json(trace, info, test.images[trace.examples[0], 0]),
        filters=draw_filters(trace),
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
