"""Readers of Keras layers: what each becomes in the description. Importing this module imports TensorFlow.

A reader takes the draft, the layer and the values that it is called with, and returns the value that it makes. All
settings that change what a layer computes are read or required; what is not listed is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from export.describing import functions, windows
from export.describing.augmentation import AUGMENTATION
from export.describing.draft import Draft
from export.describing.functions import activate, rescale
from export.describing.refusal import plain, refuse, require
from export.describing.sequences import sequence_readers
from fedprune.keras.stack import keras
from fedprune.network import layers as network
from fedprune.network.layers import Operation, Statistic

Reader = Callable[[Draft, Any, list[int]], int]

NOISY = (keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.GaussianNoise)
"""Layers that draw noise in training, and do nothing otherwise. So does augmentation."""


def check_common(layer: Any) -> None:
    """Raise `TaskError` for settings that any Keras layer may have, and no description."""
    require(layer, compute_dtype="float32")
    if hasattr(layer, "data_format"):
        require(layer, data_format="channels_last")
    for name, value in (vars(layer) | vars(getattr(layer, "cell", layer))).items():
        if name.endswith("_constraint") and value is not None:
            refuse(layer, name, "none")
    if getattr(layer, "activity_regularizer", None) is not None:
        refuse(layer, "activity_regularizer", "a regularizer of its weights")


def _dense(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    y = draft.add(
        layer, network.Dense, x, units=layer.units, kernel=draft.tensor(layer, "kernel"), bias=draft.bias(layer)
    )
    return activate(draft, layer, y, layer.activation)


def _batch_normalization(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    require(layer, renorm=False, axis=[len(draft.shape(x))])
    if getattr(layer, "synchronized", False) or layer.virtual_batch_size is not None or layer.adjustment is not None:
        refuse(layer, "synchronized, virtual_batch_size or adjustment", "none of them")
    return draft.add(
        layer,
        network.BatchNormalization,
        x,
        momentum=float(layer.momentum),
        unbiased=bool(layer.fused),
        **_scale_and_shift(draft, layer),
        mean=draft.tensor(layer, "moving_mean"),
        variance=draft.tensor(layer, "moving_variance"),
    )


def _layer_normalization(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    rank = len(draft.shape(x)) + 1
    axes = sorted(axis % rank for axis in np.atleast_1d(layer.axis).tolist())
    if axes != list(range(rank - len(axes), rank)) or axes[0] == 0:
        refuse(layer, f"axis = {plain(axes)}", "the last axis, or several last ones")
    return draft.add(layer, network.LayerNormalization, x, axes=len(axes), **_scale_and_shift(draft, layer))


def _group_normalization(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    channels = draft.shape(x)[-1]
    if layer.axis not in (-1, len(draft.shape(x))):
        refuse(layer, f"axis = {plain(layer.axis)}", "-1")
    groups = channels if layer.groups == -1 else layer.groups
    return draft.add(layer, network.GroupNormalization, x, groups=groups, **_scale_and_shift(draft, layer))


def _scale_and_shift(draft: Draft, layer: Any) -> dict[str, Any]:
    return {
        "epsilon": float(layer.epsilon),
        "gamma": draft.tensor(layer, "gamma") if layer.scale else None,
        "beta": draft.tensor(layer, "beta") if layer.center else None,
    }


def _unit_normalization(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    if list(np.atleast_1d(layer.axis)) not in ([-1], [len(draft.shape(x))]):
        refuse(layer, f"axis = {plain(layer.axis)}", "-1")
    return draft.add(layer, network.UnitNormalization, x)


def _reshape(draft: Draft, layer: Any, inputs: list[int]) -> int:
    """The shape that Keras says the layer makes."""
    (x,) = inputs
    shape = tuple(layer.compute_output_shape((None, *draft.shape(x))))[1:]
    return x if shape == draft.shape(x) else draft.add(layer, network.Reshape, x, shape=shape)


def _zero_padding(draft: Draft, layer: Any, inputs: list[int]) -> int:
    padding = np.reshape(layer.padding, (-1, 2)).tolist()
    return draft.add(layer, network.ZeroPadding, *inputs, padding=tuple(map(tuple, padding)))


def _cropping(draft: Draft, layer: Any, inputs: list[int]) -> int:
    cropping = np.reshape(layer.cropping, (-1, 2)).tolist()
    return draft.add(layer, network.Cropping, *inputs, cropping=tuple(map(tuple, cropping)))


def _upsampling(draft: Draft, layer: Any, inputs: list[int]) -> int:
    interpolation = getattr(layer, "interpolation", "nearest")
    if interpolation not in ("nearest", "bilinear"):
        refuse(layer, f"interpolation = {plain(interpolation)}", "'nearest' or 'bilinear'")
    size = tuple(np.atleast_1d(layer.size).tolist())
    return draft.add(layer, network.Upsampling, *inputs, size=size, bilinear=interpolation == "bilinear")


def _repeat_vector(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    row = draft.add(layer, network.Reshape, x, part="row", shape=(1, *draft.shape(x)))
    return draft.add(layer, network.Upsampling, row, size=(layer.n,))


def _permute(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return draft.add(layer, network.Permute, *inputs, axes=tuple(axis - 1 for axis in layer.dims))


def _rescaling(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    return rescale(draft, layer, x, layer.scale, layer.offset)


def _normalization(draft: Draft, layer: Any, inputs: list[int]) -> int:
    """With a given mean and variance: (x - mean) / the standard deviation, which is no less than Keras' epsilon.

    Or inverted: x times the standard deviation, plus the mean.
    """
    (x,) = inputs
    deviation = np.maximum(np.sqrt(np.asarray(layer.variance)), keras.backend.epsilon())
    if layer.invert:
        return rescale(draft, layer, x, deviation, layer.mean)
    centered = rescale(draft, layer, x, 1.0, -np.asarray(layer.mean), part="center")
    return rescale(draft, layer, centered, 1.0 / deviation, 0.0, part="scale")


def _dropout(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    require(layer, noise_shape=None)
    if not 0.0 <= layer.rate < 1.0:
        refuse(layer, f"rate = {plain(layer.rate)}", "one from 0 to below 1")
    whole = isinstance(layer, keras.layers.SpatialDropout1D | keras.layers.SpatialDropout2D)
    return draft.add(layer, network.Dropout, x, rate=float(layer.rate), whole_channels=whole) if layer.rate else x


def _gaussian_noise(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return draft.add(layer, network.GaussianNoise, *inputs, deviation=float(layer.stddev))


def _gaussian_dropout(draft: Draft, layer: Any, inputs: list[int]) -> int:
    if not 0.0 <= layer.rate < 1.0:
        refuse(layer, f"rate = {plain(layer.rate)}", "one from 0 to below 1")
    deviation = float(np.sqrt(layer.rate / (1.0 - layer.rate)))
    return draft.add(layer, network.GaussianNoise, *inputs, deviation=deviation, relative=True)


def _identity(_draft: Draft, _layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    return x


def _add(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return draft.add(layer, network.Add, *inputs) if len(inputs) > 1 else inputs[0]


def _subtract(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return subtract(draft, layer, *inputs)


def subtract(draft: Draft, layer: Any, x: int, y: int) -> int:
    """`x` less `y`, two values."""
    return draft.add(layer, network.Add, x, rescale(draft, layer, y, -1.0, 0.0, part="negative"))


def attend(
    draft: Draft,
    layer: Any,
    inputs: list[int],
    masks: tuple[int | None, int | None],
    *,
    causal: bool,
    training: bool | None,
) -> int:
    """Attention of queries, values, and keys if there are others; the `masks` are those of queries and keys."""
    if layer._attention_axes not in (None, (1,)):
        refuse(layer, f"attention_axes = {plain(layer._attention_axes)}", "queries of two axes and None")
    tensors: dict[str, Any] = {}
    for role in ("query", "key", "value", "output"):
        part = getattr(layer, f"_{role}_dense")
        tensors[f"{role}_kernel"] = draft.tensor(part, "kernel")
        tensors[f"{role}_bias"] = draft.tensor(part, "bias") if layer._use_bias else None
    return draft.add(
        layer,
        network.MultiHeadAttention,
        *inputs,
        *(mask for mask in masks if mask is not None),
        heads=layer._num_heads,
        key_size=layer._key_dim,
        value_size=layer._value_dim,
        units=layer._output_dense.kernel.shape[-1],
        causal=causal,
        masked_queries=masks[0] is not None,
        masked_keys=masks[1] is not None,
        rate=0.0 if training is False else float(layer._dropout),
        **tensors,
    )


def _merge(operation: Operation) -> Reader:
    def read(draft: Draft, layer: Any, inputs: list[int]) -> int:
        return draft.add(layer, network.Merge, *inputs, operation=operation) if len(inputs) > 1 else inputs[0]

    return read


def _dot(draft: Draft, layer: Any, inputs: list[int]) -> int:
    given = layer.axes if isinstance(layer.axes, list | tuple) else [layer.axes] * len(inputs)
    ranks = [len(draft.shape(x)) + 1 for x in inputs]
    axes = [axis % rank for axis, rank in zip(given, ranks, strict=True)]
    if 0 in axes:
        refuse(layer, "a product over examples", "other axes")
    if layer.normalize:
        if any(axis != rank - 1 for axis, rank in zip(axes, ranks, strict=True)):
            refuse(layer, "normalize = True over other axes than the last", "UnitNormalization before it")
        inputs = [draft.add(layer, network.UnitNormalization, x, part=f"unit{i}") for i, x in enumerate(inputs)]
    return draft.add(layer, network.Dot, *inputs, axes=tuple(axis - 1 for axis in axes))


def _average(draft: Draft, layer: Any, inputs: list[int]) -> int:
    total = draft.add(layer, network.Add, *inputs, part="sum") if len(inputs) > 1 else inputs[0]
    return rescale(draft, layer, total, 1.0 / len(inputs), 0.0)


def _concatenate(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return concatenate(draft, layer, inputs, layer.axis)


def concatenate(draft: Draft, layer: Any, inputs: list[int], axis: int) -> int:
    """Values side by side along Keras' `axis`, which counts the batch."""
    rank = len(draft.shape(inputs[0])) + 1
    if axis % rank == 0:
        refuse(layer, "joining examples", "another axis")
    return draft.add(layer, network.Concatenate, *inputs, axis=axis % rank - 1) if len(inputs) > 1 else inputs[0]


def _read(draft: Draft, layer: Any, inputs: list[int]) -> int:
    """A layer within a wrapper, by its own reader."""
    check_common(layer)
    return LAYERS[type(layer)](draft, layer, inputs)


LAYERS: dict[type, Reader] = {
    **AUGMENTATION,
    **sequence_readers(_read, _reshape),
    keras.layers.Activation: functions.activation,
    keras.layers.Add: _add,
    keras.layers.Average: _average,
    keras.layers.AveragePooling1D: windows.pooling(Statistic.MEAN),
    keras.layers.AveragePooling2D: windows.pooling(Statistic.MEAN),
    keras.layers.BatchNormalization: _batch_normalization,
    keras.layers.Concatenate: _concatenate,
    keras.layers.Conv1D: windows.convolution,
    keras.layers.Conv1DTranspose: windows.transposed,
    keras.layers.Conv2D: windows.convolution,
    keras.layers.Conv2DTranspose: windows.transposed,
    keras.layers.Cropping1D: _cropping,
    keras.layers.Cropping2D: _cropping,
    keras.layers.Dense: _dense,
    keras.layers.DepthwiseConv1D: windows.depthwise,
    keras.layers.DepthwiseConv2D: windows.depthwise,
    keras.layers.Dot: _dot,
    keras.layers.Dropout: _dropout,
    keras.layers.ELU: functions.elu,
    keras.layers.Flatten: _reshape,
    keras.layers.GaussianDropout: _gaussian_dropout,
    keras.layers.GaussianNoise: _gaussian_noise,
    keras.layers.GlobalAveragePooling1D: windows.global_pooling(Statistic.MEAN),
    keras.layers.GlobalAveragePooling2D: windows.global_pooling(Statistic.MEAN),
    keras.layers.GlobalMaxPooling1D: windows.global_pooling(Statistic.MAX),
    keras.layers.GlobalMaxPooling2D: windows.global_pooling(Statistic.MAX),
    keras.layers.GroupNormalization: _group_normalization,
    keras.layers.Identity: _identity,
    keras.layers.LayerNormalization: _layer_normalization,
    keras.layers.LeakyReLU: functions.leaky_relu,
    keras.layers.MaxPooling1D: windows.pooling(Statistic.MAX),
    keras.layers.MaxPooling2D: windows.pooling(Statistic.MAX),
    keras.layers.Maximum: _merge(Operation.MAXIMUM),
    keras.layers.Minimum: _merge(Operation.MINIMUM),
    keras.layers.Multiply: _merge(Operation.MULTIPLY),
    keras.layers.Normalization: _normalization,
    keras.layers.Permute: _permute,
    keras.layers.ReLU: functions.relu,
    keras.layers.RepeatVector: _repeat_vector,
    keras.layers.Rescaling: _rescaling,
    keras.layers.Reshape: _reshape,
    keras.layers.SeparableConv1D: windows.separable,
    keras.layers.SeparableConv2D: windows.separable,
    keras.layers.Softmax: functions.softmax,
    keras.layers.SpatialDropout1D: _dropout,
    keras.layers.SpatialDropout2D: _dropout,
    keras.layers.Subtract: _subtract,
    keras.layers.UnitNormalization: _unit_normalization,
    keras.layers.UpSampling1D: _upsampling,
    keras.layers.UpSampling2D: _upsampling,
    keras.layers.ZeroPadding1D: _zero_padding,
    keras.layers.ZeroPadding2D: _zero_padding,
}
"""The readers, but those of MultiHeadAttention, whose inputs are arguments of their own (`attend`), and of Masking,
which also makes a mask (`masks`)."""
