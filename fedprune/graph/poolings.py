"""Rules of poolings: the maximum or mean of what a window sees, or of all places."""

from __future__ import annotations

import math

from fedprune.graph import operations as ops
from fedprune.graph.autodiff import Value
from fedprune.graph.context import Context, Rules
from fedprune.graph.convolutions import as_image
from fedprune.graph.masks import masked_mean
from fedprune.graph.windows import Windows, average_pool, max_pool, windows_of
from fedprune.network.layers import GlobalPooling, Pooling, Statistic


def _pooling(context: Context, layer: Pooling, inputs: list[Value]) -> Value:
    x = as_image(context.tape, inputs[0])
    windows = windows_of(layer, x.shape)
    pool = max_pool if layer.statistic is Statistic.MAX else average_pool
    return ops.reshape(context.tape, pool(context.tape, x, windows), _places(inputs[0], windows, x.shape[-1]))


def _global_pooling(context: Context, layer: GlobalPooling, inputs: list[Value]) -> Value:
    x, *masks = inputs
    places = math.prod(x.shape[1:-1])
    flat = ops.reshape(context.tape, x, (x.shape[0], places, x.shape[-1]))
    if masks:
        y = masked_mean(context.tape, flat, masks[0].tensor)
    elif layer.statistic is Statistic.MAX:
        y = ops.max_over(context.tape, flat, 1)
    else:
        y = ops.scale(context.tape, ops.sum_over(context.tape, flat, 1), 1.0 / places)
    return ops.reshape(context.tape, y, (x.shape[0], *layer.output(x.shape[1:])))


def _places(x: Value, windows: Windows, channels: int) -> tuple[int, ...]:
    """The shape of an output: with rows where the input `x` has some."""
    rows = (windows.rows.out,) if len(x.shape) == 4 else ()
    return (x.shape[0], *rows, windows.columns.out, channels)


RULES: Rules = {GlobalPooling: _global_pooling, Pooling: _pooling}
