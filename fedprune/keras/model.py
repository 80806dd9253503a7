"""The Keras model of a network and the loss of a task. Importing this module imports TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedprune.errors import TaskError
from fedprune.keras.layers import Penalties, call_layer, make_layer, variables_of
from fedprune.keras.stack import keras
from fedprune.model.losses import Loss, Objective
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


def keras_loss(objective: Objective) -> Any:
    """tf_keras' own loss: a function of labels (`fedprune.model.losses`) and outputs to the mean over examples and
    places."""
    loss = _KERAS_LOSSES[objective.loss]
    return loss() if objective.loss.rule.activation is None else loss(from_logits=objective.from_logits)


def _build(network: Network, frozen: frozenset[str]) -> tuple[Any, dict[str, Any]]:
    penalties: Penalties = {penalty.tensor: penalty for penalty in network.penalties}
    shapes = network.shapes()
    values = [keras.layers.Input(network.inputs[0], dtype=np.dtype(network.input_dtype).name)]
    made: dict[int, Any] = {}
    variables: dict[str, Any] = {}
    for layer, call in network.steps():
        inputs = [shapes[value] for value in call.inputs]
        if call.layer not in made:
            trainable = frozen.isdisjoint(layer.tensors(*inputs))
            made[call.layer] = make_layer(layer, call.layer, inputs[0], penalties, trainable)
        values.append(call_layer(layer, made[call.layer], [values[value] for value in call.inputs]))
        variables |= variables_of(layer, made[call.layer])
    return keras.Model(values[0], values[network.outputs[0]]), variables
