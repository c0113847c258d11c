"""Measure the model on the test split, the only stage that touches it.

Reads the section `evaluate` of params.yaml, models/model.safetensors and data/tensors/test.safetensors;
writes reports/metrics.json and reports/predictions.csv. Run: python -m pipeline.stages.evaluate
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from sklearn.metrics import accuracy_score, classification_report

from pipeline.errors import DataError, run
from pipeline.files import atomic_write
from pipeline.model import load_model
from pipeline.params import Params, load_params
from pipeline.training import DeviceName, choose_device, load_digits, make_deterministic, predict

TEST = Path("data/tensors/test.safetensors")
MODEL = Path("models/model.safetensors")
METRICS = Path("reports/metrics.json")
PREDICTIONS = Path("reports/predictions.csv")


class EvaluateParams(Params):
    calibration_bins: int = Field(gt=0, le=1000)
    device: DeviceName


def measure(predictions: pd.DataFrame, loss: float, classes: tuple[str, ...], calibration_bins: int) -> dict[str, Any]:
    """Loss and fractions in [0, 1]: over all images and macro averages at the top, each class's own below."""
    label, prediction = predictions["label"], predictions["prediction"]
    report = classification_report(
        label, prediction, labels=range(len(classes)), target_names=classes, output_dict=True, zero_division=0
    )
    names = {"precision": "precision", "recall": "recall", "f1": "f1-score"}
    metrics = {
        "accuracy": accuracy_score(label, prediction),
        "loss": loss,
        **{name: report["macro avg"][theirs] for name, theirs in names.items()},
        "expected_calibration_error": expected_calibration_error(
            predictions["confidence"].to_numpy(), (label == prediction).to_numpy(), calibration_bins
        ),
    }
    per_class = {
        class_name: {name: round(report[class_name][theirs], 6) for name, theirs in names.items()}
        for class_name in classes
    }
    return {name: round(float(value), 6) for name, value in metrics.items()} | {"per_class": per_class}


def expected_calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int) -> float:
    """Mean over images of |accuracy - confidence| of their bin; equal-width bins (https://arxiv.org/abs/1706.04599).

    Written out because the library that has it, torchmetrics, takes longer to import than this stage to run.
    """
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def main() -> None:
    params = load_params("evaluate", EvaluateParams)
    device = choose_device(params.device, "evaluate.device")
    network, info = load_model(MODEL)
    test = load_digits(TEST, device)
    if info.model_dump(exclude={"architecture"}) != test.info.model_dump():
        raise DataError(f"{MODEL} was trained on other data than {TEST} holds; train it again: dvc repro train")
    make_deterministic(seed=0)
    logits = predict(network.to(device), test)
    confidence, prediction = logits.double().softmax(1).max(1)
    predictions = pd.DataFrame(
        {
            "index": range(len(test.labels)),
            "label": test.labels.cpu(),
            "prediction": prediction.cpu(),
            "confidence": confidence.cpu().numpy().round(6),
        }
    )
    loss = F.cross_entropy(logits.double(), test.labels).item()
    metrics = measure(predictions, loss, info.classes, params.calibration_bins)
    with atomic_write(PREDICTIONS) as temporary:
        predictions.to_csv(temporary, index=False)
    with atomic_write(METRICS) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(f"accuracy {metrics['accuracy']:.2%}, loss {metrics['loss']:.4f} on {len(predictions):,} test images")


if __name__ == "__main__":
    run(main)
