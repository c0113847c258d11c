"""What each layer makes of an image, and the file that holds it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import NETWORK
from networks import NETWORKS, Recurrent, Tied
from torch import nn

from pipeline.errors import DataError
from pipeline.mnist.inference import normalize
from pipeline.mnist.layers import LayerTrace, convolution_step, load_trace, save_trace
from pipeline.mnist.model import CNN
from pipeline.mnist.tensors import TensorInfo
from pipeline.mnist.tracing import trace_layers

INFO = TensorInfo(dataset="MNIST", classes=tuple("0123456789"), mean=0.5, std=0.5)
PATH = Path("layers.safetensors")


@pytest.fixture
def network() -> Any:
    torch.manual_seed(1)
    return CNN(NETWORK, 10).eval()


def images() -> torch.Tensor:
    return torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def look(network: Any) -> LayerTrace:
    return trace_layers(network, images(), np.array([3, 5]))


def test_the_layers_follow_the_shapes_and_count_every_parameter(network: Any) -> None:
    layers = look(network).info.layers
    assert [(layer.name, layer.shape, layer.parameters) for layer in layers] == [
        ("conv1", (32, 28, 28), 320),
        ("pool1", (32, 14, 14), 0),
        ("relu1", (32, 14, 14), 0),
        ("conv2", (64, 14, 14), 18_496),
        ("pool2", (64, 7, 7), 0),
        ("relu2", (64, 7, 7), 0),
        ("flatten", (3136,), 0),
        ("dense1", (128,), 401_536),
        ("relu3", (128,), 0),
        ("dense2", (10,), 1_290),
    ]
    assert layers[0].kind == "Conv2d"
    assert "padding=(1, 1)" in layers[0].settings


def test_every_output_is_the_layers_own(network: Any) -> None:
    """ReLU works in place; the output of the pooling before it is kept unchanged."""
    outputs = look(network).outputs
    convolved = F.conv2d(images(), network.conv1.weight, network.conv1.bias, padding=1)
    pooled = F.max_pool2d(convolved, 2)
    torch.testing.assert_close(torch.from_numpy(outputs["conv1"]), convolved.detach())
    torch.testing.assert_close(torch.from_numpy(outputs["pool1"]), pooled.detach())
    torch.testing.assert_close(torch.from_numpy(outputs["relu1"]), pooled.detach().relu())
    torch.testing.assert_close(torch.from_numpy(outputs["dense2"]), network(images()).detach())
    assert outputs["pool1"].min() < 0


def test_the_step_in_numbers_is_what_the_network_computes(network: Any) -> None:
    digits = torch.randint(
        0, 256, (5, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    trace = trace_layers(network, normalize(digits, INFO), np.arange(5))
    for example, digit in enumerate(digits.numpy()[:, 0]):
        step = convolution_step(trace, example, digit, INFO)
        assert step
        total = (np.array(step["pixels"]) * np.array(step["weights"])).sum() + step["bias"]
        assert total == pytest.approx(step["answer"], abs=1e-5)
        assert np.max(step["block"]) == step["answer"] == trace.outputs["conv1"][example].max()


def trace_of(network: nn.Module) -> LayerTrace:
    torch.manual_seed(1)
    return trace_layers(network.eval(), images(), np.array([3, 5]))


def test_a_layer_is_a_module_that_calls_no_other_one() -> None:
    trace = trace_of(Recurrent())
    assert [
        (layer.name, layer.input, layer.shape, layer.parameters) for layer in trace.info.layers
    ] == [
        ("relu", (), (), 0),
        ("rows", (), (), 2944),
        ("relu (2)", (16,), (16,), 0),
        ("dense", (16,), (10,), 170),
    ]
    assert list(trace.outputs) == ["relu (2)", "dense"]
    np.testing.assert_allclose(trace.logits, 2 * trace.outputs["dense"])
    [layer] = trace_of(Tied()).info.layers
    assert (layer.name, layer.shape, layer.parameters) == ("Tied", (10,), 7841)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_networks_layers_come_back_as_saved(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = NETWORKS[name]()
    trace = trace_of(network)
    save_trace(PATH, trace)
    loaded = load_trace(PATH)
    assert loaded.info == trace.info
    assert loaded.info.parameters == sum(value.numel() for value in network.parameters())
    assert loaded.filters is None
    torch.manual_seed(1)
    np.testing.assert_allclose(loaded.logits, network(images()).detach(), rtol=1e-5)


@pytest.mark.parametrize(
    ("layers", "has_filters", "pool"),
    [
        ([nn.Conv2d(1, 4, 5, bias=False), nn.MaxPool2d(3)], True, 3),
        ([nn.Conv2d(1, 4, 3, padding="same"), nn.MaxPool2d(2, stride=2)], True, 2),
        ([nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)], True, 0),
        ([nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(3, stride=1, padding=1)], True, 0),
        ([nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(3)], True, 0),  # a pixel is left over
        ([nn.Conv2d(1, 4, 3, stride=2)], False, 0),
        ([nn.Conv2d(1, 4, (3, 5))], False, 0),
        ([nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect")], False, 0),
        ([nn.ReLU(), nn.Conv2d(1, 4, 3)], False, 0),
    ],
)
def test_only_a_convolution_over_the_image_itself_is_shown_in_numbers(
    layers: list[nn.Module], has_filters: bool, pool: int
) -> None:
    digits = torch.randint(
        0, 256, (3, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    network = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))
    trace = trace_layers(network, normalize(digits, INFO), np.arange(3))
    assert (trace.filters is not None, trace.info.pool) == (has_filters, pool)
    for example, digit in enumerate(digits.numpy()[:, 0]):
        step = convolution_step(trace, example, digit, INFO)
        assert (step is not None) == has_filters
        if step:
            total = (np.array(step["pixels"]) * np.array(step["weights"])).sum() + step["bias"]
            assert total == pytest.approx(step["answer"], abs=1e-5)


def test_they_come_back_as_saved_in_the_same_bytes(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trace = look(network)
    save_trace(PATH, trace)
    before = PATH.read_bytes()
    loaded = load_trace(PATH)
    assert loaded.info == trace.info
    assert list(loaded.examples) == [3, 5]
    assert loaded.filters is not None
    assert np.array_equal(loaded.filters, network.conv1.weight.detach())
    assert all(
        np.array_equal(loaded.outputs[name], values) for name, values in trace.outputs.items()
    )
    save_trace(PATH, loaded)
    assert PATH.read_bytes() == before


def test_a_missing_or_damaged_file_is_one_line(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError,
        match=r"^layers.safetensors is missing; run the stage before this one: dvc repro",
    ):
        load_trace(PATH)
    save_trace(PATH, look(network))
    PATH.write_bytes(PATH.read_bytes()[:5000])
    with pytest.raises(
        DataError, match=r"^layers.safetensors is not what the evaluate stage writes [^\n]+$"
    ):
        load_trace(PATH)
