"""Masks of steps, read and made. Importing this module imports TensorFlow.

Keras' implicit masks, which go from layer to layer beside values, are `export.describing.masks`'.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fedprune.keras.draft import Draft
from fedprune.keras.layer import Family, Maker, Penalties
from fedprune.keras.refusal import refuse
from fedprune.keras.stack import keras, tf
from fedprune.network.layers import IdMask, Merge, Operation, Reshape, Shape, StepMask


def leave_out(draft: Draft, layer: Any, x: int) -> tuple[int, int]:
    """What Masking makes of a value: zeros in the steps that are padding; and its mask."""
    if not draft.is_input(x):
        refuse(layer, "masking of what a layer makes", "it as the first layer")
    mask = draft.add(layer, StepMask, x, part="mask", padding=float(layer.mask_value))
    column = draft.add(layer, Reshape, mask, part="column", shape=(*draft.shape(mask), 1))
    return draft.add(layer, Merge, x, column, operation=Operation.MULTIPLY), mask


def _make_id_mask(_layer: IdMask, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return partial(keras.layers.Lambda, function=lambda ids: tf.cast(tf.not_equal(ids, 0), tf.float32))


def _make_step_mask(layer: StepMask, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    def mask(x: Any) -> Any:
        return tf.cast(tf.reduce_any(tf.not_equal(x, layer.padding), -1), tf.float32)

    return partial(keras.layers.Lambda, function=mask)


FAMILY = Family(readers={}, makers={IdMask: Maker(_make_id_mask), StepMask: Maker(_make_step_mask)})
