"""Attention: places of one value look up places of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Generic, NamedTuple, TypeVar

import msgspec

from fedprune.network.layer import MAX_SIZE, Count, Layer, Name, Shape

__all__ = ["AttentionLayer", "MultiHeadAttention", "Roles"]

_Input = TypeVar("_Input")


class Roles(NamedTuple, Generic[_Input]):
    """The inputs of attention by what they are for; masks are there or not."""

    query: _Input
    value: _Input
    key: _Input
    query_mask: _Input | None
    key_mask: _Input | None


class MultiHeadAttention(Layer, frozen=True, kw_only=True, tag="multi-head-attention"):
    """Scaled dot-product attention of several heads (Vaswani et al. 2017, arXiv 1706.03762, section 3.2.2).

    Takes queries `[places, channels]`, values, and keys if they are not the values. Kernels are `[channels, heads,
    size]`, that of the output `[heads, value_size, units]`; biases, all or none, are `[heads, size]` and `[units]`.
    `causal`: a place sees none that come after it. `rate` is that of dropout among what is looked up.

    The last inputs are masks where it says so. Of `masked_keys` those whose mask is 0 are not seen. Of `masked_queries`
    those whose mask is 0 see all others alike, as in Keras: all scores are so low that they are one number.
    """

    heads: Count
    key_size: Count
    value_size: Count
    units: Count
    query_kernel: Name
    key_kernel: Name
    value_kernel: Name
    output_kernel: Name
    query_bias: Name | None = None
    key_bias: Name | None = None
    value_bias: Name | None = None
    output_bias: Name | None = None
    causal: bool = False
    rate: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    masked_queries: bool = False
    masked_keys: bool = False

    def roles(self, inputs: Sequence[_Input]) -> Roles[_Input]:
        """The `inputs` by what they are for. Raises `LayerError` if they are too many or too few."""
        masks = self.masked_queries + self.masked_keys
        values, last = inputs[: len(inputs) - masks], list(inputs[len(inputs) - masks :])
        if len(inputs) < masks or len(values) not in (2, 3):
            self.refuse(f"takes 2 or 3 inputs and {masks} masks, not {len(inputs)}")
        query_mask = last.pop(0) if self.masked_queries else None
        return Roles(values[0], values[1], values[-1], query_mask, last.pop() if self.masked_keys else None)

    def output(self, *inputs: Shape) -> Shape:
        query, value, key, query_mask, key_mask = self.roles(inputs)
        for places, mask in ((query, query_mask), (key, key_mask)):
            if mask is not None and mask != places[:1]:
                self.refuse(f"takes a mask for the places of {list(places)}, not the shape {list(mask)}")
        if any(len(x) != 2 for x in (query, value, key)) or key[0] != value[0]:
            self.refuse(f"takes places and channels, keys for all values, not {[list(x) for x in inputs]}")
        scores, projected = query[0] * key[0], max(query[0], key[0]) * max(self.key_size, self.value_size)
        if self.heads * max(scores, projected) > MAX_SIZE:
            self.refuse(f"looks up {key[0]} places from {query[0]}, which with its heads takes more than {MAX_SIZE}")
        if len({bias is None for bias in (self.query_bias, self.key_bias, self.value_bias, self.output_bias)}) > 1:
            self.refuse("has some biases, and not all of them")
        return (query[0], self.units)

    def tensors(self, *inputs: Shape) -> dict[str, Shape]:
        query, value, key = (x[1] for x in self.roles(inputs)[:3])
        return self.named(
            (self.query_kernel, (query, self.heads, self.key_size)),
            (self.query_bias, (self.heads, self.key_size)),
            (self.key_kernel, (key, self.heads, self.key_size)),
            (self.key_bias, (self.heads, self.key_size)),
            (self.value_kernel, (value, self.heads, self.value_size)),
            (self.value_bias, (self.heads, self.value_size)),
            (self.output_kernel, (self.heads, self.value_size, self.units)),
            (self.output_bias, (self.units,)),
        )


AttentionLayer = MultiHeadAttention
"""A layer of any kind in this module."""
