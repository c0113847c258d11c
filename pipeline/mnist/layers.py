"""What each layer computes for some test images: traced by evaluate, shown by report.

Imports no torch, so that the report starts without it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import save_file

from pipeline.mnist.idx import UInt8Array
from pipeline.mnist.tensors import (
    TensorInfo,
    open_tensors,
    read_metadata,
    to_metadata,
    write_tensors,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

Float32Array = NDArray[np.float32]


class Layer(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    kind: str  # its class in PyTorch
    settings: str  # as PyTorch prints them
    shape: tuple[int, ...]  # of the output for one image
    parameters: int


class LayersInfo(BaseModel):
    """Metadata of the file."""

    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class LayerTrace:
    """The layers, and the output of each for E images of the test split."""

    layers: tuple[Layer, ...]
    examples: NDArray[np.int64]  # [E], the images' indices in the test split
    filters: Float32Array  # of the first convolution: [channels, 1, height, width]
    biases: Float32Array  # of the first convolution: [channels]
    outputs: dict[str, Float32Array]  # by the layer's name: [E, *shape]


def trace_layers(
    network: "nn.Sequential", images: "Tensor", examples: NDArray[np.int64]
) -> LayerTrace:
    """Pass the normalized `images` [E, 1, 28, 28] through the network; keep every layer's output.

    `examples` are the images' indices in the test split.
    """
    layers, outputs, values = [], {}, images
    for name, layer in network.named_children():
        values = layer(values)
        outputs[name] = values.detach().cpu().numpy().copy()  # the next layer may work in place
        layers.append(
            Layer(
                name=name,
                kind=type(layer).__name__,
                settings=layer.extra_repr(),
                shape=tuple(values.shape[1:]),
                parameters=sum(parameter.numel() for parameter in layer.parameters()),
            )
        )
    convolution = next(network.children())
    weights, biases = (values.detach().cpu().numpy() for values in convolution.parameters())
    return LayerTrace(tuple(layers), examples, np.ascontiguousarray(weights), biases, outputs)


def convolution_step(
    trace: LayerTrace, example: int, image: UInt8Array, info: TensorInfo
) -> dict[str, Any]:
    """The numbers of one step of the first convolution, and of the pooling that follows it.

    The step is the one with the largest output. `example` is the image's place in the trace.
    """
    convolved, pooled = (trace.outputs[layer.name][example] for layer in trace.layers[:2])
    largest = np.unravel_index(convolved.argmax(), convolved.shape)
    channel, row, column = (int(index) for index in largest)
    kernel = trace.filters[channel, 0]
    side = len(kernel)
    border = (convolved.shape[-1] + side - 1 - image.shape[-1]) // 2
    pixels = np.pad((image / 255 - info.mean) / info.std, border)
    window = convolved.shape[-1] // pooled.shape[-1]
    top, left = row // window, column // window
    return {
        "channel": channel,
        "pixels": pixels[row : row + side, column : column + side].tolist(),
        "weights": kernel.tolist(),
        "bias": float(trace.biases[channel]),
        "answer": float(convolved[channel, row, column]),
        "block": convolved[channel, top * window :, left * window :][:window, :window].tolist(),
        "largest": float(pooled[channel, top, left]),
    }


def save_trace(path: Path, trace: LayerTrace) -> None:
    tensors: dict[str, NDArray[Any]] = {
        "examples": trace.examples,
        "filters": trace.filters,
        "biases": trace.biases,
    }
    for name, values in trace.outputs.items():
        tensors[f"outputs.{name}"] = np.ascontiguousarray(values)
    with write_tensors(path) as temporary:
        save_file(tensors, temporary, metadata=to_metadata(LayersInfo(layers=trace.layers)))


def load_trace(path: Path) -> LayerTrace:
    """Read what `save_trace` wrote. Raises DataError."""
    with open_tensors(path, framework="numpy", made_by="evaluate") as file:
        layers = read_metadata(file, LayersInfo).layers
        outputs = {layer.name: file.get_tensor(f"outputs.{layer.name}") for layer in layers}
        examples, filters, biases = map(file.get_tensor, ("examples", "filters", "biases"))
        return LayerTrace(layers, examples, filters, biases, outputs)
