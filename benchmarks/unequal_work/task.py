"""The benchmark's task: a perceptron with one hidden layer, with or without batch normalisation, and no pruning."""

from __future__ import annotations

import math
from collections.abc import Collection

from benchmarks.unproven import unproven_graph
from export.local_layers import with_local_layers
from fedprune.model.metrics import Metric
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable
from fedprune.network.description import Call, Network
from fedprune.network.layers import Activation, AnyLayer, BatchNormalization, Dense, Function
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.task.bundle import Bundle, Fill, Pruning, SeededWeights, Task, Uniform, read_bundle, write_bundle
from fedprune.task.outputs import Output
from fedprune.task.training import Sgd, Training

INPUTS = 784
_HIDDEN, _CLASSES = 64, 10
_BATCH_SIZES = (8, 16, 32)
"""As in tasks that are built: who has few examples takes smaller batches."""
_RATE = 0.05


def make_bundle(
    *, epochs: int, seed: int, is_normalized: bool, local: Collection[str], momentum: float = 0.9
) -> Bundle:
    """The task of `epochs` a round, first weights drawn from `seed`, and the layers named `local` on the devices."""
    network = _network(is_normalized=is_normalized)
    table = with_local_layers(_tensors(is_normalized=is_normalized), network, local)
    task = Task(
        name="unequal work",
        input_shapes=network.inputs,
        outputs=(Output((_CLASSES,), from_logits=True, metrics=(Metric.ACCURACY,)),),
        tensors=table,
        training=Training(epochs_per_round=epochs, batch_size=_BATCH_SIZES[-1], optimizer=Sgd(_RATE, momentum)),
        pruning=Pruning(ConstantSparsity(target_sparsity=0.0, begin_step=1, frequency=1)),
        members={},
        initial=SeededWeights(seed, tuple(map(_initializer, table))),
    )
    graphs = tuple(unproven_graph(network, TensorTable(table), task.objectives, size) for size in _BATCH_SIZES)
    return read_bundle(write_bundle(task, network=network, weights=None, graphs=graphs))


def _network(*, is_normalized: bool) -> Network:
    hidden = Dense(name="hidden", units=_HIDDEN, kernel="hidden/kernel", bias="hidden/bias")
    normalized = BatchNormalization(
        name="scale",
        epsilon=1e-3,
        momentum=0.9,
        unbiased=False,
        gamma="scale/gamma",
        beta="scale/beta",
        mean="scale/mean",
        variance="scale/variance",
    )
    head = Dense(name="head", units=_CLASSES, kernel="head/kernel", bias="head/bias")
    relu = Activation(name="relu", function=Function.RELU)
    layers: tuple[AnyLayer, ...] = (hidden, *((normalized,) if is_normalized else ()), relu, head)
    calls = tuple(Call(number, (number,)) for number in range(len(layers)))
    return Network("perceptron", ((INPUTS,),), layers, calls, (len(layers),))


def _tensors(*, is_normalized: bool) -> tuple[TensorSpec, ...]:
    def row(layer: str, name: str, kind: TensorClass, *shape: int) -> TensorSpec:
        return TensorSpec(f"{layer}/{name}", shape, "float32", kind, layer)

    prunable, dense, statistics = TensorClass.PRUNABLE, TensorClass.DENSE, TensorClass.STATISTICS
    normalized = (
        row("scale", "gamma", dense, _HIDDEN),
        row("scale", "beta", dense, _HIDDEN),
        row("scale", "mean", statistics, _HIDDEN),
        row("scale", "variance", statistics, _HIDDEN),
    )
    return (
        row("hidden", "kernel", prunable, INPUTS, _HIDDEN),
        row("hidden", "bias", dense, _HIDDEN),
        *(normalized if is_normalized else ()),
        row("head", "kernel", prunable, _HIDDEN, _CLASSES),
        row("head", "bias", dense, _CLASSES),
    )


def _initializer(spec: TensorSpec) -> Fill | Uniform:
    """Keras' own: Glorot uniform kernels, and batch normalisation that changes nothing at first."""
    if len(spec.shape) == 2:
        return Uniform(math.sqrt(6.0 / sum(spec.shape)))
    return Fill(1.0 if spec.name.endswith(("gamma", "variance")) else 0.0)
