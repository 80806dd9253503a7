"""Networks described by hand, for tests that need no Keras model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, TensorClass, TensorSpec, TensorTable
from fedprune.network.description import Call, Network
from fedprune.network.layers import AnyLayer, BatchNormalization, Convolution, Dense, Embedding, Shape


def dense(units: int = 4, **changes: Any) -> Dense:
    return Dense(name="d", units=units, kernel="d/kernel", **changes)


def convolution(size: Shape, strides: Shape, **changes: Any) -> Convolution:
    return Convolution(name="c", size=size, strides=strides, filters=5, kernel="c/kernel", **changes)


def normalization(**changes: Any) -> BatchNormalization:
    fields: dict[str, Any] = {"epsilon": 1e-3, "momentum": 0.9, "unbiased": False, "gamma": "g", "beta": None}
    return BatchNormalization(name="b", mean="m", variance="v", **fields | changes)


def embedding(vocabulary: int = 9) -> Embedding:
    return Embedding(name="e", vocabulary=vocabulary, units=4, table="e/table")


def chain_of(input_shape: Shape, *layers: AnyLayer) -> Network:
    """Layers one after another."""
    calls = tuple(Call(number, (number,)) for number in range(len(layers)))
    return Network("chain", (input_shape,), layers, calls, (len(layers),))


def table_of(network: Network, frozen: Collection[str] = ()) -> TensorTable:
    """A tensor table of the network, in which the named tensors are frozen."""
    shapes = network.shapes()
    rows: dict[str, TensorSpec] = {}
    for layer, call in network.steps():
        for name, shape in layer.tensors(*(shapes[value] for value in call.inputs)).items():
            rows[name] = TensorSpec(name, shape, "float32", _kind(layer, name, shape, frozen), layer.name)
    return TensorTable(tuple(rows.values()))


def weights_of(table: TensorTable, low: float = 0.5, high: float = 1.5) -> dict[str, Array]:
    """Weights between two numbers; a variance must not be negative."""
    keyed = Keyed(0, "described")
    return {spec.name: keyed.uniform(spec.size, low, high).reshape(spec.shape) for spec in table}


def _kind(layer: AnyLayer, name: str, shape: Shape, frozen: Collection[str]) -> TensorClass:
    if name in frozen:
        return TensorClass.FROZEN
    if isinstance(layer, BatchNormalization) and name in (layer.mean, layer.variance):
        return TensorClass.STATISTICS
    return TensorClass.PRUNABLE if len(shape) > 1 else TensorClass.DENSE
