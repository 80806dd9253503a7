"""Layers with windows, convolutions and poolings, read and made. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fedprune.keras.draft import Draft
from fedprune.keras.layer import (
    KERNEL,
    WEIGHTS,
    Family,
    Maker,
    Masks,
    Penalties,
    Read,
    Reader,
    call_with_mask,
    weights,
)
from fedprune.keras.pointwise import activate
from fedprune.keras.refusal import require
from fedprune.keras.stack import keras, tf
from fedprune.network.layers import (
    Convolution,
    DepthwiseConvolution,
    Dilated,
    GlobalPooling,
    Padding,
    Pooling,
    Shape,
    Statistic,
    TransposedConvolution,
    Windowed,
)


def _read_convolution(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    y = draft.add(
        layer,
        Convolution,
        x,
        filters=layer.filters,
        groups=layer.groups,
        kernel=draft.tensor(layer, "kernel"),
        bias=draft.bias(layer),
        **_read_windows(layer, layer.kernel_size),
    )
    return activate(draft, layer, y, layer.activation)


def _make_convolution(layer: Convolution, _shape: Shape, penalties: Penalties) -> Callable[..., Any]:
    kind = (keras.layers.Conv1D, keras.layers.Conv2D)[len(layer.size) - 1]
    settings = _windows(layer) | weights("kernel", layer, penalties)
    return partial(kind, filters=layer.filters, groups=layer.groups, **settings)


def _read_transposed(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    require(layer, output_padding=None, dilation_rate=(1,) * len(layer.kernel_size))
    y = draft.add(
        layer,
        TransposedConvolution,
        x,
        filters=layer.filters,
        kernel=draft.tensor(layer, "kernel"),
        bias=draft.bias(layer),
        **_read_windows(layer, layer.kernel_size),
    )
    return activate(draft, layer, y, layer.activation)


def _make_transposed(layer: TransposedConvolution, _shape: Shape, penalties: Penalties) -> Callable[..., Any]:
    kind = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose)[len(layer.size) - 1]
    return partial(kind, filters=layer.filters, **_windows(layer), **weights("kernel", layer, penalties))


def _read_depthwise(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    y = _each_channel(draft, layer, x, part="", bias=draft.bias(layer))
    return activate(draft, layer, y, layer.activation)


def _read_separable(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    y = _each_channel(draft, layer, x, part="depthwise", bias=None)
    once = (1,) * len(layer.kernel_size)
    y = draft.add(
        layer,
        Convolution,
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
        DepthwiseConvolution,
        x,
        part=part,
        multiplier=layer.depth_multiplier,
        kernel=draft.tensor(layer, "depthwise_kernel"),
        bias=bias,
        **_read_windows(layer, layer.kernel_size),
    )


def _make_depthwise(layer: DepthwiseConvolution, _shape: Shape, penalties: Penalties) -> Callable[..., Any]:
    kind = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)[len(layer.size) - 1]
    settings = _windows(layer) | weights("depthwise", layer, penalties)
    return partial(kind, depth_multiplier=layer.multiplier, **settings)


def _read_pooling(statistic: Statistic) -> Read:
    def read(draft: Draft, layer: Any, inputs: list[int]) -> int:
        windows = _read_windows(layer, layer.pool_size)
        return draft.add(layer, Pooling, *inputs, statistic=statistic, **windows)

    return read


def _make_pooling(layer: Pooling, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    kind = _POOLINGS[layer.statistic][len(layer.size) - 1]
    return partial(kind, pool_size=layer.size, strides=layer.strides, padding=layer.padding.value)


def _read_global_pooling(statistic: Statistic) -> Read:
    def read(draft: Draft, layer: Any, inputs: list[int]) -> int:
        return draft.add(layer, GlobalPooling, *inputs, statistic=statistic, keep_axes=bool(layer.keepdims))

    return read


@keras.saving.register_keras_serializable(package="fedprune")
class MaskedAveragePooling1D(keras.layers.GlobalAveragePooling1D):  # type: ignore[misc]
    """The mean over the steps that a mask leaves, which is 0 where it leaves none: Keras divides 0 by 0 there, and one
    such example makes a batch's whole loss NaN."""

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None:
            return super().call(inputs)
        kept = tf.expand_dims(tf.cast(mask, inputs.dtype), -1)
        steps = tf.reduce_sum(kept, 1, keepdims=self.keepdims)
        return tf.reduce_sum(inputs * kept, 1, keepdims=self.keepdims) / tf.maximum(steps, 1.0)


def _make_global_pooling(layer: GlobalPooling, shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return partial(_GLOBAL_POOLINGS[layer.statistic][len(shape) - 2], keepdims=layer.keep_axes)


def _read_windows(layer: Any, size: Any) -> dict[str, Any]:
    """A layer's windows: along one axis Keras has numbers or tuples of one."""
    size, strides = (tuple(map(int, np.atleast_1d(values))) for values in (size, layer.strides))
    windows = {"size": size, "strides": strides, "padding": Padding(layer.padding)}
    dilation = tuple(map(int, np.atleast_1d(getattr(layer, "dilation_rate", 1))))
    return windows | {"dilation": dilation} if max(dilation) > 1 else windows


def _windows(layer: Windowed) -> dict[str, Any]:
    windows: dict[str, Any] = {"kernel_size": layer.size, "strides": layer.strides, "padding": layer.padding.value}
    if isinstance(layer, Dilated) and layer.is_dilated:
        windows["dilation_rate"] = layer.dilation
    return windows


_POOLINGS = {
    Statistic.MAX: (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D),
    Statistic.MEAN: (keras.layers.AveragePooling1D, keras.layers.AveragePooling2D),
}
_GLOBAL_POOLINGS = {
    Statistic.MAX: (keras.layers.GlobalMaxPooling1D, keras.layers.GlobalMaxPooling2D),
    Statistic.MEAN: (MaskedAveragePooling1D, keras.layers.GlobalAveragePooling2D),
}

_MOVES = "strides padding data_format"
_CONVOLUTION = f"{_MOVES} kernel_size dilation_rate {WEIGHTS}"
_DEPTHWISE = f"{_CONVOLUTION} depth_multiplier depthwise_initializer depthwise_regularizer depthwise_constraint"
_ORDINARY = Reader(_read_convolution, f"filters groups {_CONVOLUTION} {KERNEL}")
_TRANSPOSED = Reader(_read_transposed, f"filters output_padding {_CONVOLUTION} {KERNEL}")
_EACH_CHANNEL = Reader(_read_depthwise, _DEPTHWISE)
_SEPARABLE = Reader(
    _read_separable, f"filters {_DEPTHWISE} pointwise_initializer pointwise_regularizer pointwise_constraint"
)
_POOLING = f"pool_size {_MOVES}"
_GLOBAL_POOLING = "data_format keepdims"
_WEIGHTS = {"kernel": "kernel", "bias": "bias"}

FAMILY = Family(
    readers={
        keras.layers.AveragePooling1D: Reader(_read_pooling(Statistic.MEAN), _POOLING),
        keras.layers.AveragePooling2D: Reader(_read_pooling(Statistic.MEAN), _POOLING),
        keras.layers.Conv1D: _ORDINARY,
        keras.layers.Conv1DTranspose: _TRANSPOSED,
        keras.layers.Conv2D: _ORDINARY,
        keras.layers.Conv2DTranspose: _TRANSPOSED,
        keras.layers.DepthwiseConv1D: _EACH_CHANNEL,
        keras.layers.DepthwiseConv2D: _EACH_CHANNEL,
        keras.layers.GlobalAveragePooling1D: Reader(
            _read_global_pooling(Statistic.MEAN), _GLOBAL_POOLING, Masks.HEEDED
        ),
        keras.layers.GlobalAveragePooling2D: Reader(_read_global_pooling(Statistic.MEAN), _GLOBAL_POOLING),
        keras.layers.GlobalMaxPooling1D: Reader(_read_global_pooling(Statistic.MAX), _GLOBAL_POOLING),
        keras.layers.GlobalMaxPooling2D: Reader(_read_global_pooling(Statistic.MAX), _GLOBAL_POOLING),
        keras.layers.MaxPooling1D: Reader(_read_pooling(Statistic.MAX), _POOLING),
        keras.layers.MaxPooling2D: Reader(_read_pooling(Statistic.MAX), _POOLING),
        keras.layers.SeparableConv1D: _SEPARABLE,
        keras.layers.SeparableConv2D: _SEPARABLE,
    },
    makers={
        Convolution: Maker(_make_convolution, _WEIGHTS),
        DepthwiseConvolution: Maker(_make_depthwise, {"kernel": "depthwise_kernel", "bias": "bias"}),
        GlobalPooling: Maker(_make_global_pooling, call=call_with_mask),
        Pooling: Maker(_make_pooling),
        TransposedConvolution: Maker(_make_transposed, _WEIGHTS),
    },
)
