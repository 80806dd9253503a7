"""Layers that go through a sequence step by step, read and made. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fedprune.keras.draft import Draft
from fedprune.keras.layer import (
    KERNEL,
    WEIGHTS,
    Family,
    Make,
    Maker,
    Masks,
    Penalties,
    Reader,
    call_with_mask,
    regularizer,
    weights,
)
from fedprune.keras.refusal import refuse, require
from fedprune.keras.stack import keras, tf
from fedprune.network.layers import GRU, LSTM, Recurrent, Reversal, Shape, SimpleRNN


def check_recurrent_dropout(model: Any) -> None:
    """Raise `TaskError` for recurrent dropout. A model that has some cannot even be asked for its parts: Keras keeps
    masks in it, under keys that have no order."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.RNN) and hasattr(layer, "recurrent_dropout"):
            require(layer, recurrent_dropout=0.0)


def _read_lstm(draft: Draft, layer: Any, inputs: list[int]) -> int:
    _require_function(layer, "recurrent_activation", keras.activations.sigmoid, tf.nn.sigmoid)
    return _read_recurrent(draft, layer, inputs, LSTM)


def _read_gru(draft: Draft, layer: Any, inputs: list[int]) -> int:
    _require_function(layer, "recurrent_activation", keras.activations.sigmoid, tf.nn.sigmoid)
    return _read_recurrent(draft, layer, inputs, GRU, reset_after=bool(layer.reset_after))


def _read_simple_rnn(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return _read_recurrent(draft, layer, inputs, SimpleRNN)


def _read_recurrent(draft: Draft, layer: Any, inputs: list[int], kind: Any, **attributes: Any) -> int:
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


def _make_recurrent(kind: Any) -> Make:
    def make(layer: Recurrent, _shape: Shape, penalties: Penalties) -> Callable[..., Any]:
        gru = {"reset_after": layer.reset_after} if isinstance(layer, GRU) else {}
        return partial(
            kind,
            units=layer.units,
            go_backwards=layer.backwards,
            return_sequences=layer.sequences,
            zero_output_for_mask=layer.zero_masked,
            recurrent_regularizer=regularizer(penalties.get(layer.recurrent)),
            **weights("kernel", layer, penalties),
            **gru,
        )

    return make


def _make_reversal(_layer: Reversal, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return partial(keras.layers.Lambda, function=lambda x: tf.reverse(x, [1]))


_SETTINGS = f"""
    units recurrent_activation recurrent_initializer recurrent_regularizer recurrent_constraint dropout
    recurrent_dropout return_sequences return_state go_backwards stateful unroll zero_output_for_mask {WEIGHTS}
    {KERNEL}
"""
_TENSORS = {"kernel": "cell.kernel", "recurrent": "cell.recurrent_kernel", "bias": "cell.bias"}

FAMILY = Family(
    readers={
        keras.layers.GRU: Reader(_read_gru, f"{_SETTINGS} reset_after", Masks.HEEDED),
        keras.layers.LSTM: Reader(_read_lstm, f"{_SETTINGS} unit_forget_bias", Masks.HEEDED),
        keras.layers.SimpleRNN: Reader(_read_simple_rnn, _SETTINGS, Masks.HEEDED),
    },
    makers={
        GRU: Maker(_make_recurrent(keras.layers.GRU), _TENSORS, call_with_mask),
        LSTM: Maker(_make_recurrent(keras.layers.LSTM), _TENSORS, call_with_mask),
        Reversal: Maker(_make_reversal),
        SimpleRNN: Maker(_make_recurrent(keras.layers.SimpleRNN), _TENSORS, call_with_mask),
    },
)
