"""Rules of convolutions: patches of images times a matrix. Layers over one axis are layers over images of one row."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import msgspec

from fedprune.graph import operations as ops
from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.context import Context, Rules, with_bias
from fedprune.graph.shapes import slice_along, transpose
from fedprune.graph.windows import convolution_patches, depthwise_convolution, scatter_patches, windows_of
from fedprune.network.layers import Convolution, DepthwiseConvolution, Dilated, Padding, TransposedConvolution

_Dilated = TypeVar("_Dilated", bound=Dilated)


def _convolution(context: Context, layer: Convolution, inputs: list[Value]) -> Value:
    """Without the bias, which may wait (`fedprune.graph.rules`). Each group of channels has filters of its own."""
    tape, kernel = context.tape, context.weight(layer.kernel)
    channels, filters = kernel.shape[-2], layer.filters // layer.groups

    def convolve(layer: Convolution, image: Value) -> Value:
        windows = windows_of(layer, image.shape)
        groups = []
        for group in range(layer.groups):
            own = slice_along(tape, kernel, len(kernel.shape) - 1, group * filters, filters)
            matrix = ops.reshape(tape, own, (math.prod(own.shape[:-1]), filters))
            seen = slice_along(tape, image, 3, group * channels, channels)
            y = ops.matmul(tape, convolution_patches(tape, seen, windows), matrix)
            groups.append(ops.reshape(tape, y, (image.shape[0], windows.rows.out, windows.columns.out, filters)))
        return groups[0] if len(groups) == 1 else ops.concatenate(tape, groups, 3)

    return _as_output(tape, layer, inputs[0], _over_phases(tape, layer, as_image(tape, inputs[0]), convolve))


def _depthwise(context: Context, layer: DepthwiseConvolution, inputs: list[Value]) -> Value:
    """With a multiplier, channels are repeated."""
    tape, kernel = context.tape, context.weight(layer.kernel)
    image = ops.repeat_channels(tape, as_image(tape, inputs[0]), layer.multiplier)

    def convolve(layer: DepthwiseConvolution, image: Value) -> Value:
        windows = windows_of(layer, image.shape)
        filters = ops.reshape(tape, kernel, (windows.taps, image.shape[3]))
        return depthwise_convolution(tape, image, filters, windows)

    y = _as_output(tape, layer, inputs[0], _over_phases(tape, layer, image, convolve))
    return with_bias(context, layer, y)


def _transposed_convolution(context: Context, layer: TransposedConvolution, inputs: list[Value]) -> Value:
    """The gradient of a convolution: each place becomes what a window over the output holds, and windows add up."""
    (x,) = inputs
    tape, kernel, shape = context.tape, context.weight(layer.kernel), layer.output(x.shape[1:])
    image = (x.shape[0], *((1,) if len(shape) == 2 else ()), *shape)
    channels = x.shape[-1]
    count, width = x.tensor.size // channels, kernel.tensor.size // channels
    rows = ops.reshape(tape, x, (*ops.in_blocks(count), channels))
    matrix = transpose(tape, ops.reshape(tape, kernel, (width, channels)), 1, 0)
    patches = ops.reshape(tape, ops.matmul(tape, rows, matrix), (count, width))
    y = scatter_patches(tape, patches, windows_of(layer, image), image)
    return with_bias(context, layer, ops.reshape(tape, y, (x.shape[0], *shape)))


def as_image(tape: Tape, x: Value) -> Value:
    """The image that windows move over: a series is one row."""
    return ops.reshape(tape, x, (x.shape[0], 1, *x.shape[1:])) if len(x.shape) == 3 else x


def _as_output(tape: Tape, layer: Dilated, x: Value, y: Value) -> Value:
    return ops.reshape(tape, y, (x.shape[0], *layer.output(x.shape[1:])))


def _over_phases(tape: Tape, layer: _Dilated, x: Value, convolve: Callable[[_Dilated, Value], Value]) -> Value:
    """What `convolve` makes of an image for the layer.

    A dilated window sees every d-th place. So the places of an image are dealt out in turn to d images a dimension
    (its *phases*), over which a window that is not dilated moves; what it makes is put together again.
    """
    if not layer.is_dilated:
        return convolve(layer, x)
    n = x.shape[0]
    size, (down, across) = ((1,) * (2 - len(each)) + each for each in (layer.size, layer.dilation))
    out, pads = [], {}
    for axis, entries, apart in ((1, size[0], down), (2, size[1], across)):
        length, reach = x.shape[axis], (entries - 1) * apart
        before = {Padding.VALID: 0, Padding.SAME: reach // 2, Padding.CAUSAL: reach}[layer.padding]
        out.append(length - reach if layer.padding is Padding.VALID else length)
        whole = -(-(out[-1] + reach) // apart) * apart
        pads[axis] = (before, whole - before - length)
    x = ops.pad(tape, x, pads)
    _, height, width, channels = x.shape
    rows, columns = height // down, width // across
    x = ops.reshape(tape, x, (n, rows, down, width * channels))
    x = ops.reshape(tape, transpose(tape, x, 0, 2, 1, 3), (n * down, rows, columns, across, channels))
    x = ops.reshape(tape, transpose(tape, x, 0, 3, 1, 2, 4), (n * down * across, rows, columns, channels))
    y = convolve(msgspec.structs.replace(layer, padding=Padding.VALID, dilation=()), x)
    _, rows, columns, filters = y.shape
    y = transpose(tape, ops.reshape(tape, y, (n * down, across, rows, columns, filters)), 0, 2, 3, 1, 4)
    y = transpose(tape, ops.reshape(tape, y, (n, down, rows, columns * across * filters)), 0, 2, 1, 3)
    y = ops.reshape(tape, y, (n, rows * down, columns * across, filters))
    return slice_along(tape, slice_along(tape, y, 1, 0, out[0]), 2, 0, out[1])


RULES: Rules = {
    Convolution: _convolution,
    DepthwiseConvolution: _depthwise,
    TransposedConvolution: _transposed_convolution,
}
