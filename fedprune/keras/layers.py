"""All layers that there are a reader or a maker of, in one table. Importing this module imports TensorFlow.

Each family of layers has a module of its own, with both directions: what is known of a layer is known in one place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from fedprune.keras import (
    attention,
    augmentation,
    embedding,
    joins,
    masks,
    normalization,
    pointwise,
    products,
    recurrent,
    shapes,
    windows,
    wrappers,
)
from fedprune.keras.layer import Maker, Penalties, Reader
from fedprune.network.layers import AnyLayer, Shape

_FAMILIES = (
    attention.FAMILY,
    augmentation.FAMILY,
    embedding.FAMILY,
    joins.FAMILY,
    masks.FAMILY,
    normalization.FAMILY,
    pointwise.FAMILY,
    products.FAMILY,
    recurrent.FAMILY,
    shapes.FAMILY,
    windows.FAMILY,
    wrappers.FAMILY,
)

READERS: dict[type, Reader] = {kind: reader for family in _FAMILIES for kind, reader in family.readers.items()}
"""The readers of Keras' layers, but those of MultiHeadAttention, whose inputs are arguments of their own (`attend`),
and of Masking, which also makes a mask (`leave_out`)."""

_MAKERS: dict[type, Maker] = {kind: maker for family in _FAMILIES for kind, maker in family.makers.items()}

_VALID_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")
"""The names that TensorFlow takes for scopes."""


def make_layer(layer: AnyLayer, number: int, shape: Shape, penalties: Penalties, trainable: bool) -> Any:
    """The Keras layer, not yet built, for inputs of `shape`; layer `number` of its network."""
    name = layer.name if _VALID_NAME.fullmatch(layer.name) else f"layer.{number}"
    made = _MAKERS[type(layer)].make(layer, shape, penalties)(name=name, trainable=trainable)
    made.supports_masking = False  # what it returns has no mask of Keras' own
    return made


def call_layer(layer: AnyLayer, made: Any, inputs: Sequence[Any]) -> Any:
    """What the Keras layer makes of Keras tensors, masks among them."""
    return _MAKERS[type(layer)].call(layer, made, inputs)


def variables_of(layer: AnyLayer, made: Any) -> dict[str, Any]:
    """The variables of the built Keras layer by the names of the tensors that they are."""
    tensors = _MAKERS[type(layer)].tensors
    names = {getattr(layer, name): attribute for name, attribute in tensors.items()}
    return {tensor: attrgetter(attribute)(made) for tensor, attribute in names.items() if tensor is not None}
