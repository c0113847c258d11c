"""Watch a network at work: which layers it calls, and what each computes."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.mnist.layers import Float32Array, Layer, LayersInfo, LayerTrace
from pipeline.mnist.steps import describe_steps


class Call(NamedTuple):
    """A call of a module that calls no other one."""

    module: nn.Module
    given: Tensor | None  # a copy of its first argument, on the CPU
    made: Tensor | None  # of what it returned, or of the first of several


def trace_layers(
    network: nn.Module, images: Tensor, examples: NDArray[np.int64], temperature: float = 1.0
) -> LayerTrace:
    """Pass the normalized `images` [E, 1, 28, 28] through the network; keep what each layer makes.

    The layers are in the order of their calls. `examples` are the images' indices in the test
    split; the network divides its logits by `temperature`.
    """
    calls, logits = record_calls(network, images)
    layers = describe_layers(network, calls, len(images))
    outputs = {
        layer.name: call.made.numpy()
        for layer, call in zip(layers, calls, strict=True)
        if call.made is not None and layer.shape
    }
    filters, biases = filters_of(calls[0], images)
    steps, weights, obstacle = describe_steps(network, images)
    info = LayersInfo(
        network=type(network).__name__,
        parameters=count_parameters(network),
        layers=tuple(layers),
        pool=side_of_pool(*calls[:2]) if filters is not None and len(calls) > 1 else 0,
        steps=steps,
        obstacle=obstacle,
        temperature=temperature,
    )
    return LayerTrace(info, examples, logits.numpy(), outputs, weights, filters, biases)


def describe_layers(network: nn.Module, calls: list[Call], images: int) -> list[Layer]:
    names = {module: name or type(network).__name__ for name, module in network.named_modules()}
    layers: list[Layer] = []
    for place, (module, given, made) in enumerate(calls):
        before = sum(call.module is module for call in calls[:place])
        layers.append(
            Layer(
                name=f"{names[module]} ({before + 1})" if before else names[module],
                kind=type(module).__name__,
                settings=module.extra_repr(),
                input=shape_of_one(given, images),
                shape=shape_of_one(made, images),
                parameters=0 if before else count_parameters(module),
            )
        )
    return layers


def record_calls(network: nn.Module, images: Tensor) -> tuple[list[Call], Tensor]:
    """Return the calls and the logits [E, classes]."""
    calls: list[Call] = []
    under_way: list[int] = []  # for each module that is being called: the calls recorded before

    def enter(module: nn.Module, inputs: Any) -> None:
        under_way.append(len(calls))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        if under_way.pop() == len(calls):
            calls.append(Call(module, copy_first(inputs), copy_first(output)))

    hooks = [
        hook
        for module in network.modules()
        for hook in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
    ]
    try:
        with torch.inference_mode():
            logits = network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return calls, logits.float().cpu()


def copy_first(values: Any) -> Tensor | None:
    """Copy a tensor, or the first of several: the next layer may work in place."""
    first = next(iter(values), None) if isinstance(values, tuple | list) else values
    if not isinstance(first, Tensor) or first.is_complex():
        return None
    return first.detach().to("cpu", torch.float32, copy=True)


def shape_of_one(values: Tensor | None, images: int) -> tuple[int, ...]:
    """The shape for one image; () if the first axis is not that of the images."""
    is_batch = values is not None and values.ndim > 1 and len(values) == images
    return tuple(values.shape[1:]) if values is not None and is_batch else ()


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def filters_of(call: Call, images: Tensor) -> tuple[Float32Array, Float32Array] | tuple[None, None]:
    """The filters [channels, 1, side, side] and biases [channels] of a convolution.

    None if the layer is no convolution that moves over the images pixel by pixel.
    """
    layer = call.module
    if (
        not isinstance(layer, nn.Conv2d)
        or not same(call.given, images)
        or (layer.stride, layer.dilation, layer.padding_mode) != ((1, 1), (1, 1), "zeros")
        or len(set(layer.kernel_size)) * len(set(pair(layer.padding))) != 1
        or (layer.padding == "same" and layer.kernel_size[0] % 2 == 0)
    ):
        return None, None
    filters, biases = layer.weight.detach(), layer.bias
    biases = filters.new_zeros(len(filters)) if biases is None else biases.detach()
    return filters.float().cpu().numpy(), biases.float().cpu().numpy()


def side_of_pool(convolution: Call, call: Call) -> int:
    """The side of the squares into which a pooling cuts the convolution's maps, or 0."""
    layer, given, made = call
    if not isinstance(layer, nn.MaxPool2d) or not same(given, convolution.made):
        return 0
    side = int(pair(layer.kernel_size)[0])
    cuts = pair(layer.kernel_size) == pair(layer.stride) == (side, side)
    fits = given is not None and made is not None and made.shape[-1] * side == given.shape[-1]
    return side if cuts and fits and pair(layer.dilation) == (1, 1) else 0


def pair(value: Any) -> tuple[Any, Any]:
    return (value[0], value[1]) if isinstance(value, tuple) else (value, value)


def same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one.cpu(), other.cpu())
