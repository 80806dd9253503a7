"""Refusing a Keras layer that the description of a network has no words for."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from fedprune.errors import TaskError


def refuse(layer: Any, what: str, instead: str) -> NoReturn:
    """Raise `TaskError`: `layer` has or is `what`, which cannot be described; `instead` would work."""
    raise TaskError(f"{label(layer)}: {what} is not supported; use {instead}")


def require(layer: Any, **settings: Any) -> None:
    """Raise `TaskError` unless the layer's attributes are so."""
    for name, expected in settings.items():
        found = getattr(layer, name)
        if isinstance(found, np.ndarray):
            found = found.item()
        if found != expected:
            refuse(layer, f"{name} = {plain(found)}", plain(expected))


def label(layer: Any) -> str:
    """A layer for people: its name and Keras class."""
    return f"layer {layer.name[:60]!r} ({type(layer).__name__})"


def plain(setting: Any) -> str:
    """A layer's setting for people: Keras keeps lists in wrappers, and numbers as float32."""
    if isinstance(setting, float):
        return f"{setting:g}"
    return repr(list(setting) if isinstance(setting, list) else setting)[:80]
