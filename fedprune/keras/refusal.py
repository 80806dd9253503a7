"""Refusing a Keras layer that the description of a network has no words for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from fedprune.errors import TaskError


class LayerRefused(TaskError):
    """A Keras layer that cannot be described, and the settings that it would have to have."""

    def __init__(self, layer: Any, message: str, required: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.layer = layer
        self.required = required


def refuse(layer: Any, what: str, instead: str, **required: Any) -> NoReturn:
    """Raise `LayerRefused`: `layer` has or is `what`, which cannot be described; `instead` would work, which is to have
    the settings that are `required`."""
    raise LayerRefused(layer, f"{label(layer)}: {what} is not supported; use {instead}", required)


def require(layer: Any, **settings: Any) -> None:
    """Raise `LayerRefused` unless the layer's attributes are so."""
    for name, expected in settings.items():
        found = getattr(layer, name)
        if isinstance(found, np.ndarray):
            found = found.item()
        if found != expected:
            refuse(layer, f"{name} = {plain(found)}", plain(expected), **{name: expected})


def check_common(layer: Any) -> None:
    """Raise `TaskError` for settings that any Keras layer may have, and no description."""
    require(layer, compute_dtype="float32")
    if hasattr(layer, "data_format"):
        require(layer, data_format="channels_last")
    for name, value in (vars(layer) | vars(getattr(layer, "cell", layer))).items():
        if name.endswith("_constraint") and value is not None:
            refuse(layer, name, "none")
    if getattr(layer, "activity_regularizer", None) is not None:
        refuse(layer, "activity_regularizer", "a regularizer of its weights")


def label(layer: Any) -> str:
    """A layer for people: its name and Keras class."""
    return f"layer {layer.name[:60]!r} ({type(layer).__name__})"


def plain(setting: Any) -> str:
    """A layer's setting for people: Keras keeps lists in wrappers, and numbers as float32."""
    if isinstance(setting, float):
        return f"{setting:g}"
    return repr(list(setting) if isinstance(setting, list) else setting)[:80]
