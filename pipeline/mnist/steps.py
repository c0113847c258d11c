"""A network as steps that the report's page can repeat in a browser, read from its graph.

torch.fx follows the network's forward with a stand-in for the images. So functions between the
layers are seen, too, and sums of branches. A forward that looks at its images cannot be followed,
and not every layer can be repeated: then a sentence says why.
"""

import operator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pipeline.mnist.layers import Setting, Step, Weights

LARGEST = 600_000  # weights that the page holds: 1.6 MB of its 2.5
POINTWISE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Sigmoid, nn.Tanh, nn.SiLU)
SAME = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
MODULES: dict[Any, type[nn.Module]] = {  # what stands for a function
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, "relu", "relu_"), nn.ReLU),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, "sigmoid"), nn.Sigmoid),
    **dict.fromkeys((F.tanh, torch.tanh, "tanh"), nn.Tanh),
    F.leaky_relu: nn.LeakyReLU,
    F.elu: nn.ELU,
    F.silu: nn.SiLU,
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), nn.MaxPool2d),
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}
SUMS: set[Any] = {operator.add, operator.iadd, torch.add, "add", "add_"}
RESHAPES: set[Any] = {torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze}
RESHAPES |= {"flatten", "reshape", "view", "squeeze", "unsqueeze", "contiguous"}


class ObstacleError(Exception):
    """Why the page cannot repeat the network."""


@dataclass(frozen=True)
class Operation:
    kind: str
    settings: dict[str, Setting] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)


class Recorder(fx.Interpreter):
    """Runs a graph, and keeps what each node gives."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]


def describe_steps(
    network: nn.Module, images: Tensor
) -> tuple[tuple[Step, ...], tuple[Weights, ...], str]:
    """Return the network's steps and their weights, or neither and the obstacle.

    The network is in evaluation mode. `images` [E, 1, 28, 28] are some that it takes.
    """
    try:
        values = follow(network, images)
        shapes = {node: shape_of_one(value, len(images)) for node, value in values.items()}
        return *describe_nodes(network, shapes), ""
    except ObstacleError as obstacle:
        return (), (), str(obstacle)


def follow(network: nn.Module, images: Tensor) -> dict[fx.Node, Any]:
    """Return the nodes of the network's graph, in order, and what each gives for the images."""
    try:
        with torch.random.fork_rng(), torch.inference_mode():
            recorder = Recorder(fx.symbolic_trace(network))
            recorder.run(images)
    except Exception as error:  # a forward may do anything with what stands in for the images
        raise ObstacleError("its forward does more than call layers and functions") from error
    return recorder.values


def shape_of_one(value: Any, images: int) -> tuple[int, ...]:
    """The shape for one image; () if it is no batch."""
    is_batch = isinstance(value, Tensor) and value.ndim > 1 and len(value) == images
    return tuple(value.shape[1:]) if is_batch else ()


def describe_nodes(
    network: nn.Module, shapes: dict[fx.Node, tuple[int, ...]]
) -> tuple[tuple[Step, ...], tuple[Weights, ...]]:
    """Describe the nodes that the output needs, in the graph's order."""
    image, *_, end = shapes
    givens: dict[fx.Node, list[fx.Node]] = {image: []}  # what each takes
    pending = list(end.all_input_nodes)
    while pending:
        node = pending.pop()
        if node not in givens:
            givens[node] = inputs_of(node)
            pending += givens[node]
    ordered = [node for node in shapes if node in givens]
    names = name_nodes(list(shapes))
    steps, weights = [], []
    for node in ordered[1:]:
        before = [shapes[given] for given in givens[node]]
        operation = operation_of(network, node, before, shapes[node])
        weights.append(to_numpy(operation.weights))
        steps.append(
            Step(
                name=names[node],
                kind=operation.kind,
                inputs=tuple(ordered.index(given) for given in givens[node]),
                shape=shapes[node],
                settings=operation.settings,
                tensors=tuple(operation.weights),
            )
        )
    if (count := sum(values.size for step in weights for values in step.values())) > LARGEST:
        raise ObstacleError(f"it has {count:,} weights, and the page holds {LARGEST:,}")
    return tuple(steps), tuple(weights)


def inputs_of(node: fx.Node) -> list[fx.Node]:
    """The nodes whose values it takes: those that only give a shape are none."""
    count = 2 if node.target in SUMS else 1
    found = [value for value in node.args[:count] if isinstance(value, fx.Node)]
    if node.op == "get_attr":
        raise ObstacleError(f"it computes with {node.target} outside of its layers")
    if len(found) != count:
        raise ObstacleError(f"it calls the function {node.name}, which this page cannot compute")
    return found


def name_nodes(nodes: list[fx.Node]) -> dict[fx.Node, str]:
    """Name layers as `describe_layers` does, with a number from their second call on."""
    names: dict[fx.Node, str] = {}
    calls: dict[str, int] = {}
    for node in nodes:
        name = str(node.target) if node.op == "call_module" else node.name
        calls[name] = calls.get(name, 0) + 1
        names[node] = f"{name} ({calls[name]})" if calls[name] > 1 else name
    return names


def operation_of(
    network: nn.Module, node: fx.Node, before: list[tuple[int, ...]], after: tuple[int, ...]
) -> Operation:
    """Describe a node by the shapes of what it takes, and of what it gives."""
    found, kind = None, f"function {node.name}"
    module = None
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        kind = f"layer {node.target}, of the kind {type(module).__name__}"
    elif node.target in MODULES:
        module = MODULES[node.target](*node.args[1:], **node.kwargs)
    if after and all(before):
        if module:
            found = of_module(module, before[0], after)
        elif node.target in SUMS and before == [after, after] and not node.kwargs:
            found = Operation("Add")
        elif node.target in RESHAPES or (node.target is F.dropout and not node.kwargs["training"]):
            found = Operation("Same")
    if found is None:
        raise ObstacleError(f"it calls the {kind}, which this page cannot compute")
    return found


def of_module(
    module: nn.Module, before: tuple[int, ...], after: tuple[int, ...]
) -> Operation | None:
    """Describe a layer; None if it is not known."""
    match module:
        case nn.Conv2d(padding_mode="zeros"):
            return of_convolution(module)
        case nn.MaxPool2d(return_indices=False):
            return Operation("MaxPool2d", window_of(module, module.padding, module.dilation))
        case nn.AvgPool2d(padding=0 | (0, 0), ceil_mode=False, divisor_override=None):
            return Operation("AvgPool2d", window_of(module))
        case nn.AdaptiveAvgPool2d():
            return of_adaptive_pool(before, after)
        case nn.Linear() if len(before) == 1:
            return Operation("Linear", weights=weights_of(module))
        case nn.BatchNorm1d() | nn.BatchNorm2d() if module.running_var is not None:
            return of_norm(module)
        case _ if isinstance(module, POINTWISE):
            slope = getattr(module, "negative_slope", getattr(module, "alpha", 0.0))
            return Operation(type(module).__name__, {"slope": float(slope)})
        case _ if isinstance(module, SAME):
            return Operation("Same")
    return None


def of_convolution(layer: nn.Conv2d) -> Operation | None:
    padding: Any = 0 if layer.padding == "valid" else layer.padding
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(side % 2 for side in reach):
            return None  # PyTorch then pads one side more than the other
        padding = tuple(side // 2 for side in reach)
    settings = window_of(layer, padding, layer.dilation) | {"groups": layer.groups}
    return Operation("Conv2d", settings, weights_of(layer))


def of_adaptive_pool(before: tuple[int, ...], after: tuple[int, ...]) -> Operation | None:
    """The mean of equal rectangles, if they are equal."""
    if any(side % made for side, made in zip(before, after, strict=True)):
        return None
    rows, columns = (side // made for side, made in zip(before[1:], after[1:], strict=True))
    return Operation("AvgPool2d", window_of(nn.AvgPool2d((rows, columns))))


def of_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d) -> Operation:
    """In use it is a multiplication and an addition, the same for all numbers of a map."""
    assert layer.running_mean is not None and layer.running_var is not None
    scale = (layer.running_var + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight
    shift = -layer.running_mean * scale
    shift = shift if layer.bias is None else shift + layer.bias
    return Operation("BatchNorm", weights={"scale": scale.detach(), "shift": shift.detach()})


def window_of(layer: Any, padding: Any = 0, dilation: Any = 1) -> dict[str, Setting]:
    """How a window moves over a map, each as rows and columns."""
    values = {"kernel": layer.kernel_size, "stride": layer.stride}
    values |= {"padding": padding, "dilation": dilation}
    return {
        name: tuple(value) if isinstance(value, tuple) else (value, value)
        for name, value in values.items()
    }


def weights_of(layer: nn.Conv2d | nn.Linear) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in layer.named_parameters()}


def to_numpy(weights: dict[str, Tensor]) -> Weights:
    """Halve what is large: float16 has 11 bits for 24. Biases are few, and stay as they are."""
    found: Weights = {
        name: (values.half() if values.ndim > 1 else values.float()).cpu().numpy()
        for name, values in weights.items()
    }
    if not all(np.isfinite(values).all() for values in found.values()):
        raise ObstacleError("it has weights that are no numbers, or too large for float16")
    return found
