"""The Keras model of a network and the loss of a task. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from fedprune.errors import TaskError
from fedprune.keras.layer import Penalties
from fedprune.keras.layers import call_layer, make_layer, variables_of
from fedprune.keras.stack import keras, tf
from fedprune.model.losses import LabelForm, Loss, Objective
from fedprune.model.tensors import TensorClass, TensorTable
from fedprune.network.description import Network

_KERAS_LOSSES: dict[Loss, Any] = {
    Loss.SPARSE_CATEGORICAL_CROSSENTROPY: keras.losses.SparseCategoricalCrossentropy,
    Loss.CATEGORICAL_CROSSENTROPY: keras.losses.CategoricalCrossentropy,
    Loss.BINARY_CROSSENTROPY: keras.losses.BinaryCrossentropy,
    Loss.MEAN_SQUARED_ERROR: keras.losses.MeanSquaredError,
}
"""Keras' own; those whose rule has an activation take `from_logits`."""


def build_model(network: Network, table: TensorTable) -> tuple[Any, dict[str, Any]]:
    """The plain model, without pruning wrappers, and its variables by their names, in the order of `table`.

    Layers whose tensors are frozen are not trainable. Raises `TaskError` if the description does not fit the table, or
    Keras cannot build it.
    """
    network.check(table)
    random = keras.backend.experimental
    random.enable_tf_random_generator()  # random layers then own a generator that every round can seed
    try:
        model, variables = _build(network, frozenset(spec.name for spec in table.of(TensorClass.FROZEN)))
    except Exception as error:  # whatever Keras raises on a description that it has no kernels for
        reason = str(error).strip().partition("\n")[0]
        raise TaskError(f"network {network.name[:60]!r}: Keras cannot build it ({reason[:200]})") from error
    finally:
        random.disable_tf_random_generator()
    return model, {spec.name: variables[spec.name] for spec in table}


def keras_loss(objective: Objective, shift: Any = 0.0) -> Any:
    """tf_keras' own loss: a function of labels (`fedprune.model.losses`) and outputs to the mean over examples and
    places, of an output with a mask over those that it keeps; without the objective's weight. Class numbers are
    smoothed as one-hot rows: Keras does not smooth them. `shift` is added to targets that are smoothed, before they
    are (`Objective.shift_of`)."""
    loss, smoothing = _KERAS_LOSSES[objective.loss], objective.label_smoothing
    if objective.loss.rule.activation is None:
        return loss()
    if not smoothing:
        return loss(from_logits=objective.from_logits)
    is_numbers = objective.loss.rule.labels is LabelForm.CLASS_NUMBERS
    of_rows = keras.losses.CategoricalCrossentropy if is_numbers else loss
    smoothed = of_rows(from_logits=objective.from_logits, label_smoothing=smoothing)

    def of_labels(labels: Any, outputs: Any, sample_weight: Any = None) -> Any:
        rows = tf.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype) if is_numbers else labels
        return smoothed(rows + shift, outputs, sample_weight=sample_weight)

    return of_labels


def weighted_loss(
    objectives: Sequence[Objective], shifts: Mapping[int, Any] = MappingProxyType({})
) -> Callable[[Sequence[Any], Sequence[Any], Any], Any]:
    """tf_keras' loss of a model: a function of the labels and outputs of each output, and of how much each example
    counts in each, `[examples, outputs of the model]`. `shifts` are what `keras_loss` takes, by an output's number."""
    losses = [keras_loss(objective, shifts.get(number, 0.0)) for number, objective in enumerate(objectives)]

    def total(labels: Sequence[Any], outputs: Sequence[Any], importance: Any) -> Any:
        columns = tf.unstack(importance, axis=1, num=len(losses))
        # Keras repeats a weight over one axis of places, not over more.
        shaped = [
            tf.reshape(column, (-1, *[1] * (len(output.shape) - 2)))
            for column, output in zip(columns, outputs, strict=True)
        ]
        return sum(
            objective.weight * loss(given, output, sample_weight=weight)
            for objective, loss, given, output, weight in zip(objectives, losses, labels, outputs, shaped, strict=True)
        )

    return total


def call_model(model: Any, inputs: Sequence[Any], *, training: bool) -> list[Any]:
    """All outputs of a model of any number of inputs: tensors `[examples, ...]`."""
    given = list(inputs) if len(inputs) > 1 else inputs[0]
    outputs: list[Any] = tf.nest.flatten(model(given, training=training))
    return outputs


def _build(network: Network, frozen: frozenset[str]) -> tuple[Any, dict[str, Any]]:
    penalties: Penalties = {penalty.tensor: penalty for penalty in network.penalties}
    shapes = network.shapes()
    values = [
        keras.layers.Input(shape, dtype=np.dtype(dtype).name)
        for shape, dtype in zip(network.inputs, network.input_dtypes, strict=True)
    ]
    inputs = values[:]
    made: dict[int, Any] = {}
    variables: dict[str, Any] = {}
    for layer, call in network.steps():
        taken = [shapes[value] for value in call.inputs]
        if call.layer not in made:
            trainable = frozen.isdisjoint(layer.tensors(*taken))
            made[call.layer] = make_layer(layer, call.layer, taken[0], penalties, trainable)
        values.append(call_layer(layer, made[call.layer], [values[value] for value in call.inputs]))
        variables |= variables_of(layer, made[call.layer])
    masks = network.output_masks or (None,) * len(network.outputs)
    outputs = [
        values[number] if mask is None else _masked(values[number], values[mask])
        for number, mask in zip(network.outputs, masks, strict=True)
    ]
    return keras.Model(_only(inputs), _only(outputs)), variables


def _masked(output: Any, mask: Any) -> Any:
    """An output `[batch, *places, outputs]` with its mask `[batch, *places]`, of 1 and 0, where Keras' losses look."""

    def unchanged(inputs: Sequence[Any]) -> Any:
        x, _ = inputs
        y = tf.identity(x)
        if hasattr(x, "_keras_logits"):  # what losses take instead of probabilities
            y._keras_logits = x._keras_logits
        return y

    return keras.layers.Lambda(unchanged, mask=lambda inputs, _: tf.cast(inputs[1], tf.bool))([output, mask])


def _only(ends: list[Any]) -> Any:
    """Keras' models return a list where they are made of one."""
    return ends if len(ends) > 1 else ends[0]
