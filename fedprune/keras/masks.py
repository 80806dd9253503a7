"""Masks of steps, read and made. Importing this module imports TensorFlow.

Keras' implicit masks, which go from layer to layer beside values, are `export.describing.masks`'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fedprune.keras.draft import Draft
from fedprune.keras.layer import Family, Maker, Penalties
from fedprune.keras.refusal import refuse
from fedprune.keras.stack import keras, tf
from fedprune.network.layers import IdMask, Merge, Operation, Reshape, Shape, StepMask


class MaskedOutput(keras.layers.Layer):  # type: ignore[misc]
    """Gives a model's output `[batch, *places, outputs]` its mask `[batch, *places]`, of 1 and 0, as Keras' losses look
    for it."""

    def call(self, inputs: Sequence[Any]) -> Any:
        x, mask = inputs
        y = tf.identity(x)
        y._keras_mask = tf.cast(mask, tf.bool)
        if hasattr(x, "_keras_logits"):  # what losses take instead of probabilities
            y._keras_logits = x._keras_logits
        return y

    def compute_mask(self, inputs: Sequence[Any], mask: Any = None) -> Any:  # noqa: ARG002 - Keras hands it in
        return tf.cast(inputs[1], tf.bool)


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
