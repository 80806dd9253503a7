"""Readers of Keras' augmentation layers. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fedprune.keras.draft import Draft
from fedprune.keras.layer import Family, Reader
from fedprune.keras.refusal import refuse
from fedprune.keras.stack import keras
from fedprune.network import augmentation as network
from fedprune.network.augmentation import FillMode, Interpolation, Range

_COLOURS = (0.0, 255.0)
"""The range at which tf_keras cuts off contrast; that of a file of Keras 3 may be another (`value_range`)."""


def _flip(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return draft.add(layer, network.RandomFlip, *inputs, horizontal=layer.horizontal, vertical=layer.vertical)


def _rotation(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return draft.add(layer, network.RandomRotation, *inputs, turns=_range(layer.lower, layer.upper), **_filling(layer))


def _translation(draft: Draft, layer: Any, inputs: list[int]) -> int:
    height, width = _range(layer.height_lower, layer.height_upper), _range(layer.width_lower, layer.width_upper)
    return draft.add(layer, network.RandomTranslation, *inputs, height=height, width=width, **_filling(layer))


def _zoom(draft: Draft, layer: Any, inputs: list[int]) -> int:
    width = None if layer.width_factor is None else _range(layer.width_lower, layer.width_upper)
    height = _range(layer.height_lower, layer.height_upper)
    return draft.add(layer, network.RandomZoom, *inputs, height=height, width=width, **_filling(layer))


def _contrast(draft: Draft, layer: Any, inputs: list[int]) -> int:
    low, high = getattr(layer, "value_range", _COLOURS)
    factor = _range(1.0 - layer.lower, 1.0 + layer.upper)
    return draft.add(layer, network.RandomContrast, *inputs, factor=factor, low=(float(low),), high=(float(high),))


def _range(first: float, second: float) -> Range:
    """Keras draws between the ends, whichever is the larger."""
    return float(min(first, second)), float(max(first, second))


def _filling(layer: Any) -> dict[str, Any]:
    for setting, known in (("fill_mode", FillMode), ("interpolation", Interpolation)):
        if getattr(layer, setting) not in list(known):
            refuse(layer, f"{setting} = {getattr(layer, setting)!r}", f"one of {', '.join(known)}")
    mode = FillMode(layer.fill_mode)
    fill = float(layer.fill_value) if mode is FillMode.CONSTANT else 0.0
    return {"fill_mode": mode, "interpolation": Interpolation(layer.interpolation), "fill": (fill,)}


_FILLING = "fill_mode fill_value interpolation"

FAMILY = Family(
    readers={
        keras.layers.RandomContrast: Reader(_contrast, "factor value_range"),
        keras.layers.RandomFlip: Reader(_flip, "mode"),
        keras.layers.RandomRotation: Reader(_rotation, f"factor {_FILLING}"),
        keras.layers.RandomTranslation: Reader(_translation, f"height_factor width_factor {_FILLING}"),
        keras.layers.RandomZoom: Reader(_zoom, f"height_factor width_factor {_FILLING}"),
    },
    makers={},
)
"""Devices augment without Keras (`edge_agent.augmentation`), so that there are no makers."""

AUGMENTATION = tuple(FAMILY.readers)
"""Keras' augmentation layers."""


def does_nothing(x: Any, training: Any = None) -> Any:  # noqa: ARG001 - Keras gives it
    """What stands for the `call` of an augmentation layer where a network is compared without."""
    return x


@contextmanager
def without_augmentation(model: Any) -> Iterator[None]:
    """`model`, whose augmentation layers return what they take, also in training."""
    layers = [layer for layer in model.submodules if isinstance(layer, AUGMENTATION)]
    try:
        for layer in layers:
            vars(layer)["call"] = does_nothing
        yield
    finally:
        for layer in layers:
            del vars(layer)["call"]
