"""The network that layers share while it is written down as a graph, and how a layer is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from export.training_graph.autodiff import Tape, Value
from export.training_graph.flatbuffer import Tensor
from export.training_graph.normalization import Examples
from export.training_graph.operations import absolute_sum, square_sum
from fedprune.errors import TaskError
from fedprune.keras.stack import keras


class NoTrainingGraph(TaskError):
    """The model cannot be trained without TensorFlow; the keras trainer can still train it."""


class Network:
    """`penalties` are the regularisers' losses, `moved` the new moving statistics by their variables' references."""

    def __init__(self, tape: Tape, weights: Mapping[Any, Value], examples: Examples) -> None:
        self.tape = tape
        self.examples = examples
        self.penalties: list[Value] = []
        self.moved: dict[Any, Tensor] = {}
        self._weights = weights
        self._penalised: set[Any] = set()
        self._noises = 0

    def weight(self, layer: Any, name: str) -> Value:
        """A layer's variable. Its regulariser counts once, however often the layer is called."""
        variable = getattr(layer, name)
        value, regularizer = self._weights[variable.ref()], getattr(layer, _regularizer_of(name), None)
        if regularizer is not None and variable.ref() not in self._penalised:
            self._penalised.add(variable.ref())
            self._penalise(layer, value, regularizer)
        return value

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """A new input of numbers that are uniform over [0, 1)."""
        self._noises += 1
        return self.tape.graph.input(f"u{self._noises - 1}", shape)

    def _penalise(self, layer: Any, value: Value, regularizer: Any) -> None:
        known = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
        if type(regularizer) not in known:
            refuse(layer, f"regularizer {type(regularizer).__name__}", "L1, L2 or L1L2")
        settings = regularizer.get_config()
        if settings.get("l1"):
            self.penalties.append(absolute_sum(self.tape, value, float(settings["l1"])))
        if settings.get("l2"):
            self.penalties.append(square_sum(self.tape, value, float(settings["l2"])))


def refuse(layer: Any, what: str, instead: str) -> NoReturn:
    """Raise `NoTrainingGraph`: `layer` has or is `what`; `instead` would work."""
    raise NoTrainingGraph(
        f"{label(layer)}: {what} has no training graph; use {instead}, or train with the keras trainer"
    )


def require(layer: Any, **settings: Any) -> None:
    """Raise `NoTrainingGraph` unless the layer's attributes are so."""
    for name, expected in settings.items():
        found = getattr(layer, name)
        if isinstance(found, np.ndarray):
            found = found.item()
        if found != expected:
            refuse(layer, f"{name} = {plain(found)}", plain(expected))


def label(layer: Any) -> str:
    return f"layer {layer.name!r} ({type(layer).__name__})"


def plain(setting: Any) -> str:
    """A layer's setting for people: Keras keeps lists in wrappers, and numbers as float32."""
    if isinstance(setting, float):
        return f"{setting:g}"
    return repr(list(setting) if isinstance(setting, list) else setting)


def _regularizer_of(name: str) -> str:
    """Keras calls the regularizer of ``depthwise_kernel`` ``depthwise_regularizer``."""
    return f"{name.removesuffix('_kernel')}_regularizer"
