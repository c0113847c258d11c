"""What a network is made of and what it makes of an image on the way: computed by evaluate, shown
by report.

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
    settings: str  # in PyTorch's words
    shape: tuple[int, ...]  # of the output for one image
    parameters: int


class LayersInfo(BaseModel):
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class LayerTrace:
    layers: tuple[Layer, ...]
    examples: NDArray[np.int64]  # [E], the images looked at, by their place in the test split
    filters: Float32Array  # of the first convolution [channels, 1, height, width]
    biases: Float32Array  # [channels]
    outputs: dict[str, Float32Array]  # of each layer, by its name: [E, *shape]


def trace_layers(
    network: "nn.Sequential", images: "Tensor", examples: NDArray[np.int64]
) -> LayerTrace:
    """Pass the normalized `images` [E, 1, 28, 28] through the network and keep what every layer
    makes of them.
    """
    layers, outputs, values = [], {}, images
    for name, layer in network.named_children():
        values = layer(values)
        outputs[name] = values.detach().cpu().numpy().copy()  # the next layer may work in place
        count = sum(parameter.numel() for parameter in layer.parameters())
        shape, kind = tuple(values.shape[1:]), type(layer).__name__
        layers.append(
            Layer(name=name, kind=kind, settings=layer.extra_repr(), shape=shape, parameters=count)
        )
    weights, biases = (
        parameter.detach().cpu().numpy() for parameter in next(network.children()).parameters()
    )
    return LayerTrace(tuple(layers), examples, np.ascontiguousarray(weights), biases, outputs)


def convolution_step(
    insides: LayerTrace, example: int, image: UInt8Array, info: TensorInfo
) -> dict[str, Any]:
    """The numbers of one step of the first convolution and of the pooling after it, where they
    answer most.
    """
    convolved, pooled = (insides.outputs[layer.name][example] for layer in insides.layers[:2])
    channel, row, column = (
        int(place) for place in np.unravel_index(convolved.argmax(), convolved.shape)
    )
    kernel = insides.filters[channel, 0]
    side = len(kernel)
    border = (convolved.shape[-1] + side - 1 - image.shape[-1]) // 2
    pixels = np.pad((image / 255 - info.mean) / info.std, border)
    window = convolved.shape[-1] // pooled.shape[-1]
    top, left = row // window, column // window
    return {
        "channel": channel,
        "pixels": pixels[row : row + side, column : column + side].tolist(),
        "weights": kernel.tolist(),
        "bias": float(insides.biases[channel]),
        "answer": float(convolved[channel, row, column]),
        "block": convolved[channel, top * window :, left * window :][:window, :window].tolist(),
        "largest": float(pooled[channel, top, left]),
    }


def save_trace(path: Path, insides: LayerTrace) -> None:
    outputs = {
        f"outputs.{name}": np.ascontiguousarray(values) for name, values in insides.outputs.items()
    }
    tensors: dict[str, NDArray[Any]] = {
        "examples": insides.examples,
        "filters": insides.filters,
        "biases": insides.biases,
        **outputs,
    }
    with write_tensors(path) as temporary:
        save_file(tensors, temporary, metadata=to_metadata(LayersInfo(layers=insides.layers)))


def load_trace(path: Path) -> LayerTrace:
    """Raise DataError where `path` is missing or is not what `save_insides` writes."""
    with open_tensors(path, framework="numpy", made_by="evaluate") as file:
        layers = read_metadata(file, LayersInfo).layers
        outputs = {layer.name: file.get_tensor(f"outputs.{layer.name}") for layer in layers}
        examples, filters, biases = map(file.get_tensor, ("examples", "filters", "biases"))
        return LayerTrace(layers, examples, filters, biases, outputs)
