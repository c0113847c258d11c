"""Metrics of predictions, and how well their confidence tells how often they are right."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, classification_report

FloatArray = NDArray[np.float64]
KEYS = {"precision": "precision", "recall": "recall", "f1": "f1-score"}  # ours: scikit-learn's


def tabulate_predictions(
    source: str,
    images: Sequence[str],
    probabilities: FloatArray,
    labels: NDArray[np.int64],
) -> pd.DataFrame:
    """One row for each image: its identity, label, most probable class and the confidence in that.

    Args:
        source: of the images, the data set's name, or own
        images: their hashes; with the source, their identity
        probabilities: [N, classes]
        labels: [N]
    """
    return pd.DataFrame(
        {
            "source": source,
            "image": images,
            "label": labels,
            "prediction": probabilities.argmax(1),
            "confidence": probabilities.max(1).round(6),
        }
    )


def measure(
    predictions: pd.DataFrame, loss: float, classes: tuple[str, ...], bins: pd.DataFrame
) -> dict[str, Any]:
    """Return the loss and, as fractions in [0, 1], metrics over all images and for each class.

    Precision, recall and F1 over all images are means of the classes' (macro averages).
    """
    report = classify(predictions, range(len(classes)))
    per_class = {
        class_name: {name: round(report[str(label)][key], 6) for name, key in KEYS.items()}
        for label, class_name in enumerate(classes)
    }
    return {
        **summarize(predictions, loss, report),
        "expected_calibration_error": round(calibration_error(bins), 6),
        "per_class": per_class,
    }


def measure_own(predictions: pd.DataFrame, loss: float) -> dict[str, Any]:
    """Return the number of own images, and their metrics.

    The means are those of the classes that occur: own images need not be of all.
    """
    report = classify(predictions, sorted(set(predictions["label"])))
    return {"images": len(predictions), **summarize(predictions, loss, report)}


def classify(predictions: pd.DataFrame, labels: Sequence[int]) -> dict[str, Any]:
    """Return scikit-learn's report on the classes `labels`, by their numbers as text."""
    report: dict[str, Any] = classification_report(
        predictions["label"],
        predictions["prediction"],
        labels=labels,
        output_dict=True,
        zero_division=0,
    )
    return report


def summarize(predictions: pd.DataFrame, loss: float, report: dict[str, Any]) -> dict[str, float]:
    """Return the metrics over all images."""
    values = {
        "accuracy": accuracy_score(predictions["label"], predictions["prediction"]),
        "loss": loss,
        **{name: report["macro avg"][key] for name, key in KEYS.items()},
    }
    return {name: round(float(value), 6) for name, value in values.items()}


def choose_examples(predictions: pd.DataFrame) -> NDArray[np.int64]:
    """The rows of one image for each class, and of the image with the lowest confidence.

    A class's image is the first that is read correctly, or its first if none is.
    """
    wrong = predictions["label"] != predictions["prediction"]
    ordered = predictions.assign(wrong=wrong).sort_values(["label", "wrong"], kind="stable")
    first = ordered.drop_duplicates("label")
    return np.array([*first.index, predictions["confidence"].idxmin()])


def reliability(confidence: FloatArray, correct: NDArray[np.bool_], bins: int) -> pd.DataFrame:
    """Group predictions by confidence, in bins of equal width; one row for each bin with images.

    A row has the bin's bounds, its number of images, their mean confidence and their accuracy.
    """
    table = pd.DataFrame({"confidence": confidence, "accuracy": correct})
    table["bin"] = np.minimum((confidence * bins).astype(int), bins - 1)
    grouped = table.groupby("bin")
    means = grouped.mean().reset_index()
    bounds = {"lower": means["bin"] / bins, "upper": (means["bin"] + 1) / bins}
    return pd.DataFrame(
        {**bounds, "images": grouped.size().to_numpy(), **means[["confidence", "accuracy"]]}
    )


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error: the mean over all images of |accuracy - confidence| of their bin.

    As in https://arxiv.org/abs/1706.04599. Written out because torchmetrics, which has it, takes
    longer to import than this stage to run.
    """
    gaps = (table["accuracy"] - table["confidence"]).abs()
    return float((table["images"] * gaps).sum() / table["images"].sum())
