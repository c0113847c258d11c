"""The network as the page carries it, to read what a reader draws: its steps and their weights."""

import base64
import json
from typing import Any

from markupsafe import Markup

from pipeline.mnist.idx import UInt8Array
from pipeline.mnist.layers import LayerTrace, Weights
from pipeline.mnist.tensors import TensorInfo


def to_json(trace: LayerTrace, info: TensorInfo, image: UInt8Array) -> Markup:
    """Return the network as JSON that HTML may carry in a script element.

    `image` [28, 28] is the first example. With its logits the page checks itself.
    """
    steps = [
        step.model_dump(exclude={"tensors"}) | {"tensors": pack(weights)}
        for step, weights in zip(trace.info.steps, trace.weights, strict=True)
    ]
    content = {
        "classes": info.classes,
        "preparation": info.preparation,
        "mean": info.mean,
        "std": info.std,
        "temperature": trace.info.temperature,
        "check": {"pixels": image.ravel().tolist(), "logits": trace.logits[0].tolist()},
        "steps": steps,
    }
    return Markup(json.dumps(content, separators=(",", ":")).replace("<", r"\u003c"))


def pack(weights: Weights) -> dict[str, Any]:
    """Return each tensor's shape, and its numbers as the base64 of float16 or as they are."""
    return {
        name: {"shape": values.shape}
        | (
            {"packed": base64.b64encode(values.astype("<f2").tobytes()).decode("ascii")}
            if values.dtype == "float16"
            else {"numbers": values.tolist()}
        )
        for name, values in weights.items()
    }
