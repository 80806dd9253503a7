"""Rules of layers that move numbers, and compute at most means of neighbours."""

from __future__ import annotations

import math

import numpy as np

from fedprune.graph import operations as ops
from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.context import Context, Rules
from fedprune.model.tensors import Array
from fedprune.network.layers import Concatenate, Cropping, Permute, Reshape, Upsampling, ZeroPadding


def _reshape(context: Context, layer: Reshape, inputs: list[Value]) -> Value:
    return ops.reshape(context.tape, inputs[0], (inputs[0].shape[0], *layer.shape))


def _zero_padding(context: Context, layer: ZeroPadding, inputs: list[Value]) -> Value:
    return ops.pad(context.tape, inputs[0], dict(enumerate(layer.padding, start=1)))


def _concatenate(context: Context, layer: Concatenate, inputs: list[Value]) -> Value:
    return ops.concatenate(context.tape, inputs, layer.axis + 1)


def _cropping(context: Context, layer: Cropping, inputs: list[Value]) -> Value:
    (x,) = inputs
    for axis, (before, after) in enumerate(layer.cropping, start=1):
        x = slice_along(context.tape, x, axis, before, x.shape[axis] - before - after)
    return x


def _upsampling(context: Context, layer: Upsampling, inputs: list[Value]) -> Value:
    (x,) = inputs
    enlarge = _interpolate if layer.bilinear else _repeat
    for axis, times in enumerate(layer.size, start=1):
        x = enlarge(context.tape, x, axis, times)
    return x


def _permute(context: Context, layer: Permute, inputs: list[Value]) -> Value:
    return transpose(context.tape, inputs[0], 0, *(axis + 1 for axis in layer.axes))


def slice_along(tape: Tape, x: Value, axis: int, begin: int, size: int) -> Value:
    """`size` entries from `begin` on along one axis."""
    graph, after = tape.graph, x.shape[axis] - begin - size
    y = graph.slice(x.tensor, axis, begin, size)
    return x if y is x.tensor else tape.record(y, (x, lambda d: graph.pad(d, {axis: (begin, after)})))


def transpose(tape: Tape, x: Value, *axes: int) -> Value:
    """`x` with its axes in another order, that of examples among them."""
    if axes == tuple(range(len(axes))):
        return x
    graph, back = tape.graph, np.argsort(axes).tolist()
    return tape.record(graph.transpose(x.tensor, *axes), (x, lambda d: graph.transpose(d, *back)))


def _repeat(tape: Tape, x: Value, axis: int, times: int) -> Value:
    """Each entry along an axis `times` in a row."""
    if times == 1:
        return x
    graph, inner = tape.graph, math.prod(x.shape[axis + 1 :])
    rows = ops.reshape(tape, x, (x.tensor.size // inner, 1, inner))
    copies = graph.constant(np.ones((1, times, 1), np.float32))
    repeated = tape.record(graph.multiply(rows.tensor, copies), (rows, lambda d: graph.sum(d, 1)))
    return ops.reshape(tape, repeated, (*x.shape[:axis], x.shape[axis] * times, *x.shape[axis + 1 :]))


def _interpolate(tape: Tape, x: Value, axis: int, times: int) -> Value:
    """Means of the two entries that are nearest along an axis, as one matrix product for all that lies beside it."""
    if times == 1:
        return x
    graph, length = tape.graph, x.shape[axis]
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    rows = ops.reshape(tape, x, (math.prod(before), length, math.prod(after)))
    shares = graph.constant(_nearest_two(length, times))
    y = tape.record(graph.matmul(shares, rows.tensor), (rows, lambda d: graph.matmul(shares, d, transpose_a=True)))
    return ops.reshape(tape, y, (*before, length * times, *after))


def _nearest_two(length: int, times: int) -> Array:
    """What each of `length` entries gives to each of `times` as many: float32 `[length * times, length]`.

    Places are computed in float32, as TensorFlow does: it would show in an image of a hundred pixels.
    """
    half, scale = np.float32(0.5), np.float32(length) / np.float32(length * times)
    places = (np.arange(length * times, dtype=np.float32) + half) * scale - half
    first = np.floor(places)
    share = places - first
    shares, rows = np.zeros((length * times, length), np.float32), np.arange(length * times)
    for entry, part in ((first, np.float32(1.0) - share), (first + 1.0, share)):
        np.add.at(shares, (rows, np.clip(entry, 0, length - 1).astype(np.intp)), part)
    return shares


RULES: Rules = {
    Concatenate: _concatenate,
    Cropping: _cropping,
    Permute: _permute,
    Reshape: _reshape,
    Upsampling: _upsampling,
    ZeroPadding: _zero_padding,
}
