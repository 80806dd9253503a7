"""Descriptions that nobody thought of, of all kinds of layers, and weights for them: a strategy of hypothesis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, TensorTable
from fedprune.network import layers as kinds
from fedprune.network.description import Call, Network
from fedprune.network.layers import AnyLayer, Function, LayerError, Operation, Padding, Shape, Statistic

_MOST_SCALARS = 600
"""Of a value, so that a network runs in a moment."""
_FUNCTIONS = [function for function in Function if function is not Function.SOFTMAX]


class _Draft:
    """A network that grows. Values are numbers; `draw` chooses."""

    def __init__(self, draw: Callable[[Any], Any], shape: Shape) -> None:
        self.draw = draw
        self.layers: list[AnyLayer] = []
        self.calls: list[Call] = []
        self.shapes: list[Shape] = [shape]

    def one_of(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def channels(self) -> int:
        return int(self.draw(st.integers(2, 6)))

    def add(self, kind: type[Any], *inputs: int, **fields: Any) -> int:
        """A layer of a kind, whose tensors are called after it: those that `fields` gives as True are there."""
        name = f"{kind.__struct_config__.tag}{len(self.layers)}"
        for field in _TENSORS.intersection(fields):
            fields[field] = f"{name}/{field}" if fields[field] else None
        self.layers.append(kind(name=name, **fields))
        return self.call(len(self.layers) - 1, *inputs)

    def call(self, layer: int, *inputs: int) -> int:
        shape = self.layers[layer].output(*(self.shapes[number] for number in inputs))
        self.calls.append(Call(layer, inputs))
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def network(self, output: int) -> Network:
        return Network("drawn", (self.shapes[0],), tuple(self.layers), tuple(self.calls), (output,))


_TENSORS = {
    "kernel", "bias", "gamma", "beta", "mean", "variance", "recurrent", "table", "query_kernel", "key_kernel",
    "value_kernel", "output_kernel", "query_bias", "key_bias", "value_bias", "output_bias",
}  # fmt: skip

_Block = Callable[[_Draft, int], int]
"""From a value to another. Raises `LayerError` where it takes none like it."""


def _dense(draft: _Draft, x: int, units: int | None = None) -> int:
    return draft.add(kinds.Dense, x, units=units or draft.channels(), kernel=True, bias=draft.one_of(True, True, False))


def _activation(draft: _Draft, x: int) -> int:
    function = draft.one_of(*_FUNCTIONS, *[Function.RELU, Function.SIGMOID] * 5)
    slope = 0.3 if function in (Function.ELU, Function.LEAKY_RELU) else 0.0
    return draft.add(kinds.Activation, x, function=function, slope=slope)


def _softmax(draft: _Draft, x: int) -> int:
    return draft.add(kinds.Activation, x, function=Function.SOFTMAX)


def _normalization(draft: _Draft, x: int) -> int:
    flags = {"gamma": draft.one_of(True, False), "beta": draft.one_of(True, False)}
    match draft.one_of(*["batch"] * 4, "layer", "group", "unit"):
        case "batch":
            moved = {"mean": True, "variance": True, "unbiased": False, "momentum": 0.9}
            return draft.add(kinds.BatchNormalization, x, epsilon=1e-3, **moved, **flags)
        case "layer":
            return draft.add(kinds.LayerNormalization, x, axes=1, epsilon=1e-2, **flags)
        case "group":
            channels = draft.shapes[x][-1]
            groups = draft.one_of(*(each for each in (1, 2, 3, channels) if channels % each == 0))
            return draft.add(kinds.GroupNormalization, x, groups=groups, epsilon=1e-2, **flags)
    return draft.add(kinds.UnitNormalization, x)


def _rescaling(draft: _Draft, x: int) -> int:
    scale = draft.one_of((0.5,), tuple(0.5 + 0.1 * number for number in range(draft.shapes[x][-1])))
    return draft.add(kinds.Rescaling, x, scale=scale, offset=draft.one_of((0.0,), (-0.25,)))


def _noise(draft: _Draft, x: int) -> int:
    return (
        draft.add(kinds.Dropout, x, rate=0.3)
        if draft.one_of(True, False)
        else draft.add(kinds.GaussianNoise, x, deviation=0.1)
    )


def _join(draft: _Draft, x: int) -> int:
    """With a branch of as many channels, or beside one of others."""
    match draft.one_of("add", "add", "merge", "concatenate", "pair"):
        case "add":
            return draft.add(kinds.Add, _activation(draft, _dense(draft, x, draft.shapes[x][-1])), x)
        case "merge":
            other = _dense(draft, x, draft.one_of(draft.shapes[x][-1], draft.shapes[x][-1], 1))
            return draft.add(kinds.Merge, x, other, operation=draft.one_of(*Operation))
        case "pair":
            units = draft.channels()
            ends = [_activation(draft, _dense(draft, x, units)) for _ in range(2)]
            return draft.add(kinds.Add, *ends)
    return draft.add(kinds.Concatenate, x, _activation(draft, _dense(draft, x)), axis=len(draft.shapes[x]) - 1)


def _side_by_side(draft: _Draft, x: int) -> int:
    """Places of one value after those of another."""
    return draft.add(kinds.Concatenate, x, _activation(draft, _dense(draft, x, draft.shapes[x][-1])), axis=0)


def _shared(draft: _Draft, x: int) -> int:
    """A layer that is called twice."""
    first = _dense(draft, x, draft.shapes[x][-1])
    return draft.call(draft.calls[-1].layer, _activation(draft, first))


def _excitation(draft: _Draft, x: int) -> int:
    """Channels times what all of them say (Hu et al. 2018, squeeze and excitation)."""
    means = draft.add(kinds.GlobalPooling, x, statistic=Statistic.MEAN, keep_axes=True)
    hidden = draft.add(kinds.Activation, _dense(draft, means), function=Function.RELU)
    gate = draft.add(kinds.Activation, _dense(draft, hidden, draft.shapes[x][-1]), function=Function.SIGMOID)
    return draft.add(kinds.Merge, x, gate, operation=Operation.MULTIPLY)


def _windows(draft: _Draft, x: int, *, dilates: bool) -> dict[str, Any]:
    axes = len(draft.shapes[x]) - 1
    size = tuple(draft.draw(st.integers(1, 3)) for _ in range(axes))
    apart = draft.one_of(1, 1, 2) if dilates else 1
    strides = (1 if apart > 1 else draft.one_of(1, 1, 2),) * axes
    padding = draft.one_of(Padding.VALID, Padding.SAME)
    return {"size": size, "strides": strides, "padding": padding} | ({"dilation": (apart,) * axes} if dilates else {})


def _convolution(draft: _Draft, x: int) -> int:
    windows = _windows(draft, x, dilates=True)
    if len(draft.shapes[x]) == 2 and draft.one_of(True, False, False):
        windows["padding"] = Padding.CAUSAL
    groups = draft.one_of(1, 1, 1, *([2] if draft.shapes[x][-1] % 2 == 0 else []))
    filters = draft.channels() * groups
    bias = draft.one_of(True, True, False)
    return draft.add(kinds.Convolution, x, filters=filters, groups=groups, kernel=True, bias=bias, **windows)


def _transposed(draft: _Draft, x: int) -> int:
    windows = _windows(draft, x, dilates=False)
    return draft.add(kinds.TransposedConvolution, x, filters=draft.channels(), kernel=True, bias=True, **windows)


def _depthwise(draft: _Draft, x: int) -> int:
    windows = _windows(draft, x, dilates=True)
    return draft.add(
        kinds.DepthwiseConvolution,
        x,
        multiplier=draft.one_of(1, 2),
        kernel=True,
        bias=draft.one_of(True, False),
        **windows,
    )


def _pooling(draft: _Draft, x: int) -> int:
    return draft.add(kinds.Pooling, x, statistic=draft.one_of(*Statistic), **_windows(draft, x, dilates=False))


def _places(draft: _Draft, x: int) -> int:
    axes = len(draft.shapes[x]) - 1
    match draft.one_of("pad", "crop", "enlarge", "bilinear"):
        case "pad":
            return draft.add(kinds.ZeroPadding, x, padding=((1, 0),) * axes)
        case "crop":
            return draft.add(kinds.Cropping, x, cropping=((0, 1),) * axes)
        case bilinear:
            return draft.add(kinds.Upsampling, x, size=(2,) * axes, bilinear=bilinear == "bilinear")


def _permute(draft: _Draft, x: int) -> int:
    return draft.add(kinds.Permute, x, axes=tuple(draft.draw(st.permutations(range(len(draft.shapes[x]))))))


def _cell(draft: _Draft, x: int, *, sequences: bool = True, mask: int | None = None) -> int:
    kind = draft.one_of(kinds.GRU, kinds.LSTM, kinds.SimpleRNN)
    more = {"reset_after": draft.one_of(True, False)} if kind is kinds.GRU else {}
    flags = {"bias": draft.one_of(True, True, False), "backwards": draft.one_of(True, False)}
    inputs = (x,) if mask is None else (x, mask)
    return draft.add(
        kind, *inputs, units=draft.channels(), kernel=True, recurrent=True, sequences=sequences, **flags, **more
    )


def _attention(draft: _Draft, x: int, *, mask: int | None = None) -> int:
    bias = draft.one_of(True, False)
    other = _activation(draft, _dense(draft, x)) if draft.one_of(True, False) else x
    parts = ("query", "key", "value", "output")
    tensors = {f"{part}_kernel": True for part in parts} | {f"{part}_bias": bias for part in parts}
    inputs = (x, other) if mask is None else (x, other, mask)
    return draft.add(
        kinds.MultiHeadAttention, *inputs, heads=draft.one_of(1, 2, 3), key_size=2, value_size=draft.one_of(2, 3),
        units=draft.channels(), causal=draft.one_of(True, False), masked_keys=mask is not None, **tensors,
    )  # fmt: skip


def _reversal(draft: _Draft, x: int) -> int:
    return draft.add(kinds.Reversal, x)


def _dot(draft: _Draft, x: int) -> int:
    return draft.add(kinds.Dot, x, _dense(draft, x, draft.shapes[x][-1]), axes=(1, 1))


def _masked(draft: _Draft, x: int) -> int:
    mask = draft.add(kinds.StepMask, x, padding=0.0)
    x = _activation(draft, _dense(draft, x))
    match draft.one_of("cell", "attention", "mean"):
        case "cell":
            return _cell(draft, x, mask=mask)
        case "attention":
            return _attention(draft, x, mask=mask)
    mean = draft.add(kinds.GlobalPooling, x, mask, statistic=Statistic.MEAN)
    row = draft.add(kinds.Reshape, mean, shape=(1, draft.shapes[mean][0]))
    return draft.add(kinds.Merge, x, row, operation=Operation.MULTIPLY)


def _rows(draft: _Draft, x: int) -> int:
    *places, channels = draft.shapes[x]
    return draft.add(kinds.Reshape, x, shape=(math.prod(places), channels))


_EVERYWHERE: list[_Block] = [
    _dense, _dense, _activation, _activation, _activation, _normalization, _normalization, _rescaling, _noise, _join,
    _join, _shared, _softmax,
]  # fmt: skip
_OVER_PLACES: list[_Block] = [
    _convolution, _convolution, _convolution, _transposed, _depthwise, _pooling, _places, _permute, _excitation,
    _side_by_side,
]  # fmt: skip
_OVER_STEPS: list[_Block] = [_cell, _cell, _attention, _attention, _reversal, _dot, _masked]
_BLOCKS: dict[int, list[_Block]] = {
    1: _EVERYWHERE,
    2: [*_EVERYWHERE, *_OVER_PLACES, *_OVER_STEPS],
    3: [*_EVERYWHERE, *_OVER_PLACES, *_OVER_PLACES, _rows],
}


def _end(draft: _Draft, x: int) -> int:
    """Rows of what is left, and a layer of outputs."""
    shape = draft.shapes[x]
    if len(shape) > 1 and draft.one_of(True, False):
        x = draft.add(kinds.GlobalPooling, x, statistic=draft.one_of(*Statistic))
    elif len(shape) == 2 and draft.one_of(True, False):
        x = _cell(draft, x, sequences=False)
    else:
        x = draft.add(kinds.Reshape, x, shape=(math.prod(shape),))
    return _dense(draft, x)


@st.composite
def drawn_networks(draw: Callable[[Any], Any]) -> Network:
    """Networks of images, series, rows or ids, of up to ten blocks."""
    shape = draw(st.sampled_from([(6, 5, 2), (8, 8, 1), (7, 3), (6, 4), (5,), None]))
    draft = _Draft(draw, (6,) if shape is None else shape)
    x = 0
    if shape is None:
        x = draft.add(kinds.Embedding, 0, vocabulary=9, units=draft.channels(), table=True)
        if draw(st.booleans()):
            x = _cell(draft, x, mask=draft.add(kinds.IdMask, 0))
    for _ in range(draw(st.integers(2, 10))):
        layers, calls, shapes = len(draft.layers), len(draft.calls), len(draft.shapes)
        block = draw(st.sampled_from(_BLOCKS[len(draft.shapes[x])]))
        try:
            after = block(draft, x)
            fits = max(map(math.prod, draft.shapes[shapes:])) <= _MOST_SCALARS
        except LayerError:
            fits = False
        if fits:
            x = after
        else:  # another one then
            del draft.layers[layers:], draft.calls[calls:], draft.shapes[shapes:]
    return draft.network(_end(draft, x))


def drawn_weights(table: TensorTable, seed: int) -> dict[str, Array]:
    """Weights of both signs, as large as keeps values at the size of 1; variances are positive."""
    keyed = Keyed(seed, "drawn weights")
    weights = {}
    for spec in table:
        low, high = (0.5, 1.5) if spec.name.endswith("/variance") else (-1.0, 1.0)
        scale = math.sqrt(3.0 / max(1, math.prod(spec.shape[:-1]))) if len(spec.shape) > 1 else 1.0
        weights[spec.name] = (keyed.uniform(spec.size, low, high) * np.float32(scale)).reshape(spec.shape)
    return weights


def drawn_inputs(network: Network, count: int) -> Array:
    """Examples of a network of one input: numbers, or ids."""
    (form,) = network.input_forms
    keyed = Keyed(0, "drawn inputs")
    size = count * math.prod(form.shape)
    if form.vocabulary is None:
        return keyed.uniform(size, -1.0, 1.0).reshape(count, *form.shape)
    return (keyed.integers(size) % np.uint64(form.vocabulary)).astype(np.int32).reshape(count, *form.shape)
