"""A Keras model as a task describes it: its form and its tensor table. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fedprune.errors import TaskError
from fedprune.keras.stack import keras, tf
from fedprune.model.losses import Loss
from fedprune.model.tensors import TensorClass, TensorSpec

_REARRANGING = (
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.Reshape,
)
"""Layers after which linear outputs, or means of them, are still linear."""


@dataclass(frozen=True)
class Form:
    """A model's outside. `input_shape` is without the batch; `from_logits`: see `Task`."""

    input_shape: tuple[int, ...]
    outputs: int
    from_logits: bool


def form_of(model: Any, loss: Loss) -> Form:
    """Raises `TaskError` unless `model` turns a batch of equal float32 arrays into a row for each that suits `loss`."""
    if not model.built or len(model.inputs or ()) != 1 or len(model.outputs) != 1:
        raise TaskError(f"model {model.name!r} must have one input, of a known shape, and one output")
    (batch, *input_shape), (_, *output_shape) = model.input_shape, model.output_shape
    if batch is not None or None in input_shape or model.inputs[0].dtype != tf.float32:
        raise TaskError(
            f"model {model.name!r} takes {model.inputs[0].dtype.name}{list(model.input_shape)}; "
            "it must take float32 of a fixed shape, in batches of any size"
        )
    fewest = loss.rule.fewest_outputs
    if len(output_shape) != 1 or output_shape[0] is None or output_shape[0] < fewest:
        raise TaskError(
            f"model {model.name!r} returns {list(model.output_shape)}; for {loss} it must return [None, outputs], "
            f"{fewest} outputs at least"
        )
    return Form(tuple(input_shape), output_shape[0], _from_logits(model, loss))


def tensor_table(model: Any) -> tuple[TensorSpec, ...]:
    """A row for each of `model.weights`: the order of `strip_pruning(model).weights`, and its names without ``:0``.

    Where two layers have the same name (in nested models), the later one's gets a number. Raises `TaskError` for
    variables of a layer that a federation could not train.
    """
    owners = {variable.ref(): layer for layer, _, variable in variables_of(model)}
    kinds = {variable.ref(): TensorClass.PRUNABLE for variable in _prunable_variables(model)}
    kinds |= {variable.ref(): TensorClass.STATISTICS for variable in _moving_statistics(model)}
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


def _from_logits(model: Any, loss: Loss) -> bool:
    name = loss.rule.activation
    if name is None:
        return False
    activation = _activation(model.outputs[0])
    if activation is getattr(keras.activations, name):
        return False
    if activation is keras.activations.linear:
        return True
    raise TaskError(
        f"model {model.name!r} ends in layer {_last_layer(model).name!r}, which for {loss} is neither {name} "
        "(probabilities) nor linear (logits); end it in a Dense or Activation layer that is one of them"
    )


def _activation(output: Any) -> Any:
    """The activation function that Keras' tensor `output` comes from; None if it has none."""
    layer = output.node.layer
    if isinstance(layer, keras.Model):
        return _activation(layer.outputs[output.node.flat_output_ids.index(str(id(output)))])
    if isinstance(layer, keras.layers.Softmax):
        return keras.activations.softmax
    activation, linear = getattr(layer, "activation", None), keras.activations.linear
    if isinstance(layer, keras.layers.Activation) and activation is linear:
        # It hands on the same tensor, of which tf_keras' crossentropies see that it is a softmax's or sigmoid's.
        before = _activation(output.node.keras_inputs[0])
        return before if before in (keras.activations.softmax, keras.activations.sigmoid) else linear
    if isinstance(layer, _REARRANGING):  # a softmax's numbers need not be probabilities after it
        return linear if _activation(output.node.keras_inputs[0]) is linear else None
    return activation


def _last_layer(model: Any) -> Any:
    layer = model.outputs[0].node.layer
    return _last_layer(layer) if isinstance(layer, keras.Model) else layer


def _layers(model: Any) -> Iterator[Any]:
    """The layers that TF-MOT wraps one by one: those of nested models, too."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def _prunable_variables(model: Any) -> Iterator[Any]:
    # Here and not above: whoever loads TF-MOT before `tensorflow_stack` also gets Keras 3 and a page of messages.
    from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import PruneRegistry

    for layer in _layers(model):
        if PruneRegistry.supports(layer):
            yield from PruneRegistry.make_prunable(layer).get_prunable_weights()


def _moving_statistics(model: Any) -> Iterator[Any]:
    for layer in model.submodules:
        if isinstance(layer, keras.layers.BatchNormalization):
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
