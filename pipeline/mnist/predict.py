"""Tell with the trained model what image files show."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.errors import DataError
from pipeline.mnist.inference import TensorDigits, predict
from pipeline.mnist.model import load_model
from pipeline.mnist.preparation import prepare, read_image
from pipeline.paths import MODEL

TOP = 3  # classes named for each image
SURE = 0.9  # the confidence from which a prediction is sure


class Prediction(NamedTuple):
    file: str
    prediction: str  # the name of the class
    confidence: float
    top: list[dict[str, Any]]  # prediction and confidence, the best first
    unsure: str | None  # the reason, if it is unsure


def predict_files(names: list[str]) -> tuple[list[Prediction], list[DataError]]:
    """Return a prediction for each file that can be read, and an error for each other one."""
    network, info = load_model(MODEL)
    readable, prepared, errors = [], [], []
    for name in names:
        try:
            prepared.append(prepare(read_image(name), name, info.preparation))
            readable.append(name)
        except DataError as error:
            errors.append(error)
    if not prepared:
        return [], errors
    images = torch.from_numpy(np.stack([image for image, _ in prepared])).unsqueeze(1)
    logits = predict(network, TensorDigits(images, torch.empty(0), info))
    best = logits.double().softmax(1).topk(min(TOP, len(info.classes)))
    predictions = []
    for name, (_, is_plain), indices, confidences in zip(
        readable, prepared, best.indices.tolist(), best.values.tolist(), strict=True
    ):
        names = [info.classes[index] for index in indices]
        doubt = None if is_plain else f"no single {info.subject} on a plain background"
        predictions.append(to_prediction(name, names, confidences, doubt))
    return predictions, errors


def to_prediction(
    file: str, names: list[str], confidences: list[float], doubt: str | None = None
) -> Prediction:
    """Return the prediction for a file, from `names` of classes and their confidences in order.

    The best comes first. `doubt` is a reason to be unsure, whatever the confidence.
    """
    unsure = doubt or (f"confidence below {SURE:.0%}" if confidences[0] < SURE else None)
    rounded = [round(confidence, 6) for confidence in confidences]
    top = [
        {"prediction": name, "confidence": confidence}
        for name, confidence in zip(names, rounded, strict=True)
    ]
    return Prediction(file, names[0], rounded[0], top, unsure)


def to_json(predictions: list[Prediction]) -> str:
    rows = [prediction._asdict() for prediction in predictions]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def describe(predictions: list[Prediction]) -> Iterator[str]:
    """Yield a line for each file."""
    width = max((len(prediction.file) for prediction in predictions), default=0)
    longest = max((len(prediction.prediction) for prediction in predictions), default=0)
    for file, prediction, confidence, top, unsure in predictions:
        others = ", ".join(f"{other['prediction']} {other['confidence']:.1%}" for other in top[1:])
        doubt = f"; unsure: {unsure}" if unsure else ""
        yield f"{file:{width}}  {prediction:{longest}}  {confidence:6.1%}  then {others}{doubt}"
