"""The CNN and its file."""

from collections import OrderedDict
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.mnist.tensors import (
    TensorInfo,
    open_tensors,
    read_metadata,
    to_metadata,
    write_tensors,
)


class CNN(nn.Sequential):
    """Images float32 [B, 1, 28, 28] → logits float32 [B, classes]; 421,642 parameters for 10.

    This is the notebook's network with each pooling moved before its ReLU. max(relu(x)) and
    relu(max(x)) are equal to the bit, and the ReLU gets a quarter of the elements.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(1, 32, kernel_size=3, padding=1),
                pool1=nn.MaxPool2d(2),
                relu1=nn.ReLU(inplace=True),
                conv2=nn.Conv2d(32, 64, kernel_size=3, padding=1),
                pool2=nn.MaxPool2d(2),
                relu2=nn.ReLU(inplace=True),
                flatten=nn.Flatten(),
                dense1=nn.Linear(64 * 7 * 7, 128),
                relu3=nn.ReLU(inplace=True),
                dense2=nn.Linear(128, classes),
            )
        )
        self.to(memory_format=torch.channels_last)  # the format in which convolutions are fastest


class ModelInfo(TensorInfo):
    """What is needed to rebuild the network and to feed it; metadata of the model file."""

    architecture: Literal["conv32-conv64-dense128"] = "conv32-conv64-dense128"


def save_model(path: Path, weights: dict[str, Tensor], info: TensorInfo) -> None:
    tensors = {name: weight.cpu().contiguous() for name, weight in weights.items()}
    metadata = to_metadata(ModelInfo(**info.model_dump()))
    with write_tensors(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_model(path: Path) -> tuple[CNN, ModelInfo]:
    """Read what `save_model` wrote, for inference.

    Raises DataError. Names, types and shapes are checked before any weight is read.
    """
    with open_tensors(path, framework="pt", made_by="train") as file:
        info = read_metadata(file, ModelInfo)
        network = CNN(len(info.classes))
        expected = {
            name: ("F32", list(weight.shape)) for name, weight in network.state_dict().items()
        }
        stored = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        found = {name: (weight.get_dtype(), weight.get_shape()) for name, weight in stored.items()}
        wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        if wrong:
            raise SafetensorError(
                f"of another architecture than {info.architecture}: {', '.join(wrong)} differ"
            )
        network.load_state_dict({name: file.get_tensor(name) for name in expected})
    return network.eval(), info
