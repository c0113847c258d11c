"""Metrics of predictions, and how well their confidence tells how often they are right."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, classification_report

FloatArray = NDArray[np.float64]


def tabulate_predictions(probabilities: FloatArray, labels: NDArray[np.int64]) -> pd.DataFrame:
    """One row for each image: its index, label, most probable class and the confidence in that.

    Args:
        probabilities: [N, classes]
        labels: [N]
    """
    return pd.DataFrame(
        {
            "index": range(len(labels)),
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
    label, prediction = predictions["label"], predictions["prediction"]
    report = classification_report(
        label,
        prediction,
        labels=range(len(classes)),
        target_names=classes,
        output_dict=True,
        zero_division=0,
    )
    keys = {"precision": "precision", "recall": "recall", "f1": "f1-score"}  # ours: scikit-learn's
    metrics = {
        "accuracy": accuracy_score(label, prediction),
        "loss": loss,
        **{name: report["macro avg"][key] for name, key in keys.items()},
        "expected_calibration_error": calibration_error(bins),
    }
    per_class = {
        class_name: {name: round(report[class_name][key], 6) for name, key in keys.items()}
        for class_name in classes
    }
    rounded = {name: round(float(value), 6) for name, value in metrics.items()}
    return rounded | {"per_class": per_class}


def choose_examples(predictions: pd.DataFrame) -> NDArray[np.int64]:
    """The indices of one image for each class, and of the image with the lowest confidence.

    A class's image is the first that is read correctly, or its first if none is.
    """
    wrong = predictions["label"] != predictions["prediction"]
    ordered = predictions.assign(wrong=wrong).sort_values(["label", "wrong", "index"])
    first = ordered.drop_duplicates("label")
    return np.array([*first["index"], predictions["confidence"].idxmin()])


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
