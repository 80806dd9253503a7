"""The Keras model and loss of a task, built from its bundle. Importing this module imports TensorFlow."""

from __future__ import annotations

from typing import Any

from fedprune.errors import TaskError
from fedprune.keras.config_check import check_model_config
from fedprune.keras.stack import keras
from fedprune.model.losses import Loss, Objective
from fedprune.task.bundle import Task

_KERAS_LOSSES: dict[Loss, Any] = {
    Loss.SPARSE_CATEGORICAL_CROSSENTROPY: keras.losses.SparseCategoricalCrossentropy,
    Loss.CATEGORICAL_CROSSENTROPY: keras.losses.CategoricalCrossentropy,
    Loss.BINARY_CROSSENTROPY: keras.losses.BinaryCrossentropy,
    Loss.MEAN_SQUARED_ERROR: keras.losses.MeanSquaredError,
}
"""Keras' own; those whose rule has an activation take `from_logits`."""


def build_model(task: Task, model_json: str) -> tuple[Any, dict[str, Any]]:
    """The plain model, without pruning wrappers, and its variables by their names in the tensor table.

    Raises `TaskError` if the configuration is unsafe, cannot be built, or does not fit the table.
    """
    check_model_config(model_json)
    random = keras.backend.experimental
    random.enable_tf_random_generator()  # random layers then own a generator that every round can seed
    try:
        model = keras.models.model_from_json(model_json)
    except Exception as error:  # whatever Keras raises on a configuration that makes no sense
        reason = str(error).strip().partition("\n")[0]
        raise TaskError(f"task bundle: model.json: Keras cannot build it ({reason}); build the task again") from error
    finally:
        random.disable_tf_random_generator()
    return model, _match(task, model)


def keras_loss(objective: Objective) -> Any:
    """tf_keras' own loss: a function of labels (`fedprune.model.losses`) and outputs to the mean over the examples."""
    loss = _KERAS_LOSSES[objective.loss]
    return loss() if objective.loss.rule.activation is None else loss(from_logits=objective.from_logits)


def _match(task: Task, model: Any) -> dict[str, Any]:
    found = [(tuple(variable.shape), variable.dtype.name) for variable in model.weights]
    if found != [(spec.shape, spec.dtype) for spec in task.tensors]:
        raise TaskError(f"task {task.name!r}: model.json and the tensor table disagree; build the task again")
    return {spec.name: variable for spec, variable in zip(task.tensors, model.weights, strict=True)}
