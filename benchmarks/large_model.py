"""A perceptron, of 25 million parameters or of other sizes, as a task that is pruned to a constant sparsity."""

from __future__ import annotations

import itertools

from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable
from fedprune.network.description import Call, Network
from fedprune.network.layers import Activation, Dense, Function
from fedprune.pruning.masks import Allocation
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.task.bundle import Fill, Pruning, SeededWeights, Task, Uniform
from fedprune.task.outputs import Output
from fedprune.task.training import Training

INPUTS, OUTPUTS = 1024, 10
Sizes = tuple[int, ...]
"""The inputs of a perceptron, then the units of each layer."""

LARGE: Sizes = (INPUTS, 4096, 4096, 1024, OUTPUTS)


def large_network(sizes: Sizes = LARGE) -> Network:
    layers: list[Dense | Activation] = []
    for number, units in enumerate(sizes[1:]):
        if number:
            layers.append(Activation(name=f"relu{number}", function=Function.RELU))
        layers.append(Dense(name=f"dense{number}", units=units, kernel=f"{number}/kernel", bias=f"{number}/bias"))
    calls = tuple(Call(number, (number,)) for number in range(len(layers)))
    return Network(name="large", inputs=(sizes[:1],), layers=tuple(layers), calls=calls, outputs=(len(layers),))


def large_table() -> TensorTable:
    return TensorTable(_specs(LARGE))


def large_task(training: Training, sparsity: float, sizes: Sizes = LARGE) -> Task:
    """Pruned to `sparsity` after the first round of `training`'s steps."""
    steps = training.steps_per_round
    schedule = ConstantSparsity(target_sparsity=sparsity, begin_step=steps, frequency=steps)
    return Task(
        name="large",
        input_shapes=large_network(sizes).inputs,
        outputs=(Output(sizes[-1:], from_logits=True),),
        tensors=_specs(sizes),
        training=training,
        pruning=Pruning(schedule, allocation=Allocation.GLOBAL),
        members={},
        initial=SeededWeights(0, tuple(Uniform(0.02) if len(spec.shape) == 2 else Fill(0.0) for spec in _specs(sizes))),
    )


def _specs(sizes: Sizes) -> tuple[TensorSpec, ...]:
    specs = []
    for number, shape in enumerate(itertools.pairwise(sizes)):
        layer = f"dense{number}"
        specs.append(TensorSpec(f"{number}/kernel", shape, "float32", TensorClass.PRUNABLE, layer))
        specs.append(TensorSpec(f"{number}/bias", shape[1:], "float32", TensorClass.DENSE, layer))
    return tuple(specs)
