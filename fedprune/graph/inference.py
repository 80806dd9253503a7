"""From a network's description and weights to its inference graph: the weights are constants in it.

Writing it anew for other weights takes less than running it on a batch with weights as inputs would cost: runtimes
are slow on filters that are not constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.context import Context
from fedprune.graph.graph import Graph, Tensor
from fedprune.graph.recurrent_inference import infer_recurrent
from fedprune.graph.rules import Pending, apply_layer
from fedprune.model.tensors import Weights
from fedprune.network import layers as kinds
from fedprune.network.description import Network
from fedprune.network.layers import Function, Padding, Shape, Statistic

SIGNATURE = "serving_default"

_LARGEST_BATCH = 50
"""More is no faster, and needs more memory."""
_TENSOR_BYTES = 8 * 2**20
"""Bytes that the largest tensor of a batch may take, so that a gateway evaluates in little memory."""


def inference_batch(network: Network) -> int:
    """The number of examples to infer at once: the fewer the larger the network's values are."""
    largest = max(map(math.prod, (*network.shapes(), *_scores(network)))) * np.dtype(np.float32).itemsize
    return min(max(_TENSOR_BYTES // largest, 1), _LARGEST_BATCH)


def _scores(network: Network) -> Iterator[Shape]:
    """The shapes of what attention makes within: a score for each head, place, and place that it looks up."""
    shapes = network.shapes()
    for layer, call in network.steps():
        if isinstance(layer, kinds.MultiHeadAttention):
            query, _, key, *_ = layer.roles([shapes[value] for value in call.inputs])
            yield layer.heads, query[0], key[0]


def graph_names(network: Network) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of an inference graph's inputs and of its outputs, in the network's order."""
    inputs, outputs = range(len(network.inputs)), range(len(network.outputs))
    return tuple(f"x{number}" for number in inputs), tuple(f"y{number}" for number in outputs)


def write_inference_graph(network: Network, weights: Weights, batch_size: int, *, as_trained: bool = False) -> bytes:
    """`network`, which was checked, as a TFLite file: ``x0`` … `[batch_size, ...]` to ``y0`` …, float32 (ids int32).

    With `as_trained` each layer computes as it does in training, which is slower, and what the other is compared with.
    Raises `TaskError` if the graph would be too large.
    """
    writer = _Writer(Graph(), weights)
    inputs, outputs = graph_names(network)
    values = [
        writer.graph.input(name, (batch_size, *shape), vocabulary)
        for name, shape, vocabulary in zip(inputs, network.inputs, network.vocabularies, strict=True)
    ]
    for layer, call in network.steps():
        rule = _as_trained if as_trained else _RULES.get(type(layer), _as_trained)
        values.append(rule(writer, layer, [values[number] for number in call.inputs]))
    answers = zip(outputs, network.outputs, strict=True)
    return writer.graph.finish(SIGNATURE, {name: values[value] for name, value in answers})


@dataclass(frozen=True)
class _Writer:
    graph: Graph
    weights: Weights

    def constant(self, array: NDArray[Any]) -> Tensor:
        return self.graph.constant(np.ascontiguousarray(array, np.float32))

    def bias(self, name: str | None, size: int) -> Tensor:
        return self.constant(self.weights[name] if name else np.zeros(size))


def _as_trained(writer: _Writer, layer: kinds.AnyLayer, inputs: list[Tensor]) -> Tensor:
    """The layer by its training rule, with training turned off."""
    tape = Tape(writer.graph)

    def weight(name: str) -> Value:
        return tape.leaf(writer.constant(writer.weights[name]), differentiable=False)

    values = [Pending(tape.leaf(x, differentiable=False)) for x in inputs]
    return apply_layer(Context(tape, weight), layer, values).get().tensor


def _dense(writer: _Writer, layer: kinds.Dense, inputs: list[Tensor]) -> Tensor:
    (x,) = inputs
    rows = writer.graph.reshape(x, (x.size // x.shape[-1], x.shape[-1]))
    kernel = writer.constant(writer.weights[layer.kernel].T)
    y = writer.graph.fully_connect(rows, kernel, writer.bias(layer.bias, layer.units))
    return writer.graph.reshape(y, (*x.shape[:-1], layer.units))


def _convolution(writer: _Writer, layer: kinds.Convolution, inputs: list[Tensor]) -> Tensor:
    if layer.is_dilated or layer.groups > 1:
        return _as_trained(writer, layer, inputs)
    kernel = _with_rows(writer.weights[layer.kernel])
    filters, bias = writer.constant(np.moveaxis(kernel, -1, 0)), writer.bias(layer.bias, layer.filters)
    y = writer.graph.convolve(_image(writer, layer, inputs[0]), filters, bias, **_windows(layer))
    return _without_rows(writer, y, inputs[0])


def _depthwise(writer: _Writer, layer: kinds.DepthwiseConvolution, inputs: list[Tensor]) -> Tensor:
    if layer.is_dilated:
        return _as_trained(writer, layer, inputs)
    kernel = _with_rows(writer.weights[layer.kernel])
    filters = writer.constant(kernel.reshape(1, *kernel.shape[:2], -1))
    bias = writer.bias(layer.bias, filters.shape[-1])
    y = writer.graph.convolve_each(_image(writer, layer, inputs[0]), filters, bias, **_windows(layer))
    return _without_rows(writer, y, inputs[0])


def _pooling(writer: _Writer, layer: kinds.Pooling, inputs: list[Tensor]) -> Tensor:
    pool = writer.graph.max_pool if layer.statistic is Statistic.MAX else writer.graph.average_pool
    y = pool(_image(writer, layer, inputs[0]), _over_rows(layer.size), **_windows(layer))
    return _without_rows(writer, y, inputs[0])


def _batch_normalization(writer: _Writer, layer: kinds.BatchNormalization, inputs: list[Tensor]) -> Tensor:
    mean, variance = (writer.weights[name].astype(np.float64) for name in (layer.mean, layer.variance))
    gamma = writer.weights[layer.gamma] if layer.gamma else 1.0
    beta = writer.weights[layer.beta] if layer.beta else 0.0
    factor = gamma / np.sqrt(variance + layer.epsilon)
    scaled = writer.graph.multiply(inputs[0], writer.constant(factor))
    return writer.graph.add(scaled, writer.constant(beta - mean * factor))


def _activation(writer: _Writer, layer: kinds.Activation, inputs: list[Tensor]) -> Tensor:
    """Where runtimes have no operator, or one that is less exact than it could be, the function as it trains."""
    (x,), graph = inputs, writer.graph
    if layer.function is Function.LEAKY_RELU:
        return graph.leaky_relu(x, layer.slope)
    functions: dict[Function, Callable[[Tensor], Tensor]] = {
        Function.RELU: graph.relu,
        Function.RELU6: graph.relu6,
        Function.SIGMOID: graph.logistic,
        Function.SOFTMAX: graph.softmax,
        Function.TANH: graph.tanh,
    }
    return functions[layer.function](x) if layer.function in functions else _as_trained(writer, layer, inputs)


def _image(writer: _Writer, layer: kinds.Windowed, x: Tensor) -> Tensor:
    """The image that windows move over: a series is one row. TFLite knows no causal padding."""
    if layer.padding is Padding.CAUSAL:
        x = writer.graph.pad(x, {1: (layer.size[0] - 1, 0)})
    return writer.graph.reshape(x, (x.shape[0], 1, *x.shape[1:])) if len(x.shape) == 3 else x


def _without_rows(writer: _Writer, y: Tensor, x: Tensor) -> Tensor:
    """`y` as a series again if `x` is one."""
    return writer.graph.reshape(y, (y.shape[0], *y.shape[2:])) if len(x.shape) == 3 else y


def _with_rows(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    return kernel[np.newaxis] if kernel.ndim == 3 else kernel


def _over_rows(sizes: tuple[int, ...]) -> tuple[int, int]:
    return (sizes[0], sizes[1]) if len(sizes) == 2 else (1, sizes[0])


def _windows(layer: kinds.Windowed) -> dict[str, Any]:
    return {"strides": _over_rows(layer.strides), "same": layer.padding is Padding.SAME}


def _recurrent(writer: _Writer, layer: kinds.Recurrent, inputs: list[Tensor]) -> Tensor:
    return infer_recurrent(writer.graph, layer, writer.weights, *inputs)


_RULES: dict[type, Callable[[_Writer, Any, list[Tensor]], Tensor]] = {
    kinds.GRU: _recurrent,
    kinds.LSTM: _recurrent,
    kinds.Activation: _activation,
    kinds.BatchNormalization: _batch_normalization,
    kinds.Convolution: _convolution,
    kinds.Dense: _dense,
    kinds.DepthwiseConvolution: _depthwise,
    kinds.Pooling: _pooling,
    kinds.SimpleRNN: _recurrent,
}
"""The layers that runtimes have a fast operator for, or that are less work with constant weights."""
