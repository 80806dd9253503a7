"""Multi-head attention, read and made. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fedprune.keras.draft import Draft
from fedprune.keras.layer import Family, Maker, Penalties, regularizer
from fedprune.keras.refusal import plain, refuse
from fedprune.keras.stack import keras, tf
from fedprune.network.layers import MultiHeadAttention, Shape

_ROLES = ("query", "key", "value", "output")


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
    for role in _ROLES:
        part = getattr(layer, f"_{role}_dense")
        tensors[f"{role}_kernel"] = draft.tensor(part, "kernel")
        tensors[f"{role}_bias"] = draft.tensor(part, "bias") if layer._use_bias else None
    return draft.add(
        layer,
        MultiHeadAttention,
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


def _make(layer: MultiHeadAttention, _shape: Shape, penalties: Penalties) -> Callable[..., Any]:
    """Keras has one regularizer for all kernels, and one for all biases."""
    kernels = (layer.query_kernel, layer.key_kernel, layer.value_kernel, layer.output_kernel)
    biases = (layer.query_bias, layer.key_bias, layer.value_bias, layer.output_bias)
    regularizers = []
    for tensors in (kernels, biases):
        own = [penalties.get(tensor) for tensor in tensors]
        if len({penalty and (penalty.l1, penalty.l2) for penalty in own}) > 1:
            layer.refuse("has penalties of some kernels or biases, and not the same of all")
        regularizers.append(regularizer(own[0]))
    return partial(
        keras.layers.MultiHeadAttention,
        num_heads=layer.heads,
        key_dim=layer.key_size,
        value_dim=layer.value_size,
        output_shape=layer.units,
        dropout=layer.rate,
        use_bias=layer.query_bias is not None,
        kernel_regularizer=regularizers[0],
        bias_regularizer=regularizers[1],
    )


def _call(layer: MultiHeadAttention, made: Any, inputs: Sequence[Any]) -> Any:
    """TF-MOT's wrapper takes one input, and the others by name."""
    query, value, key, *masks = layer.roles(inputs)
    return made(query, value=value, key=key, attention_mask=_attention_mask(*masks), use_causal_mask=layer.causal)


def _attention_mask(queries: Any | None, keys: Any | None) -> Any | None:
    """Keras' mask of pairs of places, of the masks of queries `[batch, T]` and of keys `[batch, S]`:
    `[batch, T or 1, S or 1]`."""
    masks = [(queries, 2), (keys, 1)]
    given = [tf.expand_dims(tf.cast(mask, tf.bool), axis) for mask, axis in masks if mask is not None]
    return tf.logical_and(*given) if len(given) == 2 else next(iter(given), None)


_TENSORS = {f"{role}_{tensor}": f"_{role}_dense.{tensor}" for role in _ROLES for tensor in ("kernel", "bias")}

FAMILY = Family(readers={}, makers={MultiHeadAttention: Maker(_make, _TENSORS, _call)})
