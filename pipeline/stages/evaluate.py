"""Measure the model on the test split and on the held-out own images. No other stage does.

Reads the section `evaluate` of params.yaml, models/model.safetensors and
data/tensors/{test,own_test}.safetensors; writes reports/metrics.json, reports/predictions.csv,
reports/reliability.csv and reports/layers.safetensors. Run: python -m pipeline.stages.evaluate
"""

import json

import pandas as pd
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pipeline.errors import DataError, run_main
from pipeline.files import atomic_write
from pipeline.mnist.device import DeviceName, choose_device, make_deterministic
from pipeline.mnist.idx import OWN_SOURCE, pixel_hash
from pipeline.mnist.inference import TensorDigits, load_to_device, normalize, predict
from pipeline.mnist.layers import save_trace
from pipeline.mnist.metrics import (
    choose_examples,
    measure,
    measure_own,
    reliability,
    tabulate_predictions,
)
from pipeline.mnist.model import load_model
from pipeline.mnist.tensors import TensorInfo
from pipeline.mnist.tracing import trace_layers
from pipeline.params import Params, load_params
from pipeline.paths import LAYERS, METRICS, MODEL, OWN_TEST, PREDICTIONS, RELIABILITY, TEST


class EvaluateParams(Params):
    calibration_bins: int = Field(gt=0, le=1000)
    device: DeviceName


def tabulate(network: nn.Module, digits: TensorDigits, source: str) -> tuple[pd.DataFrame, float]:
    """Return the network's predictions, a row for each image, and its loss."""
    logits = predict(network, digits).double()
    images = list(map(pixel_hash, digits.images.cpu().numpy()))
    probabilities, labels = logits.softmax(1).cpu().numpy(), digits.labels.cpu().numpy()
    loss = F.cross_entropy(logits, digits.labels).item()
    return tabulate_predictions(source, images, probabilities, labels), loss


def main() -> None:
    params = load_params("evaluate", EvaluateParams)
    device = choose_device(params.device, "evaluate.device")
    network, info = load_model(MODEL)
    test = load_to_device(TEST, device)
    if info.model_dump(include=set(TensorInfo.model_fields)) != test.info.model_dump():
        raise DataError(
            f"{MODEL} was trained on other data than {TEST} holds; train it again: dvc repro train"
        )
    make_deterministic(seed=0)
    network = network.to(device)
    predictions, loss = tabulate(network, test, info.dataset)
    correct = (predictions["label"] == predictions["prediction"]).to_numpy()
    bins = reliability(predictions["confidence"].to_numpy(), correct, params.calibration_bins)
    metrics = measure(predictions, loss, info.classes, bins)
    examples = choose_examples(predictions)
    inputs = normalize(test.images[examples], info)
    trace = trace_layers(network, inputs, examples, info.temperature)
    save_trace(LAYERS, trace)
    tables = [predictions]
    own = load_to_device(OWN_TEST, device)
    if len(own.labels):
        own_predictions, own_loss = tabulate(network, own, OWN_SOURCE)
        metrics["own"] = measure_own(own_predictions, own_loss)
        tables.append(own_predictions)
    for path, table in {PREDICTIONS: pd.concat(tables), RELIABILITY: bins.round(6)}.items():
        with atomic_write(path) as temporary:
            table.to_csv(temporary, index=False)
    with atomic_write(METRICS) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(
        f"accuracy {metrics['accuracy']:.2%}, loss {metrics['loss']:.4f} on {len(predictions):,}"
        " test images"
    )
    if own_metrics := metrics.get("own"):
        print(
            f"accuracy {own_metrics['accuracy']:.2%}, loss {own_metrics['loss']:.4f} on"
            f" {own_metrics['images']:,} held-out own images"
        )


if __name__ == "__main__":
    run_main(main)
