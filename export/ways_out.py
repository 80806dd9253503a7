"""Ways out of a refusal: changes to the refused layer that were tried, and with which the model is taken.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from fedprune.keras.layers import READERS
from fedprune.keras.refusal import LayerRefused, plain
from fedprune.keras.stack import keras

DESCRIPTIONS, PROOFS = 6, 2
"""Changes that are tried: each is a copy of the model, and its description or also the proof of a graph."""

_Change = tuple[str, Callable[[], Any]]
"""What is changed, in words, and the layer that takes the place of the refused one."""

_L = keras.layers
_RECTIFIERS = (_L.PReLU, _L.ThresholdedReLU)


def ways_to_describe(model: Any, refusal: LayerRefused, describe: Callable[[Any], object]) -> list[str]:
    """The changes to the layer that was refused with which `describe` takes a copy of `model`, in words."""
    layer = refusal.layer
    changes = [*_settings(layer, refusal.required), *_replacements(layer)]
    return list(_working(model, layer, islice(changes, DESCRIPTIONS), describe))


def ways_to_prove(model: Any, layer: Any, prove: Callable[[Any], object]) -> list[str]:
    """The changes to a layer, whose gradients could not be proven, with which `prove` takes a copy of `model`."""
    config = layer.get_config()
    without = [{name: False} for name in ("use_bias", "center") if config.get(name)]
    changes = (_with(layer, settings) for settings in without)
    return list(_working(model, layer, islice(changes, PROOFS), prove))


def _working(model: Any, refused: Any, changes: Iterator[_Change], accept: Callable[[Any], object]) -> Iterator[str]:
    if refused not in _copied_one_by_one(model):  # it is within another, as a cell is
        return
    for words, make in changes:
        try:
            changed = _copy(model, refused, make)
            accept(changed)
        except Exception:  # noqa: S112 - whatever Keras raises where the change does not fit; and a refusal
            continue
        if changed.output_shape == model.output_shape:
            yield words


def _copied_one_by_one(model: Any) -> list[Any]:
    """The layers of which `_copy` may make others."""
    parts = [_copied_one_by_one(layer) if isinstance(layer, keras.Model) else [layer] for layer in model.layers]
    return list(chain.from_iterable(parts))


def _copy(model: Any, refused: Any, make: Callable[[], Any]) -> Any:
    """A copy of the model, those in it among them, with another layer in the place of the refused one."""

    def copy(layer: Any) -> Any:
        if layer is refused:
            return make()
        if isinstance(layer, keras.Model):
            return _copy(layer, refused, make)
        return type(layer).from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=copy)


def _settings(layer: Any, required: Mapping[str, Any]) -> Iterator[_Change]:
    """The layer with other settings."""
    config = layer.get_config()
    if required:
        yield _with(layer, required)
    if config.get("activation") not in (None, "linear"):
        for activation in ("relu", "linear"):
            yield _with(layer, {"activation": activation})
    penalties = {
        name: None for name, found in config.items() if name.endswith(("_constraint", "_regularizer")) and found
    }
    if penalties:
        yield _with(layer, penalties)


def _with(layer: Any, settings: Mapping[str, Any]) -> _Change:
    words = ", ".join(f"{name} = {plain(value)}" for name, value in settings.items())
    return words, lambda: type(layer).from_config({**layer.get_config(), **settings})


def _replacements(layer: Any) -> Iterator[_Change]:
    """What may stand for a layer of a kind that no description has: a layer that does the like, or none."""
    if type(layer) in READERS:
        return
    for words, make in _alike(layer):
        yield f"{words} instead", make
    if layer.input_shape == layer.output_shape:
        yield "the layer left out", lambda: _L.Identity(name=layer.name)


def _alike(layer: Any) -> Iterator[_Change]:
    if isinstance(layer, _L.AlphaDropout):
        yield "Dropout", lambda: _L.Dropout(layer.rate, name=layer.name)
    elif isinstance(layer, _RECTIFIERS):
        yield "LeakyReLU", lambda: _L.LeakyReLU(name=layer.name)
