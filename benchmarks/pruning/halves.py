"""Two networks, whole and without half of their units. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.federations.networks import window_cnn
from export.architecture import tensor_table
from export.describing.model import describe
from export.models import cnn_108k
from fedprune.keras.stack import keras
from fedprune.model.tensors import Array, TensorTable
from fedprune.network.description import Network
from fedprune.slimming.groups import dependency_groups
from fedprune.slimming.selection import UnitAllocation, choose_units
from fedprune.slimming.slim import slim

_L = keras.layers
_IMAGES_PENALTY, _WINDOWS_PENALTY = 3e-4, 2e-3
"""With its task's learning rate and momentum 0.9 a weight without another gradient loses 1.5e-4 or 2e-4 a step."""
MULTIPLE = 8
"""Channels that a layer keeps are a multiple of it."""


@dataclass(frozen=True, eq=False)
class Described:
    """A network with its tensor table, and weights."""

    network: Network
    table: TensorTable
    weights: dict[str, Array]


def halves(name: str) -> tuple[Described, Described]:
    """One of `NETWORKS` with random weights, and without half of its units. Its speed does not depend on which these
    are."""
    keras.utils.set_random_seed(1)
    model = NETWORKS[name]()
    network, specs = describe(model)
    names = (spec.name for spec in tensor_table(model))
    whole = Described(network, TensorTable(specs), dict(zip(names, model.get_weights(), strict=True)))
    groups = dependency_groups(network, whole.table)
    kept = choose_units(groups, whole.weights, 0.5, UnitAllocation.UNIFORM, multiple=MULTIPLE)
    half = slim(groups, whole.weights, kept)
    return whole, Described(half.network, half.table, half.weights)


def half_cnn() -> Any:
    """CNN-108k with half of its filters and units from the start: 27,562 parameters."""
    return keras.Sequential(
        [
            _L.Input((28, 28, 1)),
            _L.Conv2D(8, 3, activation="relu", name="conv1"),
            _L.MaxPooling2D(2, name="pool1"),
            _L.Conv2D(16, 3, activation="relu", name="conv2"),
            _L.MaxPooling2D(2, name="pool2"),
            _L.Flatten(name="flatten"),
            _L.Dense(64, activation="relu", name="dense"),
            _L.Dense(10, name="logits"),
        ],
        name="half-cnn",
    )


def l1_cnn() -> Any:
    """CNN-108k with an L1 penalty on its kernels."""
    return _with_l1(cnn_108k((28, 28, 1), 10), _IMAGES_PENALTY)


def l1_window_cnn() -> Any:
    """The network for windows with an L1 penalty on its kernels."""
    return _with_l1(window_cnn(), _WINDOWS_PENALTY)


def _with_l1(model: Any, penalty: float) -> Any:
    """Its weights are drawn anew."""
    config = model.get_config()
    for layer in config["layers"]:
        if "kernel_regularizer" in layer["config"]:
            layer["config"]["kernel_regularizer"] = keras.regularizers.serialize(keras.regularizers.L1(penalty))
    return type(model).from_config(config)


def _mobilenet() -> Any:
    """MobileNetV1 (Howard et al. 2017, arXiv 1704.04861, table 1) of width 1/2, for images of 96 x 96."""
    x = _L.Input((96, 96, 3))
    y = _normalized(_L.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(x))
    blocks = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), *[(256, 1)] * 5, (512, 2), (512, 1))
    for filters, strides in blocks:
        y = _normalized(_L.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(y))
        y = _normalized(_L.Conv2D(filters, 1, use_bias=False)(y))
    return keras.Model(x, _L.Dense(10)(_L.GlobalAveragePooling2D()(y)))


def _normalized(x: Any) -> Any:
    return _L.ReLU(6.0)(_L.BatchNormalization()(x))


NETWORKS: dict[str, Callable[[], Any]] = {
    "CNN-108k": lambda: cnn_108k((28, 28, 1), 10),
    "MobileNetV1-like": _mobilenet,
}
