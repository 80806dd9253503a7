"""A Keras model's tensor table, and the form of its description. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fedprune.errors import TaskError
from fedprune.keras.stack import keras, tf
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

_LINEAR = (Convolution, Dense, DepthwiseConvolution, TransposedConvolution)
_REARRANGING = (Add, Concatenate, Cropping, GlobalPooling, Permute, Rescaling, Reshape, Upsampling)
"""Layers after which linear outputs, or means of them, are still linear."""


@dataclass(frozen=True)
class Form:
    """A model's outside. `input_shape` is without the batch; `from_logits`: see `Task`."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    from_logits: bool


def form_of(network: Network, loss: Loss) -> Form:
    """Raises `TaskError` unless `network` makes rows of outputs that suit `loss`."""
    (input_shape,), (output,) = network.inputs, network.outputs
    output_shape = network.shapes()[output]
    fewest = loss.rule.fewest_outputs
    if not output_shape or output_shape[-1] < fewest:
        raise TaskError(
            f"model {network.name!r} returns {[None, *output_shape]}; for {loss} it must return [None, outputs] or "
            f"[None, places, outputs], {fewest} outputs at least"
        )
    return Form(input_shape, output_shape, _from_logits(network, output, loss))


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
    last = makers[output - 1][0] if output else None
    if isinstance(last, Activation) and last.function == function:
        return False
    if _is_linear(output, makers):
        return True
    name = last.name if last is not None else "input"
    raise TaskError(
        f"model {network.name!r} ends in layer {name!r}, which for {loss} is neither {function} "
        "(probabilities) nor linear (logits); end it in a Dense or Activation layer that is one of them"
    )


def _is_linear(value: int, makers: Sequence[tuple[AnyLayer, tuple[int, ...]]]) -> bool:
    """A value that weights are the last to shape. A softmax's numbers need not be probabilities after a mean."""
    pending = [value]
    while pending:
        value = pending.pop()
        if value == 0:
            return False
        layer, inputs = makers[value - 1]
        if isinstance(layer, _LINEAR):
            continue
        if not isinstance(layer, _REARRANGING) or getattr(layer, "statistic", None) is Statistic.MAX:
            return False
        pending.extend(inputs[:1] if isinstance(layer, GlobalPooling) else inputs)  # not the mask of a mean
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
