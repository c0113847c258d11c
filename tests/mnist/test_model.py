"""The network, and the files that hold one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import NETWORK
from networks import NETWORKS
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import DataError
from pipeline.mnist import model
from pipeline.mnist.model import (
    CNN,
    ModelInfo,
    NetworkParams,
    build_network,
    load_model,
    save_model,
)
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
    network, images, labels = CNN(NETWORK, 10), torch.randn(64, 1, 28, 28), torch.randint(10, (64,))

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
    params = NetworkParams(hidden=7)
    network, images = build_network(params, 10).eval(), torch.randn(3, 1, 28, 28)
    save_model(path, network, params, INFO)
    loaded, info = load_model(path)
    assert torch.equal(loaded(images), network(images))
    added = {"architecture": "CNN", "network": {"hidden": 7}, "temperature": 1.0}
    assert info.model_dump() == INFO.model_dump() | added


def test_a_loaded_networks_logits_are_divided_by_the_files_temperature(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    network, images = build_network(NETWORK, 10).eval(), torch.randn(3, 1, 28, 28)
    save_model(path, network, NETWORK, INFO, temperature=2.0)
    loaded, info = load_model(path)
    assert info.temperature == 2
    torch.testing.assert_close(loaded(images), network(images) / 2)


def test_the_network_of_params_yaml_has_the_notebooks_size() -> None:
    assert sum(value.numel() for value in build_network(NETWORK, 10).parameters()) == 421_642


def test_a_file_from_before_is_read_as_mnists_cnn(tmp_path: Path) -> None:
    """It names neither the parameters of the network nor how its images were prepared."""
    path = tmp_path / "model.safetensors"
    network = CNN(NetworkParams(hidden=128), 10)
    old = (
        '{"dataset":"MNIST","classes":["0","1","2","3","4","5","6","7","8","9"],"mean":0.5,'
        '"std":0.5,"architecture":"conv32-conv64-dense128"}'
    )
    tensors = {name: weight.contiguous() for name, weight in network.state_dict().items()}
    save_file(tensors, path, metadata={"info": old})
    loaded, info = load_model(path)
    assert isinstance(loaded, CNN)
    assert (info.subject, info.preparation, info.network.hidden) == ("digit", "centred", 128)


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_comes_back_as_it_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its buffers, integers and tied weights, too."""
    path, images = tmp_path / "model.safetensors", torch.randn(3, 1, 28, 28)
    monkeypatch.setattr(model, "build_network", lambda params, classes: NETWORKS[name]())
    network = NETWORKS[name]()
    network(images)  # changes the buffers of batch normalization
    save_model(path, network, NETWORK, INFO)
    loaded, _ = load_model(path)
    logits = []
    for one in (network.eval(), loaded):
        torch.manual_seed(1)
        logits.append(one(images))
    assert torch.equal(*logits)


def test_a_missing_model_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"is missing; run the stage before this one: dvc repro train"
    ):
        load_model(tmp_path / "model.safetensors")


def metadata(**changes: object) -> dict[str, str]:
    return {"info": ModelInfo(**INFO.model_dump()).model_copy(update=changes).model_dump_json()}


@pytest.mark.parametrize(
    ("tensors", "info", "expected"),
    [
        ({"weight": torch.zeros(3)}, None, "its metadata is missing"),
        (
            {"weight": torch.zeros(3)},
            {"info": "{}"},
            "its metadata is malformed: dataset: ",
        ),
        (
            {"weight": torch.zeros(3)},
            metadata(architecture="ResNet"),
            "it holds a ResNet, and pipeline/mnist/model.py builds a CNN",
        ),
        (
            {"weight": torch.zeros(3)},
            {"info": metadata()["info"].replace("hidden", "width")},
            "its metadata is malformed: network.hidden: Field required",
        ),
        ({"weight": torch.zeros(3)}, metadata(), "of another CNN: conv1.bias, "),
        (
            CNN(NETWORK, 7).state_dict(),
            metadata(),
            "of another CNN: dense2.bias, dense2.wei",
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
    save_model(path, CNN(NETWORK, 10), NETWORK, INFO)
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
