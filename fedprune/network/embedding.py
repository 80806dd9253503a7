"""The layer that takes token ids: rows of a table."""

from __future__ import annotations

from typing import Annotated

import msgspec

from fedprune.network.layer import MAX_SIZE, Count, Layer, Name, Shape

__all__ = ["Embedding", "EmbeddingLayer"]


class Embedding(Layer, frozen=True, kw_only=True, tag="embedding"):
    """For each id from 0 to `vocabulary` - 1 its row of `table` `[vocabulary, units]`. Its input is the network's own,
    which then holds ids, int32, and no numbers."""

    vocabulary: Annotated[int, msgspec.Meta(ge=1, le=MAX_SIZE)]
    units: Count
    table: Name

    def output(self, *inputs: Shape) -> Shape:
        (ids,) = self.take(inputs, 1)
        return (*ids, self.units)

    def tensors(self, *inputs: Shape) -> dict[str, Shape]:  # noqa: ARG002 - the table is the same for all inputs
        return self.named((self.table, (self.vocabulary, self.units)))


EmbeddingLayer = Embedding
"""A layer of any kind in this module."""
