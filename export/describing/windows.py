"""Readers of layers with windows: convolutions and poolings. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from export.describing.draft import Draft
from export.describing.functions import activate
from export.describing.refusal import require
from fedprune.network import layers as network
from fedprune.network.layers import Padding, Statistic

_Reader = Callable[[Draft, Any, list[int]], int]


def convolution(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    y = draft.add(
        layer,
        network.Convolution,
        x,
        filters=layer.filters,
        groups=layer.groups,
        kernel=draft.tensor(layer, "kernel"),
        bias=draft.bias(layer),
        **_windows(layer, layer.kernel_size),
    )
    return activate(draft, layer, y, layer.activation)


def transposed(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    require(layer, output_padding=None, dilation_rate=(1,) * len(layer.kernel_size))
    y = draft.add(
        layer,
        network.TransposedConvolution,
        x,
        filters=layer.filters,
        kernel=draft.tensor(layer, "kernel"),
        bias=draft.bias(layer),
        **_windows(layer, layer.kernel_size),
    )
    return activate(draft, layer, y, layer.activation)


def depthwise(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    y = _each_channel(draft, layer, x, part="", bias=draft.bias(layer))
    return activate(draft, layer, y, layer.activation)


def separable(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    y = _each_channel(draft, layer, x, part="depthwise", bias=None)
    once = (1,) * len(layer.kernel_size)
    y = draft.add(
        layer,
        network.Convolution,
        y,
        part="pointwise",
        filters=layer.filters,
        kernel=draft.tensor(layer, "pointwise_kernel"),
        bias=draft.bias(layer),
        size=once,
        strides=once,
    )
    return activate(draft, layer, y, layer.activation)


def _each_channel(draft: Draft, layer: Any, x: int, part: str, bias: str | None) -> int:
    return draft.add(
        layer,
        network.DepthwiseConvolution,
        x,
        part=part,
        multiplier=layer.depth_multiplier,
        kernel=draft.tensor(layer, "depthwise_kernel"),
        bias=bias,
        **_windows(layer, layer.kernel_size),
    )


def pooling(statistic: Statistic) -> _Reader:
    def read(draft: Draft, layer: Any, inputs: list[int]) -> int:
        windows = _windows(layer, layer.pool_size)
        return draft.add(layer, network.Pooling, *inputs, statistic=statistic, **windows)

    return read


def global_pooling(statistic: Statistic) -> _Reader:
    def read(draft: Draft, layer: Any, inputs: list[int]) -> int:
        return draft.add(layer, network.GlobalPooling, *inputs, statistic=statistic, keep_axes=bool(layer.keepdims))

    return read


def _windows(layer: Any, size: Any) -> dict[str, Any]:
    """A layer's windows: along one axis Keras has numbers or tuples of one."""
    size, strides = (tuple(map(int, np.atleast_1d(values))) for values in (size, layer.strides))
    windows = {"size": size, "strides": strides, "padding": Padding(layer.padding)}
    dilation = tuple(map(int, np.atleast_1d(getattr(layer, "dilation_rate", 1))))
    return windows | {"dilation": dilation} if max(dilation) > 1 else windows
