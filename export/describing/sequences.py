"""Readers of Keras' layers of sequences: see `layers`. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from export.describing.draft import Draft
from export.describing.refusal import refuse, require
from fedprune.keras.stack import keras, tf
from fedprune.network import layers as network

_Reader = Callable[[Draft, Any, list[int]], int]

_EACH_ROW = frozenset(
    {keras.layers.Activation, keras.layers.Dense, keras.layers.LeakyReLU, keras.layers.ReLU, keras.layers.Softmax}
)
"""Layers to which the steps of a sequence are so many more rows."""
_RECURRENT = frozenset({keras.layers.GRU, keras.layers.LSTM, keras.layers.SimpleRNN})
"""Layers that may go both ways."""


def sequence_readers(read: _Reader, reshape: _Reader) -> dict[type, _Reader]:
    """The readers of all layers of sequences. `read` reads any layer, for those that apply another, and `reshape` what
    changes shapes alone."""
    return {
        keras.layers.Bidirectional: _bidirectional(read),
        keras.layers.Embedding: _embedding,
        keras.layers.GRU: _gru,
        keras.layers.LSTM: _lstm,
        keras.layers.SimpleRNN: _simple_rnn,
        keras.layers.TimeDistributed: _time_distributed(read, reshape),
    }


def check_recurrent_dropout(model: Any) -> None:
    """Raise `TaskError` for recurrent dropout. A model that has some cannot even be asked for its parts: Keras keeps
    masks in it, under keys that have no order."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.RNN) and hasattr(layer, "recurrent_dropout"):
            require(layer, recurrent_dropout=0.0)


def _embedding(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    return draft.add(
        layer,
        network.Embedding,
        x,
        vocabulary=int(layer.input_dim),
        units=int(layer.output_dim),
        table=draft.tensor(layer, "embeddings"),
    )


def _lstm(draft: Draft, layer: Any, inputs: list[int]) -> int:
    _require_function(layer, "recurrent_activation", keras.activations.sigmoid, tf.nn.sigmoid)
    return _recurrent(draft, layer, inputs, network.LSTM)


def _gru(draft: Draft, layer: Any, inputs: list[int]) -> int:
    _require_function(layer, "recurrent_activation", keras.activations.sigmoid, tf.nn.sigmoid)
    return _recurrent(draft, layer, inputs, network.GRU, reset_after=bool(layer.reset_after))


def _simple_rnn(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return _recurrent(draft, layer, inputs, network.SimpleRNN)


def _bidirectional(read: _Reader) -> _Reader:
    """A reader of a layer that goes both ways, of the layers that `read` reads."""

    def read_both(draft: Draft, layer: Any, inputs: list[int]) -> int:
        require(layer, return_state=False)
        for inner in (layer.forward_layer, layer.backward_layer):
            if type(inner) not in _RECURRENT:
                refuse(layer, f"a {type(inner).__name__} within", "LSTM, GRU or SimpleRNN")
        ways = [read(draft, inner, inputs) for inner in (layer.forward_layer, layer.backward_layer)]
        if layer.return_sequences:
            ways[1] = draft.add(layer, network.Reversal, ways[1], part="in order")
        return _merge(draft, layer, ways)

    return read_both


def _time_distributed(read: _Reader, reshape: _Reader) -> _Reader:
    """A reader of a layer that is applied to each step, where that is the same as to all steps at once."""

    def read_steps(draft: Draft, layer: Any, inputs: list[int]) -> int:
        inner = layer.layer
        if isinstance(inner, keras.layers.Flatten | keras.layers.Reshape):
            return reshape(draft, layer, inputs)
        if type(inner) not in _EACH_ROW:
            allowed = ", ".join(sorted(kind.__name__ for kind in _EACH_ROW))
            refuse(layer, f"a {type(inner).__name__} within", f"one of Flatten, Reshape, {allowed}")
        return read(draft, inner, inputs)

    return read_steps


def _merge(draft: Draft, layer: Any, ways: list[int]) -> int:
    match layer.merge_mode:
        case "concat":
            return draft.add(layer, network.Concatenate, *ways, axis=len(draft.shape(ways[0])) - 1)
        case "sum":
            return draft.add(layer, network.Add, *ways)
        case "ave":
            total = draft.add(layer, network.Add, *ways, part="sum")
            return draft.add(layer, network.Rescaling, total, scale=(0.5,), offset=(0.0,))
        case other:
            return refuse(layer, f"merge_mode = {other!r}", "concat, sum or ave")


def _recurrent(draft: Draft, layer: Any, inputs: list[int], kind: Any, **attributes: Any) -> int:
    """`inputs` are a value and, if it has one, the mask of its steps."""
    _require_function(layer, "activation", keras.activations.tanh, tf.nn.tanh)
    require(layer, dropout=0.0, return_state=False, stateful=False, time_major=False)
    is_masked = len(inputs) > 1
    if is_masked and layer.zero_output_for_mask and layer.go_backwards:
        require(layer, unroll=False)  # of such Keras takes the mask in the wrong order
    cell = layer.cell
    return draft.add(
        layer,
        kind,
        *inputs,
        units=int(layer.units),
        kernel=draft.tensor(cell, "kernel"),
        recurrent=draft.tensor(cell, "recurrent_kernel"),
        bias=draft.tensor(cell, "bias") if layer.use_bias else None,
        backwards=bool(layer.go_backwards),
        sequences=bool(layer.return_sequences),
        zero_masked=is_masked and bool(layer.zero_output_for_mask),
        **attributes,
    )


def _require_function(layer: Any, name: str, *allowed: Any) -> None:
    found = getattr(layer, name)
    if found not in allowed:
        expected = allowed[0].__name__
        named = getattr(found, "__name__", type(found).__name__)[:40]
        refuse(layer, f"{name} = {named}", expected, **{name: expected})
