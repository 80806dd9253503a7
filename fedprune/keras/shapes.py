"""Layers that move numbers, read and made. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fedprune.keras.draft import Draft
from fedprune.keras.layer import Family, Maker, Masks, Penalties, Reader
from fedprune.keras.refusal import plain, refuse
from fedprune.keras.stack import keras
from fedprune.network.layers import Concatenate, Cropping, Permute, Reshape, Shape, Upsampling, ZeroPadding


def read_reshape(draft: Draft, layer: Any, inputs: list[int]) -> int:
    """The shape that Keras says the layer makes."""
    (x,) = inputs
    shape = tuple(layer.compute_output_shape((None, *draft.shape(x))))[1:]
    return x if shape == draft.shape(x) else draft.add(layer, Reshape, x, shape=shape)


def _make_reshape(layer: Reshape, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return partial(keras.layers.Reshape, target_shape=layer.shape)


def _read_zero_padding(draft: Draft, layer: Any, inputs: list[int]) -> int:
    padding = np.reshape(layer.padding, (-1, 2)).tolist()
    return draft.add(layer, ZeroPadding, *inputs, padding=tuple(map(tuple, padding)))


def _make_zero_padding(layer: ZeroPadding, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    if len(layer.padding) == 1:
        return partial(keras.layers.ZeroPadding1D, padding=layer.padding[0])
    return partial(keras.layers.ZeroPadding2D, padding=layer.padding)


def _read_cropping(draft: Draft, layer: Any, inputs: list[int]) -> int:
    cropping = np.reshape(layer.cropping, (-1, 2)).tolist()
    return draft.add(layer, Cropping, *inputs, cropping=tuple(map(tuple, cropping)))


def _make_cropping(layer: Cropping, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    if len(layer.cropping) == 1:
        return partial(keras.layers.Cropping1D, cropping=layer.cropping[0])
    return partial(keras.layers.Cropping2D, cropping=layer.cropping)


def _read_upsampling(draft: Draft, layer: Any, inputs: list[int]) -> int:
    interpolation = getattr(layer, "interpolation", "nearest")
    if interpolation not in ("nearest", "bilinear"):
        refuse(layer, f"interpolation = {plain(interpolation)}", "'nearest' or 'bilinear'")
    size = tuple(np.atleast_1d(layer.size).tolist())
    return draft.add(layer, Upsampling, *inputs, size=size, bilinear=interpolation == "bilinear")


def _read_repeat_vector(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    row = draft.add(layer, Reshape, x, part="row", shape=(1, *draft.shape(x)))
    return draft.add(layer, Upsampling, row, size=(layer.n,))


def _make_upsampling(layer: Upsampling, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    if len(layer.size) == 1:
        return partial(keras.layers.UpSampling1D, size=layer.size[0])
    interpolation = "bilinear" if layer.bilinear else "nearest"
    return partial(keras.layers.UpSampling2D, size=layer.size, interpolation=interpolation)


def _read_permute(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return draft.add(layer, Permute, *inputs, axes=tuple(axis - 1 for axis in layer.dims))


def _make_permute(layer: Permute, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return partial(keras.layers.Permute, dims=tuple(axis + 1 for axis in layer.axes))


def concatenate(draft: Draft, layer: Any, inputs: list[int], axis: int) -> int:
    """Values side by side along Keras' `axis`, which counts the batch."""
    rank = len(draft.shape(inputs[0])) + 1
    if axis % rank == 0:
        refuse(layer, "joining examples", "another axis")
    return draft.add(layer, Concatenate, *inputs, axis=axis % rank - 1) if len(inputs) > 1 else inputs[0]


def _read_concatenate(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return concatenate(draft, layer, inputs, layer.axis)


def _make_concatenate(layer: Concatenate, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return partial(keras.layers.Concatenate, axis=layer.axis + 1)


FAMILY = Family(
    readers={
        keras.layers.Concatenate: Reader(_read_concatenate, "axis", Masks.MERGED),
        keras.layers.Cropping1D: Reader(_read_cropping, "cropping"),
        keras.layers.Cropping2D: Reader(_read_cropping, "cropping data_format"),
        keras.layers.Flatten: Reader(read_reshape, "data_format"),
        keras.layers.Permute: Reader(_read_permute, "dims"),
        keras.layers.RepeatVector: Reader(_read_repeat_vector, "n"),
        keras.layers.Reshape: Reader(read_reshape, "target_shape"),
        keras.layers.UpSampling1D: Reader(_read_upsampling, "size"),
        keras.layers.UpSampling2D: Reader(_read_upsampling, "size interpolation data_format"),
        keras.layers.ZeroPadding1D: Reader(_read_zero_padding, "padding"),
        keras.layers.ZeroPadding2D: Reader(_read_zero_padding, "padding data_format"),
    },
    makers={
        Concatenate: Maker(_make_concatenate),
        Cropping: Maker(_make_cropping),
        Permute: Maker(_make_permute),
        Reshape: Maker(_make_reshape),
        Upsampling: Maker(_make_upsampling),
        ZeroPadding: Maker(_make_zero_padding),
    },
)
