"""Read the digit in image files with the trained model."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.errors import DataError
from pipeline.mnist.handwriting import read_image, to_drawing
from pipeline.mnist.inference import TensorDigits, predict
from pipeline.mnist.model import load_model
from pipeline.paths import MODEL

TOP = 3  # classes named for each image
SURE = 0.9  # the confidence from which a prediction is sure


class Prediction(NamedTuple):
    file: str
    digit: str  # the name of the class
    confidence: float
    top: list[dict[str, Any]]  # digit and confidence, the best first
    unsure: str | None  # the reason, if it is unsure


def predict_files(names: list[str]) -> tuple[list[Prediction], list[DataError]]:
    """Return a prediction for each file that can be read, and an error for each other one."""
    network, info = load_model(MODEL)
    readable, drawings, errors = [], [], []
    for name in names:
        try:
            drawings.append(to_drawing(read_image(name), name))
            readable.append(name)
        except DataError as error:
            errors.append(error)
    if not drawings:
        return [], errors
    images = torch.from_numpy(np.stack([drawing.image for drawing in drawings])).unsqueeze(1)
    logits = predict(network, TensorDigits(images, torch.empty(0), info))
    best = logits.double().softmax(1).topk(min(TOP, len(info.classes)))
    predictions = []
    for name, drawing, indices, confidences in zip(
        readable, drawings, best.indices.tolist(), best.values.tolist(), strict=True
    ):
        digits = [info.classes[index] for index in indices]
        predictions.append(to_prediction(name, drawing.on_plain_background, digits, confidences))
    return predictions, errors


def to_prediction(
    name: str, on_plain_background: bool, digits: list[str], confidences: list[float]
) -> Prediction:
    """Return the prediction for a file, with its `digits` and their confidences, the best first."""
    unsure = None
    if not on_plain_background:
        unsure = "no single drawing on a plain background"
    elif confidences[0] < SURE:
        unsure = f"confidence below {SURE:.0%}"
    rounded = [round(confidence, 6) for confidence in confidences]
    top = [
        {"digit": digit, "confidence": confidence}
        for digit, confidence in zip(digits, rounded, strict=True)
    ]
    return Prediction(name, digits[0], rounded[0], top, unsure)


def to_json(predictions: list[Prediction]) -> str:
    rows = [prediction._asdict() for prediction in predictions]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def describe(predictions: list[Prediction]) -> Iterator[str]:
    """Yield a line for each file."""
    width = max((len(prediction.file) for prediction in predictions), default=0)
    for file, digit, confidence, top, unsure in predictions:
        others = ", ".join(f"{other['digit']} {other['confidence']:.1%}" for other in top[1:])
        doubt = f"; unsure: {unsure}" if unsure else ""
        yield f"{file:{width}}  {digit}  {confidence:6.1%}  then {others}{doubt}"
