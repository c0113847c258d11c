"""Measure the model on the test split, the only stage that touches it.

Reads the section `evaluate` of params.yaml, models/model.safetensors and data/tensors/test.safetensors;
writes reports/metrics.json, reports/predictions.csv, reports/reliability.csv and reports/insides.safetensors.
Run: python -m pipeline.stages.evaluate
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

from pipeline.calibration import calibration_error, reliability
from pipeline.errors import DataError, run
from pipeline.files import atomic_write
from pipeline.insides import look_inside, save_insides
from pipeline.model import load_model
from pipeline.params import Params, load_params
from pipeline.training import DeviceName, choose_device, load_digits, make_deterministic, normalize, predict

TEST = Path("data/tensors/test.safetensors")
MODEL = Path("models/model.safetensors")
METRICS = Path("reports/metrics.json")
PREDICTIONS = Path("reports/predictions.csv")
RELIABILITY = Path("reports/reliability.csv")
INSIDES = Path("reports/insides.safetensors")


class EvaluateParams(Params):
    calibration_bins: int = Field(gt=0, le=1000)
    device: DeviceName


def measure(predictions: pd.DataFrame, loss: float, classes: tuple[str, ...], bins: pd.DataFrame) -> dict[str, Any]:
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
        "expected_calibration_error": calibration_error(bins),
    }
    per_class = {
        class_name: {name: round(report[class_name][theirs], 6) for name, theirs in names.items()}
        for class_name in classes
    }
    return {name: round(float(value), 6) for name, value in metrics.items()} | {"per_class": per_class}


def choose_examples(predictions: pd.DataFrame) -> NDArray[np.int64]:
    """The first image of each class that is read correctly, or the first where none is; then the least certain."""
    wrong = predictions["label"] != predictions["prediction"]
    first = predictions.assign(wrong=wrong).sort_values(["label", "wrong", "index"]).drop_duplicates("label")
    return np.array([*first["index"], predictions["confidence"].idxmin()])


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
    correct = (predictions["label"] == predictions["prediction"]).to_numpy()
    bins = reliability(predictions["confidence"].to_numpy(), correct, params.calibration_bins)
    metrics = measure(predictions, loss, info.classes, bins)
    examples = choose_examples(predictions)
    insides = look_inside(network, normalize(test.images[examples], info), examples)
    save_insides(INSIDES, insides)
    for path, table in {PREDICTIONS: predictions, RELIABILITY: bins.round(6)}.items():
        with atomic_write(path) as temporary:
            table.to_csv(temporary, index=False)
    with atomic_write(METRICS) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(f"accuracy {metrics['accuracy']:.2%}, loss {metrics['loss']:.4f} on {len(predictions):,} test images")


if __name__ == "__main__":
    run(main)
