"""What each layer computes for some test images: traced by evaluate, shown by report.

Imports no torch, so that the report starts without it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.numpy import save_file

from pipeline.mnist.idx import IMAGE_SIZE, UInt8Array
from pipeline.mnist.tensors import (
    TensorInfo,
    open_tensors,
    read_metadata,
    to_metadata,
    write_tensors,
)

Float32Array = NDArray[np.float32]
Setting = float | tuple[int, int]  # a pair is of rows and columns
Weights = dict[str, NDArray[Any]]  # float16, those of one axis float32


class Layer(BaseModel):
    """A module that calls no other one. A shape is of one image, and () where there is none."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str  # its class in PyTorch
    settings: str  # as PyTorch prints them
    input: tuple[int, ...]
    shape: tuple[int, ...]  # of the output
    parameters: int


class Step(BaseModel):
    """What the network does with the outputs of earlier steps, for one image."""

    model_config = ConfigDict(frozen=True)

    name: str  # the layer's, or the function's if it is no layer
    kind: str  # see pipeline/mnist/steps.py
    inputs: tuple[int, ...]  # whose outputs it takes: 0 is the image, 1 the first step
    shape: tuple[int, ...]  # of its output
    settings: dict[str, Setting]
    tensors: tuple[str, ...]  # the names of its weights


class LayersInfo(BaseModel):
    """Metadata of the file."""

    network: str  # its class
    parameters: int  # of the whole network
    layers: tuple[Layer, ...] = Field(min_length=1)
    pool: int = Field(ge=0)  # side of the squares that the second layer pools; 0 if it does not
    steps: tuple[Step, ...]  # from the image to the logits before the temperature, or none
    obstacle: str  # why there are none
    temperature: float = Field(gt=0)  # what the last step's output is divided by


@dataclass(frozen=True)
class LayerTrace:
    """The layers, and the output of each for E images of the test split."""

    info: LayersInfo
    examples: NDArray[np.int64]  # [E], the images' indices in the test split
    logits: Float32Array  # [E, classes]
    outputs: dict[str, Float32Array]  # by the layer's name: [E, *shape]
    weights: tuple[Weights, ...]  # of each step
    # of the first layer, if it is a convolution that moves over the image pixel by pixel:
    filters: Float32Array | None  # [channels, 1, side, side]
    biases: Float32Array | None  # [channels]

    def is_consistent(self) -> bool:
        count, shown = len(self.examples), [layer for layer in self.info.layers if layer.shape]
        is_sound = (
            count > 0
            and self.examples.dtype == np.int64
            and self.logits.ndim == 2
            and len(self.logits) == count
            and bool(np.isfinite(self.logits).all())
            and all(self.outputs[layer.name].shape == (count, *layer.shape) for layer in shown)
        )
        if not is_sound or self.filters is None or self.biases is None:
            return is_sound
        channels, side = len(self.biases), self.filters.shape[-1]
        made = self.info.layers[0].shape
        padding, odd = divmod(made[-1] + side - 1 - IMAGE_SIZE, 2)
        return (
            (self.filters.shape, made) == ((channels, 1, side, side), (channels, *made[-1:] * 2))
            and (padding >= 0, odd) == (True, 0)
            and made[-1] % (self.info.pool or 1) == 0
        )


def convolution_step(
    trace: LayerTrace, example: int, image: UInt8Array, info: TensorInfo
) -> dict[str, Any] | None:
    """The numbers of one step of the first convolution, and the square that is pooled with it.

    The step is the one with the largest output. `example` is the image's place in the trace.
    """
    if trace.filters is None or trace.biases is None:
        return None
    convolved = trace.outputs[trace.info.layers[0].name][example]
    largest = np.unravel_index(convolved.argmax(), convolved.shape)
    channel, row, column = (int(index) for index in largest)
    kernel = trace.filters[channel, 0]
    side, window = len(kernel), trace.info.pool or 1
    padding = (convolved.shape[-1] + side - 1 - image.shape[-1]) // 2
    pixels = np.pad((image / 255 - info.mean) / info.std, padding)
    top, left = row // window * window, column // window * window
    return {
        "channel": channel,
        "pixels": pixels[row : row + side, column : column + side].tolist(),
        "weights": kernel.tolist(),
        "bias": float(trace.biases[channel]),
        "answer": float(convolved[channel, row, column]),
        "block": convolved[channel, top : top + window, left : left + window].tolist(),
    }


def save_trace(path: Path, trace: LayerTrace) -> None:
    tensors: dict[str, NDArray[Any]] = {"examples": trace.examples, "logits": trace.logits}
    if trace.filters is not None and trace.biases is not None:
        tensors |= {"filters": trace.filters, "biases": trace.biases}
    tensors |= {f"outputs.{name}": values for name, values in trace.outputs.items()}
    for place, weights in enumerate(trace.weights):
        tensors |= {f"weights.{place}.{name}": values for name, values in weights.items()}
    contiguous = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    with write_tensors(path) as temporary:
        save_file(contiguous, temporary, metadata=to_metadata(trace.info))


def load_trace(path: Path) -> LayerTrace:
    """Read what `save_trace` wrote. Raises DataError."""
    with open_tensors(path, framework="numpy", made_by="evaluate") as file:
        info = read_metadata(file, LayersInfo)
        names = file.keys()
        has_filters = "filters" in names
        trace = LayerTrace(
            info,
            file.get_tensor("examples"),
            file.get_tensor("logits"),
            {
                layer.name: file.get_tensor(f"outputs.{layer.name}")
                for layer in info.layers
                if layer.shape
            },
            tuple(
                {name: file.get_tensor(f"weights.{place}.{name}") for name in step.tensors}
                for place, step in enumerate(info.steps)
            ),
            *(map(file.get_tensor, ("filters", "biases")) if has_filters else (None, None)),
        )
        if not trace.is_consistent():
            raise SafetensorError("its tensors do not fit its layers")
    return trace
