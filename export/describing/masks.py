"""Keras' implicit masks, which go from layer to layer beside values, as values of the description.

Which layers make masks, hand them on, merge or drop them is what each Keras layer's `compute_mask` says. Importing this
module imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from export.describing.draft import Draft
from export.describing.refusal import refuse
from fedprune.keras.stack import keras
from fedprune.network import layers as network
from fedprune.network.layers import Operation

HEEDING = (
    keras.layers.Bidirectional,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GRU,
    keras.layers.LSTM,
    keras.layers.SimpleRNN,
)
"""Layers that take the mask of their input as one more."""
_HANDING_ON = (
    keras.layers.Activation,
    keras.layers.BatchNormalization,
    keras.layers.Dense,
    keras.layers.Dropout,
    keras.layers.ELU,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.LayerNormalization,
    keras.layers.LeakyReLU,
    keras.layers.ReLU,
    keras.layers.TimeDistributed,
    keras.layers.UnitNormalization,
)
"""Layers whose output has the mask of their input, subclasses included (SpatialDropout)."""
_MERGING = (
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Multiply,
    keras.layers.Subtract,
)
"""Layers whose output has the steps that all masks of their inputs have."""
_RETURNING = (keras.layers.RNN, keras.layers.Bidirectional)
"""Layers that hand a mask on if they return sequences."""


def check_masks(layer: Any, masks: Sequence[int | None]) -> None:
    """Raise `TaskError` for a mask that no description of the layer heeds."""
    if all(mask is None for mask in masks):
        return
    inner = layer.layer if isinstance(layer, keras.layers.TimeDistributed) else layer
    if isinstance(inner, keras.layers.Softmax):
        refuse(layer, "a mask, which it takes for one of channels", "Activation('softmax')")
    is_trained = isinstance(inner, keras.layers.BatchNormalization) and inner.trainable
    if is_trained or isinstance(inner, keras.layers.GroupNormalization):
        refuse(layer, "a mask, by which its statistics would be weighted", "LayerNormalization")


def output_mask(draft: Draft, layer: Any, inputs: Sequence[int], masks: Sequence[int | None]) -> int | None:
    """The mask of what a layer makes of `inputs`, whose `masks` there are or not; that of Masking see `leave_out`."""
    if isinstance(layer, keras.layers.Embedding):
        return draft.add(layer, network.IdMask, *inputs, part="mask") if layer.mask_zero else None
    given = [mask for mask in masks if mask is not None]
    distinct = list(dict.fromkeys(given))
    if not given:
        return None
    if isinstance(layer, keras.layers.Concatenate) and layer.axis not in (-1, len(draft.shape(inputs[0]))):
        if len(given) < len(inputs) or layer.axis not in (1, -2) or len(draft.shape(inputs[0])) != 2:
            refuse(layer, "joining masked steps along this axis", "sequences that all have masks, or the last axis")
        return draft.add(layer, network.Concatenate, *given, part="mask", axis=0)
    if isinstance(layer, (*_MERGING, keras.layers.Concatenate)):
        return _merged(draft, layer, distinct)
    hands_on = isinstance(layer, _HANDING_ON) or (isinstance(layer, _RETURNING) and layer.return_sequences)
    return given[0] if hands_on else None


def leave_out(draft: Draft, layer: Any, x: int) -> tuple[int, int]:
    """What Masking makes of a value: zeros in the steps that are padding; and its mask."""
    if not draft.is_input(x):
        refuse(layer, "masking of what a layer makes", "it as the first layer")
    mask = draft.add(layer, network.StepMask, x, part="mask", padding=float(layer.mask_value))
    column = draft.add(layer, network.Reshape, mask, part="column", shape=(*draft.shape(mask), 1))
    return draft.add(layer, network.Merge, x, column, operation=Operation.MULTIPLY), mask


def attention_masks(draft: Draft, layer: Any, masks: Sequence[int | None]) -> tuple[int | None, int | None]:
    """The masks of queries and of keys, of those of query, value, and of a key that is given."""
    query, *others = masks
    given = list(dict.fromkeys(mask for mask in others if mask is not None))
    return query, _merged(draft, layer, given) if given else None


def _merged(draft: Draft, layer: Any, masks: Sequence[int]) -> int:
    """The steps that all masks have."""
    if len(masks) == 1:
        return masks[0]
    return draft.add(layer, network.Merge, *masks, part="mask", operation=Operation.MULTIPLY)
