"""A Keras model's tensor table, and the form of its description. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fedprune.errors import TaskError
from fedprune.keras.stack import keras, tf
from fedprune.model.forms import OutputForm
from fedprune.model.losses import Loss
from fedprune.model.tensors import TensorClass, TensorSpec
from fedprune.network.description import Network
from fedprune.network.layers import (
    Activation,
    Add,
    AnyLayer,
    Concatenate,
    Convolution,
    Cropping,
    Dense,
    DepthwiseConvolution,
    GlobalPooling,
    Permute,
    Rescaling,
    Reshape,
    Statistic,
    TransposedConvolution,
    Upsampling,
)
from fedprune.runtime.tflite import one_line
from fedprune.task.outputs import Output, problem_of
from fedprune.task.training import Training

_LINEAR = (Convolution, Dense, DepthwiseConvolution, TransposedConvolution)
_REARRANGING = (Add, Concatenate, Cropping, GlobalPooling, Permute, Rescaling, Reshape, Upsampling)
"""Layers after which linear outputs, or means of them, are still linear."""


def task_outputs(network: Network, training: Training) -> tuple[Output, ...]:
    """The outputs of a task. Raises `TaskError` unless `network` makes rows of outputs that suit their losses."""
    names, shapes = network.output_names or ("",), network.shapes()
    if set(network.output_names) != set(training.losses):
        raise TaskError(_wrong_losses(network, training))
    outputs = []
    for name, value in zip(names, network.outputs, strict=True):
        shape, which = shapes[value], (f"output {name!r} of " if name else "") + f"model {network.name!r}"
        loss = training.losses[name].loss if name else training.loss
        fewest = loss.rule.fewest_outputs
        if not shape or shape[-1] < fewest:
            raise TaskError(
                f"{which} returns {[None, *shape]}; for {loss} it must return [None, outputs] or "
                f"[None, places, outputs], {fewest} outputs at least"
            )
        outputs.append(Output(shape, _from_logits(network, value, loss), name))
        if problem := problem_of(OutputForm(name, shape, training.objective_of(outputs[-1]))):
            raise TaskError(f"{which}: {problem}; correct class_weights in task.toml")
    return tuple(outputs)


def _wrong_losses(network: Network, training: Training) -> str:
    if not network.output_names:
        return f"model {network.name!r} has one output; give its loss as training.loss, without training.losses"
    found = ", ".join(sorted(training.losses)) or "none"
    return (
        f"model {network.name!r} has the outputs {', '.join(network.output_names)}, and training.losses has "
        f"{one_line(found)}; give a table [training.losses.NAME] with a loss for each"
    )


def tensor_table(model: Any) -> tuple[TensorSpec, ...]:
    """A row for each of `model.weights`: the order of `strip_pruning(model).weights`, and its names without ``:0``.

    Where two layers have the same name (in nested models), the later one's gets a number. Raises `TaskError` for
    variables of a layer that a federation could not train.
    """
    owners = {variable.ref(): layer for layer, _, variable in variables_of(model)}
    kinds = {variable.ref(): TensorClass.PRUNABLE for variable in _prunable_variables(model)}
    kinds |= {variable.ref(): TensorClass.STATISTICS for variable in _moving_statistics(model)}
    kinds |= {variable.ref(): TensorClass.FROZEN for variable in _frozen_variables(model)}
    labels: dict[str, Any] = {}
    rows = []
    for variable in model.weights:
        prefix, _, own_name = variable.name.partition(":")[0].rpartition("/")
        owner = owners.get(variable.ref(), model)
        label = _label(labels, prefix, owner)
        kind = TensorClass.INTEGER if not variable.dtype.is_floating else kinds.get(variable.ref(), TensorClass.DENSE)
        _check_variable(variable, owner)
        rows.append(TensorSpec(f"{label}/{own_name}", tuple(variable.shape), variable.dtype.name, kind, label))
    return tuple(rows)


def variables_of(model: Any) -> Iterator[tuple[Any, str, Any]]:
    """Each variable with the layer that it is an attribute of, and the attribute's name."""
    for layer in model.submodules:
        for attribute, value in vars(layer).items():
            if isinstance(value, tf.Variable):
                yield layer, attribute, value


def _from_logits(network: Network, output: int, loss: Loss) -> bool:
    function = loss.rule.activation
    if function is None:
        return False
    makers = [(layer, call.inputs) for layer, call in network.steps()]
    first = len(network.inputs)
    last = makers[output - first][0] if output >= first else None
    if isinstance(last, Activation) and last.function == function:
        return False
    if _is_linear(output - first, makers, first):
        return True
    name = last.name if last is not None else "input"
    raise TaskError(
        f"model {network.name!r} ends in layer {name!r}, which for {loss} is neither {function} "
        "(probabilities) nor linear (logits); end it in a Dense or Activation layer that is one of them"
    )


def _is_linear(call: int, makers: Sequence[tuple[AnyLayer, tuple[int, ...]]], first: int) -> bool:
    """What a call makes, whose value is `first` + `call`, is shaped last by weights. A softmax's numbers need not be
    probabilities after a mean."""
    pending = [call]
    while pending:
        call = pending.pop()
        if call < 0:
            return False
        layer, inputs = makers[call]
        if isinstance(layer, _LINEAR):
            continue
        if not isinstance(layer, _REARRANGING) or getattr(layer, "statistic", None) is Statistic.MAX:
            return False
        values = inputs[:1] if isinstance(layer, GlobalPooling) else inputs  # not the mask of a mean
        pending.extend(value - first for value in values)
    return True


def _layers(model: Any) -> Iterator[Any]:
    """The layers that TF-MOT wraps one by one: those of nested models, too."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield from _unwrapped(layer)


def _unwrapped(layer: Any) -> Iterator[Any]:
    """`layer`, or those that it applies: TF-MOT does not know their wrappers, and the described model has none."""
    if isinstance(layer, keras.layers.Bidirectional):
        yield from (layer.forward_layer, layer.backward_layer)
    else:
        yield layer.layer if isinstance(layer, keras.layers.TimeDistributed) else layer


def _prunable_variables(model: Any) -> Iterator[Any]:
    # Here and not above: whoever loads TF-MOT before `fedprune.keras.stack` also gets Keras 3 and a page of messages.
    from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import PruneRegistry

    for layer in _layers(model):
        if PruneRegistry.supports(layer):
            yield from PruneRegistry.make_prunable(layer).get_prunable_weights()


def _moving_statistics(model: Any) -> Iterator[Any]:
    for layer in model.submodules:
        if isinstance(layer, keras.layers.BatchNormalization):
            yield from (layer.moving_mean, layer.moving_variance)


def _frozen_variables(model: Any) -> Iterator[Any]:
    """The variables that layers would train, or move, if they were not frozen."""
    trained = {variable.ref() for variable in model.trainable_variables}
    yield from (variable for variable in model.weights if variable.trainable and variable.ref() not in trained)
    for layer in model.submodules:
        if isinstance(layer, keras.layers.BatchNormalization) and not layer.trainable:
            yield from (layer.moving_mean, layer.moving_variance)


def _label(labels: dict[str, Any], prefix: str, owner: Any) -> str:
    """`prefix`, numbered if a layer other than `owner` has it already."""
    label, number = prefix, 0
    while labels.setdefault(label, owner) is not owner:
        number += 1
        label = f"{prefix}_{number}"
    return label


def _check_variable(variable: Any, owner: Any) -> None:
    if isinstance(owner, keras.layers.Normalization):
        raise TaskError(
            f"layer {owner.name!r} was adapted to data, which no device repeats; give it mean= and variance= instead"
        )
    if variable.dtype.is_floating and variable.dtype != tf.float32:
        raise TaskError(f"layer {owner.name!r} holds {variable.dtype.name}; build the model in float32")
