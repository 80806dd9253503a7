"""Tables of token ids, read and made. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fedprune.keras.draft import Draft
from fedprune.keras.layer import Family, Maker, Penalties, Reader, regularizer
from fedprune.keras.stack import keras
from fedprune.network.layers import Embedding, Shape


def _read(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    return draft.add(
        layer,
        Embedding,
        x,
        vocabulary=int(layer.input_dim),
        units=int(layer.output_dim),
        table=draft.tensor(layer, "embeddings"),
    )


def _make(layer: Embedding, _shape: Shape, penalties: Penalties) -> Callable[..., Any]:
    return partial(
        keras.layers.Embedding,
        input_dim=layer.vocabulary,
        output_dim=layer.units,
        embeddings_regularizer=regularizer(penalties.get(layer.table)),
    )


_SETTINGS = "input_dim output_dim embeddings_initializer embeddings_regularizer embeddings_constraint mask_zero"

FAMILY = Family(
    readers={keras.layers.Embedding: Reader(_read, _SETTINGS)},
    makers={Embedding: Maker(_make, {"table": "embeddings"})},
)
