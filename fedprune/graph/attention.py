"""The rule of multi-head attention: products of matrices, and a softmax over the places that are looked up."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np

from fedprune.graph import operations as ops
from fedprune.graph.autodiff import Value
from fedprune.graph.context import Context, Rules
from fedprune.graph.graph import Graph, Tensor
from fedprune.graph.noise import drop
from fedprune.graph.products import batch_matmul
from fedprune.graph.shapes import transpose
from fedprune.network.layers import MultiHeadAttention

_UNSEEN = -1e9
"""What Keras adds to the score of a place that must not be seen: its exponential is 0."""


def _multi_head_attention(context: Context, layer: MultiHeadAttention, inputs: list[Value]) -> Value:
    query, value, key, *masks = layer.roles(inputs)
    query_mask, key_mask = (None if mask is None else mask.tensor for mask in masks)
    tape, n, places = context.tape, query.shape[0], query.shape[1]
    queries = ops.scale(tape, _heads(context, query, layer.query_kernel, layer.query_bias), layer.key_size**-0.5)
    keys = _heads(context, key, layer.key_kernel, layer.key_bias)
    scores = batch_matmul(tape, queries, keys, transpose_b=True)
    unseen = _unseen(tape.graph, layer, places, key.shape[1], query_mask, key_mask)
    if unseen is not None:
        scores = ops.add(tape, scores, tape.leaf(unseen, differentiable=False))
    attention = drop(context, ops.softmax(tape, scores), layer.rate, scores.shape)
    values = _heads(context, value, layer.value_kernel, layer.value_bias)
    found = transpose(tape, batch_matmul(tape, attention, values), 0, 2, 1, 3)
    y = _project(context, found, layer.heads * layer.value_size, layer.output_kernel, layer.output_bias)
    return ops.reshape(tape, y, (n, places, layer.units))


def _unseen(
    graph: Graph, layer: MultiHeadAttention, places: int, keys: int, query_mask: Tensor | None, key_mask: Tensor | None
) -> Tensor | None:
    """What is added to the scores of places that must not be seen, `[n or 1, 1, places or 1, keys or 1]`; None where
    all may be."""
    seen: list[Tensor] = []
    if query_mask is not None:
        seen.append(graph.reshape(query_mask, (query_mask.shape[0], 1, places, 1)))
    if key_mask is not None:
        seen.append(graph.reshape(key_mask, (key_mask.shape[0], 1, 1, keys)))
    if layer.causal:
        before = np.tril(np.ones((1, 1, places, keys), np.float32))
        if not seen:
            return graph.constant((1.0 - before) * np.float32(_UNSEEN))
        seen.append(graph.constant(before))
    return graph.multiply(graph.subtract(1.0, reduce(graph.multiply, seen)), _UNSEEN) if seen else None


def _heads(context: Context, x: Value, kernel: str, bias: str | None) -> Value:
    """`[n, places, channels]` as each head sees it, `[n, heads, places, size]`."""
    tape, (n, places, channels) = context.tape, x.shape
    _, heads, size = context.weight(kernel).shape
    rows = _project(context, x, channels, kernel, bias)
    return transpose(tape, ops.reshape(tape, rows, (n, places, heads, size)), 0, 2, 1, 3)


def _project(context: Context, x: Value, inputs: int, kernel: str, bias: str | None) -> Value:
    """Rows of so many `inputs` times a kernel of any rank as a matrix, plus the bias."""
    tape, weights = context.tape, context.weight(kernel)
    rows = ops.reshape(tape, x, (*ops.in_blocks(x.tensor.size // inputs), inputs))
    matrix = ops.reshape(tape, weights, (inputs, weights.tensor.size // inputs))
    y = ops.matmul(tape, rows, matrix)
    if bias is None:
        return y
    shift = context.weight(bias)
    return ops.add(tape, y, ops.reshape(tape, shift, (math.prod(shift.shape),)))


RULES: Rules = {MultiHeadAttention: _multi_head_attention}
