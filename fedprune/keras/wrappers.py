"""Keras' layers that apply another layer: to both ways, or to each step. Descriptions have the layers alone.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

from typing import Any

from fedprune.keras import pointwise, products, recurrent
from fedprune.keras.draft import Draft
from fedprune.keras.layer import Family, Masks, Reader
from fedprune.keras.refusal import check_common, refuse, require
from fedprune.keras.shapes import read_reshape
from fedprune.keras.stack import keras
from fedprune.network.layers import Add, Concatenate, Rescaling, Reversal

_BOTH_WAYS = recurrent.FAMILY.readers
"""Layers that may go both ways."""
_READERS = {**pointwise.FAMILY.readers, **products.FAMILY.readers}
_EACH_ROW = {
    kind: _READERS[kind]
    for kind in (
        keras.layers.Activation,
        keras.layers.Dense,
        keras.layers.LeakyReLU,
        keras.layers.ReLU,
        keras.layers.Softmax,
    )
}
"""Layers to which the steps of a sequence are so many more rows."""


def _read_bidirectional(draft: Draft, layer: Any, inputs: list[int]) -> int:
    require(layer, return_state=False)
    both = (layer.forward_layer, layer.backward_layer)
    for inner in both:
        if type(inner) not in _BOTH_WAYS:
            refuse(layer, f"a {type(inner).__name__} within", "LSTM, GRU or SimpleRNN")
    ways = [_read_inner(_BOTH_WAYS[type(inner)], draft, inner, inputs) for inner in both]
    if layer.return_sequences:
        ways[1] = draft.add(layer, Reversal, ways[1], part="in order")
    return _merge(draft, layer, ways)


def _read_time_distributed(draft: Draft, layer: Any, inputs: list[int]) -> int:
    """A layer that is applied to each step, where that is the same as to all steps at once."""
    inner = layer.layer
    if isinstance(inner, keras.layers.Flatten | keras.layers.Reshape):
        return read_reshape(draft, layer, inputs)
    if type(inner) not in _EACH_ROW:
        allowed = ", ".join(sorted(kind.__name__ for kind in _EACH_ROW))
        refuse(layer, f"a {type(inner).__name__} within", f"one of Flatten, Reshape, {allowed}")
    return _read_inner(_EACH_ROW[type(inner)], draft, inner, inputs)


def _read_inner(reader: Reader, draft: Draft, layer: Any, inputs: list[int]) -> int:
    check_common(layer)
    return reader.read(draft, layer, inputs)


def _merge(draft: Draft, layer: Any, ways: list[int]) -> int:
    match layer.merge_mode:
        case "concat":
            return draft.add(layer, Concatenate, *ways, axis=len(draft.shape(ways[0])) - 1)
        case "sum":
            return draft.add(layer, Add, *ways)
        case "ave":
            total = draft.add(layer, Add, *ways, part="sum")
            return draft.add(layer, Rescaling, total, scale=(0.5,), offset=(0.0,))
        case other:
            return refuse(layer, f"merge_mode = {other!r}", "concat, sum or ave")


FAMILY = Family(
    readers={
        keras.layers.Bidirectional: Reader(_read_bidirectional, "layer backward_layer merge_mode", Masks.HEEDED),
        keras.layers.TimeDistributed: Reader(_read_time_distributed, "layer", Masks.HANDED_ON),
    },
    makers={},
)
