"""What a task may be: a bundle is foreign data until this is known of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fedprune.data.description import Text
from fedprune.model.tensors import TensorClass, TensorTable
from fedprune.network.description import Network
from fedprune.network.output_bias import output_bias
from fedprune.task.outputs import problem_of

if TYPE_CHECKING:
    from fedprune.task.bundle import Task

MAX_PARAMETERS = 2**25
"""128 MiB of weights, more than a small device can train."""

_MAX_EXAMPLE = 2**24
_INTEGERS = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"})


def problem_of_task(task: Task) -> str:
    """Say what is wrong with a task that has the right fields; empty if nothing is."""
    if problem := _problem_of_outputs(task):
        return problem
    shapes = [*task.input_shapes, *(output.shape for output in task.outputs), *(spec.shape for spec in task.tensors)]
    if any(size < 1 for shape in shapes for size in shape):
        return "a size is below 1"
    if sum(map(math.prod, task.input_shapes)) > _MAX_EXAMPLE or task.table.parameters > MAX_PARAMETERS:
        return f"an example or the model is too large (at most {_MAX_EXAMPLE} and {MAX_PARAMETERS} scalars)"
    if len({spec.name for spec in task.tensors}) != len(task.tensors):
        return "two tensors have the same name"
    if any(spec.kind not in (TensorClass.DENSE, TensorClass.STATISTICS) for spec in task.table.local):
        return "a local tensor is neither dense nor a statistic"
    if any((spec.dtype in _INTEGERS) != (spec.kind is TensorClass.INTEGER) for spec in task.tensors):
        return "a tensor's dtype does not fit its class"
    if any(spec.dtype not in _INTEGERS | {"float32"} for spec in task.tensors):
        return "a tensor is neither float32 nor of integers"
    if any(len(shapes) != 2 or shapes[0] != shapes[1] for shapes in _statistics_by_layer(task.table)):
        return "a layer's statistics are not a mean and a variance of one shape"
    if task.training.epochs_per_round and task.pruning.mask.rules.device_schedule(task.pruning.schedule) is not None:
        return 'epochs_per_round needs mask = "shared": devices prune by a clock of steps that all of them make'
    if task.pruning.regrowth is not None and task.training.powerpropagation > 1.0:
        return "pruning.regrowth brings weights back at 0, where powerpropagation holds them"
    if isinstance(task.data, Text) and task.data.lacks_words:
        return "its vocabulary has no words"
    if task.initial is not None and len(task.initial.initializers) != len(task.tensors):
        return "one initialiser is needed for each tensor"
    return ""


def problem_of_adjustment(task: Task, network: Network) -> str:
    """Say which output's logits cannot be adjusted; empty if all can that should be.

    A penalty would draw the bias, and what is added to it, to 0: devices then learned how frequent their own classes
    are.
    """
    biases = {spec.name for spec in task.table.of(TensorClass.DENSE)} - {each.tensor for each in network.penalties}
    for number, form in enumerate(task.output_forms):
        if form.objective.logit_adjustment and output_bias(network, number) not in biases:
            return (
                f"logit_adjustment needs a bias that is trained, has no regularizer, is not local and adds to nothing "
                f"but the logits of output {form.array}; give its last layer one, or leave logit_adjustment out"
            )
    return ""


def _problem_of_outputs(task: Task) -> str:
    """Say what is wrong with the outputs and their losses; empty if nothing is."""
    names = [output.name for output in task.outputs if output.name]
    if len(names) != (len(task.outputs) if len(task.outputs) > 1 else 0) or not task.outputs:
        return "several outputs need a name each, a single one has none"
    if set(names) != set(task.training.losses) or len(set(names)) != len(names):
        return "training.losses does not have a loss for each of several outputs"
    return next(filter(None, (problem_of(form) for form in task.output_forms)), "")


def _statistics_by_layer(table: TensorTable) -> Iterable[list[tuple[int, ...]]]:
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for spec in table.of(TensorClass.STATISTICS):
        shapes.setdefault(spec.layer, []).append(spec.shape)
    return shapes.values()
