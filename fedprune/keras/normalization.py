"""Layers that normalise by mean and variance, read and made. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fedprune.keras.draft import Draft
from fedprune.keras.layer import Family, Maker, Masks, Penalties, Reader, regularizer
from fedprune.keras.refusal import plain, refuse, require
from fedprune.keras.stack import keras
from fedprune.network.layers import (
    BatchNormalization,
    GroupNormalization,
    LayerNormalization,
    Shape,
    UnitNormalization,
)


def _read_batch_normalization(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    require(layer, renorm=False, axis=[len(draft.shape(x))])
    if getattr(layer, "synchronized", False) or layer.virtual_batch_size is not None or layer.adjustment is not None:
        refuse(layer, "synchronized, virtual_batch_size or adjustment", "none of them")
    return draft.add(
        layer,
        BatchNormalization,
        x,
        momentum=float(layer.momentum),
        unbiased=bool(layer.fused),
        **_scale_and_shift(draft, layer),
        mean=draft.tensor(layer, "moving_mean"),
        variance=draft.tensor(layer, "moving_variance"),
    )


def _make_batch_normalization(layer: BatchNormalization, _shape: Shape, penalties: Penalties) -> Callable[..., Any]:
    return partial(
        keras.layers.BatchNormalization,
        momentum=layer.momentum,
        epsilon=layer.epsilon,
        fused=layer.unbiased,
        **_settings(layer, penalties),
    )


def _read_layer_normalization(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    rank = len(draft.shape(x)) + 1
    axes = sorted(axis % rank for axis in np.atleast_1d(layer.axis).tolist())
    if axes != list(range(rank - len(axes), rank)) or axes[0] == 0:
        refuse(layer, f"axis = {plain(axes)}", "the last axis, or several last ones")
    return draft.add(layer, LayerNormalization, x, axes=len(axes), **_scale_and_shift(draft, layer))


def _make_layer_normalization(layer: LayerNormalization, shape: Shape, penalties: Penalties) -> Callable[..., Any]:
    axes = list(range(len(shape) + 1 - layer.axes, len(shape) + 1))
    return partial(keras.layers.LayerNormalization, axis=axes, epsilon=layer.epsilon, **_settings(layer, penalties))


def _read_group_normalization(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    channels = draft.shape(x)[-1]
    if layer.axis not in (-1, len(draft.shape(x))):
        refuse(layer, f"axis = {plain(layer.axis)}", "-1")
    groups = channels if layer.groups == -1 else layer.groups
    return draft.add(layer, GroupNormalization, x, groups=groups, **_scale_and_shift(draft, layer))


def _make_group_normalization(layer: GroupNormalization, _shape: Shape, penalties: Penalties) -> Callable[..., Any]:
    settings = _settings(layer, penalties)
    return partial(keras.layers.GroupNormalization, groups=layer.groups, epsilon=layer.epsilon, **settings)


def _read_unit_normalization(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    if list(np.atleast_1d(layer.axis)) not in ([-1], [len(draft.shape(x))]):
        refuse(layer, f"axis = {plain(layer.axis)}", "-1")
    return draft.add(layer, UnitNormalization, x)


def _make_unit_normalization(_layer: UnitNormalization, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return partial(keras.layers.UnitNormalization)


def _scale_and_shift(draft: Draft, layer: Any) -> dict[str, Any]:
    return {
        "epsilon": float(layer.epsilon),
        "gamma": draft.tensor(layer, "gamma") if layer.scale else None,
        "beta": draft.tensor(layer, "beta") if layer.center else None,
    }


def _settings(
    layer: BatchNormalization | GroupNormalization | LayerNormalization, penalties: Penalties
) -> dict[str, Any]:
    return {
        "center": layer.beta is not None,
        "scale": layer.gamma is not None,
        "beta_regularizer": regularizer(penalties.get(layer.beta)),
        "gamma_regularizer": regularizer(penalties.get(layer.gamma)),
    }


_STATELESS = """
    axis epsilon center scale beta_initializer gamma_initializer beta_regularizer gamma_regularizer beta_constraint
    gamma_constraint
"""
_MOVING = f"{_STATELESS} momentum synchronized renorm moving_mean_initializer moving_variance_initializer"
_GAMMA_BETA = {"gamma": "gamma", "beta": "beta"}
_STATISTICS = {"mean": "moving_mean", "variance": "moving_variance"}

FAMILY = Family(
    readers={
        keras.layers.BatchNormalization: Reader(_read_batch_normalization, _MOVING, Masks.HANDED_ON),
        keras.layers.GroupNormalization: Reader(_read_group_normalization, f"groups {_STATELESS}"),
        keras.layers.LayerNormalization: Reader(_read_layer_normalization, _STATELESS, Masks.HANDED_ON),
        keras.layers.UnitNormalization: Reader(_read_unit_normalization, "axis", Masks.HANDED_ON),
    },
    makers={
        BatchNormalization: Maker(_make_batch_normalization, _GAMMA_BETA | _STATISTICS),
        GroupNormalization: Maker(_make_group_normalization, _GAMMA_BETA),
        LayerNormalization: Maker(_make_layer_normalization, _GAMMA_BETA),
        UnitNormalization: Maker(_make_unit_normalization),
    },
)
