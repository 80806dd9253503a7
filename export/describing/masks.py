"""Keras' implicit masks, which go from layer to layer beside values, as values of the description.

What becomes of them is known of each Keras layer (`Reader.masks`), after its `compute_mask`. Importing this module
imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedprune.keras.draft import Draft
from fedprune.keras.layer import Masks
from fedprune.keras.layers import READERS
from fedprune.keras.refusal import refuse
from fedprune.keras.stack import keras
from fedprune.network.layers import Concatenate, IdMask, Merge, Operation


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


def heeded_masks(layer: Any, masks: Sequence[int | None]) -> list[int]:
    """The masks that are inputs of the described layer too."""
    heeds = READERS[type(layer)].masks is Masks.HEEDED
    return [mask for mask in masks if mask is not None and heeds]


def output_mask(draft: Draft, layer: Any, inputs: Sequence[int], masks: Sequence[int | None]) -> int | None:
    """The mask of what a layer makes of `inputs`, whose `masks` there are or not. Masking makes its own."""
    if isinstance(layer, keras.layers.Embedding):
        return draft.add(layer, IdMask, *inputs, part="mask") if layer.mask_zero else None
    given = [mask for mask in masks if mask is not None]
    if not given:
        return None
    if isinstance(layer, keras.layers.Concatenate) and layer.axis not in (-1, len(draft.shape(inputs[0]))):
        if len(given) < len(inputs) or layer.axis not in (1, -2) or len(draft.shape(inputs[0])) != 2:
            refuse(layer, "joining masked steps along this axis", "sequences that all have masks, or the last axis")
        return draft.add(layer, Concatenate, *given, part="mask", axis=0)
    match READERS[type(layer)].masks:
        case Masks.DROPPED:
            return None
        case Masks.HANDED_ON:
            return given[0]
        case Masks.MERGED:
            return _merged(draft, layer, list(dict.fromkeys(given)))
        case Masks.HEEDED:
            return given[0] if getattr(layer, "return_sequences", False) else None


def attention_masks(draft: Draft, layer: Any, masks: Sequence[int | None]) -> tuple[int | None, int | None]:
    """The masks of queries and of keys, of those of query, value, and of a key that is given."""
    query, *others = masks
    given = list(dict.fromkeys(mask for mask in others if mask is not None))
    return query, _merged(draft, layer, given) if given else None


def _merged(draft: Draft, layer: Any, masks: Sequence[int]) -> int:
    """The steps that all masks have."""
    if len(masks) == 1:
        return masks[0]
    return draft.add(layer, Merge, *masks, part="mask", operation=Operation.MULTIPLY)
