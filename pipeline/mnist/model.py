"""The network and its file. Another network changes this module only.

The train stage builds what `build_network` returns, any nn.Module from images to logits. What its
forward changes from call to call must be a parameter or a buffer, or be drawn from torch's own
generators: then a killed training resumes to the same bytes.
"""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.mnist.calibration import divide_logits
from pipeline.mnist.tensors import (
    TensorInfo,
    open_tensors,
    read_metadata,
    to_metadata,
    write_tensors,
)
from pipeline.params import Params


class NetworkParams(Params):
    """The section train.network of params.yaml, which the model's file carries."""

    hidden: int = Field(gt=0, le=2**16)  # outputs of the first dense layer


OLD_NETWORK: Any = {"hidden": 128}  # of files that are older than the field


class CNN(nn.Sequential):
    """Images float32 [B, 1, 28, 28] → logits float32 [B, classes].

    This is the notebook's network with each pooling moved before its ReLU. max(relu(x)) and
    relu(max(x)) are equal to the bit, and the ReLU gets a quarter of the elements.
    """

    def __init__(self, params: NetworkParams, classes: int) -> None:
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(1, 32, kernel_size=3, padding=1),
                pool1=nn.MaxPool2d(2),
                relu1=nn.ReLU(inplace=True),
                conv2=nn.Conv2d(32, 64, kernel_size=3, padding=1),
                pool2=nn.MaxPool2d(2),
                relu2=nn.ReLU(inplace=True),
                flatten=nn.Flatten(),
                dense1=nn.Linear(64 * 7 * 7, params.hidden),
                relu3=nn.ReLU(inplace=True),
                dense2=nn.Linear(params.hidden, classes),
            )
        )
        self.to(memory_format=torch.channels_last)  # the format in which convolutions are fastest


def build_network(params: NetworkParams, classes: int) -> nn.Module:
    """Return the network to train: images float32 [B, 1, 28, 28] → logits float32 [B, classes]."""
    return CNN(params, classes)


class ModelInfo(TensorInfo):
    """What is needed to rebuild the network and to feed it; metadata of the model file.

    The defaults are for files older than a field: all hold this CNN.
    """

    architecture: str = "CNN"  # the network's class
    network: NetworkParams = Field(default=OLD_NETWORK, validate_default=True)
    temperature: float = Field(default=1.0, gt=0)  # what its logits are divided by

    @field_validator("architecture")
    @classmethod
    def translate(cls, name: str) -> str:
        return "CNN" if name == "conv32-conv64-dense128" else name  # as older files call it


def save_model(
    path: Path,
    network: nn.Module,
    params: NetworkParams,
    info: TensorInfo,
    temperature: float = 1.0,
) -> None:
    """Write the weights and buffers of a network that `build_network` made with `params`."""
    metadata = ModelInfo(
        **info.model_dump(),
        architecture=type(network).__name__,
        network=params,
        temperature=temperature,
    )
    tensors = {  # copies, because tied weights share their memory, which safetensors refuses
        name: tensor.cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    with write_tensors(path) as temporary:
        save_file(tensors, temporary, metadata=to_metadata(metadata))


def load_model(path: Path) -> tuple[nn.Module, ModelInfo]:
    """Read what `save_model` wrote, for inference: the logits are divided by the temperature.

    Raises DataError. Names, types and shapes are checked before any weight is read.
    """
    with open_tensors(path, framework="pt", made_by="train") as file:
        info = read_metadata(file, ModelInfo)
        network = build_network(info.network, len(info.classes))
        if type(network).__name__ != info.architecture:
            raise SafetensorError(
                f"it holds a {info.architecture}, and pipeline/mnist/model.py builds a"
                f" {type(network).__name__}"
            )
        names = file.keys()
        stored = {name: file.get_tensor(name) for name in names}
        expected, found = forms(network.state_dict()), forms(stored)
        wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        if wrong:
            raise SafetensorError(f"of another {info.architecture}: {', '.join(wrong)} differ")
        network.load_state_dict(stored)
    divide_logits(network, info.temperature)
    return network.eval(), info


def forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
