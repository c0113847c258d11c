"""Metrics of predictions, and how far their confidence can be trusted."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, classification_report


def measure(
    predictions: pd.DataFrame, loss: float, classes: tuple[str, ...], bins: pd.DataFrame
) -> dict[str, Any]:
    """Loss and fractions in [0, 1]: over all images and macro averages at the top, each class's own
    below.
    """
    label, prediction = predictions["label"], predictions["prediction"]
    report = classification_report(
        label,
        prediction,
        labels=range(len(classes)),
        target_names=classes,
        output_dict=True,
        zero_division=0,
    )
    names = {"precision": "precision", "recall": "recall", "f1": "f1-score"}
    metrics = {
        "accuracy": accuracy_score(label, prediction),
        "loss": loss,
        **{name: report["macro avg"][theirs] for name, theirs in names.items()},
        "expected_calibration_error": calibration_error(bins),
    }
    per_class = {
        class_name: {name: round(report[class_name][theirs], 6) for name, theirs in names.items()}
        for class_name in classes
    }
    return {name: round(float(value), 6) for name, value in metrics.items()} | {
        "per_class": per_class
    }


def choose_examples(predictions: pd.DataFrame) -> NDArray[np.int64]:
    """The first image of each class that is read correctly, or the first where none is; then the
    least certain.
    """
    wrong = predictions["label"] != predictions["prediction"]
    first = (
        predictions.assign(wrong=wrong)
        .sort_values(["label", "wrong", "index"])
        .drop_duplicates("label")
    )
    return np.array([*first["index"], predictions["confidence"].idxmin()])


def reliability(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int
) -> pd.DataFrame:
    """One row for each bin of equal width that has images: its bounds, their number, mean
    confidence and accuracy.
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
    """Expected calibration error: the mean over images of |accuracy - confidence| of their bin.

    By https://arxiv.org/abs/1706.04599; written out because the library that has it, torchmetrics,
    takes longer to import than the stage to run.
    """
    gaps = (table["accuracy"] - table["confidence"]).abs()
    return float((table["images"] * gaps).sum() / table["images"].sum())
