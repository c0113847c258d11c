"""The network, and the files that hold one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import DataError
from pipeline.mnist.model import CNN, load_model, save_model
from pipeline.mnist.tensors import TensorInfo

INFO = TensorInfo(dataset="MNIST", classes=tuple("0123456789"), mean=0.5, std=0.5)


def notebook_forward(network: CNN, images: Tensor) -> Tensor:
    """The same weights in the notebook's order: convolution, ReLU, pooling."""
    layers = dict(network.named_children())
    values = F.max_pool2d(F.relu(layers["conv1"](images)), 2)
    values = F.max_pool2d(F.relu(layers["conv2"](values)), 2)
    values = F.relu(layers["dense1"](values.flatten(1)))
    return layers["dense2"](values)  # type: ignore[no-any-return]


def test_pooling_before_relu_equals_the_notebooks_order() -> None:
    torch.manual_seed(1)
    network, images, labels = CNN(), torch.randn(64, 1, 28, 28), torch.randint(10, (64,))

    def logits_and_gradients(logits: Tensor) -> list[Tensor]:
        network.zero_grad()
        F.cross_entropy(logits, labels).backward()
        gradients = [parameter.grad for parameter in network.parameters()]
        return [
            logits.detach(),
            *(gradient.clone() for gradient in gradients if gradient is not None),
        ]

    actual = logits_and_gradients(network(images))
    expected = logits_and_gradients(notebook_forward(network, images))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_model_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    network, images = CNN().eval(), torch.randn(3, 1, 28, 28)
    save_model(path, network.state_dict(), INFO)
    loaded, info = load_model(path)
    assert torch.equal(loaded(images), network(images))
    assert info.model_dump() == INFO.model_dump() | {"architecture": "conv32-conv64-dense128"}


def test_a_missing_model_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"is missing; run the stage before this one: dvc repro train"
    ):
        load_model(tmp_path / "model.safetensors")


def metadata(**changes: str) -> dict[str, str]:
    from pipeline.mnist.model import ModelInfo

    return {"info": ModelInfo(**INFO.model_dump()).model_copy(update=changes).model_dump_json()}


@pytest.mark.parametrize(
    ("tensors", "info", "expected"),
    [
        ({"weight": torch.zeros(3)}, None, "its metadata is missing or malformed"),
        ({"weight": torch.zeros(3)}, {"info": "{}"}, "its metadata is missing or malformed"),
        (
            {"weight": torch.zeros(3)},
            metadata(architecture="resnet18"),
            "its metadata is missing or malformed",
        ),
        (
            {"weight": torch.zeros(3)},
            metadata(),
            "of another architecture than conv32-conv64-dense128: conv1.bias, ",
        ),
        (
            CNN(classes=7).state_dict(),
            metadata(),
            "another architecture than conv32-conv64-dense128: dense2.bias, dens",
        ),
    ],
)
def test_a_file_of_another_model_is_one_line(
    tmp_path: Path, tensors: dict[str, Tensor], info: dict[str, str] | None, expected: str
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=info)
    with pytest.raises(DataError) as error:
        load_model(path)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 a pickle", np.uint64(2**63).tobytes() + b"{"]
)
def test_a_file_that_is_no_safetensors_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"is not what the train stage writes"):
        load_model(path)


@pytest.mark.parametrize(
    "lie",
    [
        {"shape": [2**40, 3136]},  # more than any file or memory holds
        {"shape": [128, 3135]},
        {"shape": [-1, 3136]},
        {"dtype": "F64"},
        {"dtype": "F16"},
        {"dtype": "I32"},  # as long as F32, so safetensors accepts it
        {"shape": [3136, 128]},
        {"data_offsets": [0, 2**50]},
        {"data_offsets": [8, 0]},
    ],
)
def test_a_model_that_lies_about_its_shapes_is_one_line(
    tmp_path: Path, lie: dict[str, object]
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, CNN().state_dict(), INFO)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["dense1.weight"] |= lie
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])
    with pytest.raises(
        DataError, match=r"is not what the train stage writes \([^\n]+\); make it again"
    ):
        load_model(path)
