"""Finding weights in what Keras 3 saved: by the kind of a layer, and its number among those of its kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np

from export.keras3.layers import Config
from export.keras3.model import is_model
from export.keras3.operators import is_operator
from fedprune.errors import TaskError
from fedprune.keras.stack import keras


def load_weights(model: Any, described: Config, file: h5py.File) -> None:
    """Give the tf_keras `model`, made of `described`, the weights in `file`. Raises `TaskError` if some are missing."""
    for layer, place in _places(model, described, ""):
        variables = layer.weights
        group = file.get(f"{place}/vars") if variables else {}
        arrays = [np.asarray(group[name]) for name in sorted(group or {}, key=int)]
        expected, found = [tuple(variable.shape) for variable in variables], [array.shape for array in arrays]
        if found != expected:
            raise TaskError(f"layer {layer.name[:60]!r} has weights of {expected}, and the file {found}; save it again")
        layer.set_weights(arrays)


def _places(model: Any, described: Config, place: str) -> Iterator[tuple[Any, str]]:
    """The layers of a model and of those within it, each with the place of its weights in the file."""
    layers = {layer.name: layer for layer in model.layers}
    seen: Counter[str] = Counter()
    for inner in described["config"]["layers"]:
        if is_operator(inner):
            continue
        kind = _snake_case(inner["class_name"])
        inside = f"{place}layers/{kind}" + (f"_{seen[kind]}" if seen[kind] else "")
        seen[kind] += 1
        layer = layers.get(inner["config"]["name"])
        if layer is None or inner["class_name"] == "InputLayer":
            continue
        if is_model(inner):
            yield from _places(layer, inner, f"{inside}/")
        else:
            yield from _holders(layer, inside)


def _holders(layer: Any, place: str) -> Iterator[tuple[Any, str]]:
    """A layer, or those that it applies, with the places of their weights."""
    if isinstance(layer, keras.layers.Bidirectional):
        yield from _holders(layer.forward_layer, f"{place}/forward_layer")
        yield from _holders(layer.backward_layer, f"{place}/backward_layer")
    elif isinstance(layer, keras.layers.TimeDistributed):
        yield from _holders(layer.layer, f"{place}/layer")
    elif isinstance(layer, keras.layers.MultiHeadAttention):
        for role in ("query", "key", "value", "output"):
            yield getattr(layer, f"_{role}_dense"), f"{place}/{role}_dense"
    else:
        yield layer, f"{place}/cell" if isinstance(layer, keras.layers.RNN) else place


def _snake_case(name: str) -> str:
    """Keras' own: ``Conv2D`` becomes ``conv2d``, ``BatchNormalization`` ``batch_normalization``."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
