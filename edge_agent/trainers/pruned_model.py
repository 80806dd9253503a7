"""A task's Keras model with TF-MOT's wrappers around its prunable layers, and arrays' way into and out of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.errors import TaskError
from fedprune.keras.model import build_model
from fedprune.keras.stack import keras, tf, tfmot
from fedprune.model.tensors import Array, Mask, TensorClass, Weights
from fedprune.pruning.schedules import PolynomialDecay, Schedule
from fedprune.task.bundle import Task

_NEVER = 2**62
"""A step that no training reaches."""


class PrunedModel:
    """`keras` is the wrapped model, to be called with `training=True`. Tensors go by their names in the task's table.

    `trained` are the variables that have gradients, `masks` those of zeros and ones that each step applies. They
    are updated on `schedule`, or held if there is none.

    Raises `TaskError` if the configuration cannot be built, is unsafe, or does not fit the table.
    """

    def __init__(self, task: Task, model_json: str, schedule: Schedule | None) -> None:
        plain, self._variables = build_model(task, model_json)
        prunable = {self._variables[spec.name].ref(): spec.name for spec in task.table.of(TensorClass.PRUNABLE)}
        self._wrappers: list[Any] = []
        # The wrappers share their variables with the plain model, whose weights are in the table's order.
        self.keras = self._wrap(plain, frozenset(prunable), _tfmot_schedule(schedule))
        self.masks = {
            prunable.get(weight.ref(), weight.name): mask
            for wrapper in self._wrappers
            for weight, mask, _ in wrapper.pruning_vars
        }
        differing = set(self.masks).symmetric_difference(prunable.values())
        if differing:
            raise TaskError(
                f"task {task.name!r}: the table and TF-MOT disagree on whether {min(differing)} is prunable; "
                "build the task again"
            )
        trainable = {variable.ref() for variable in self.keras.trainable_variables}
        self.trained = {name: variable for name, variable in self._variables.items() if variable.ref() in trainable}
        self._generators = list(_random_generators(self.keras))

    @property
    def random_layers(self) -> int:
        """The number of layers that draw random numbers (dropout and the like)."""
        return len(self._generators)

    def load(self, weights: Weights, mask: Mask, steps_done: int) -> None:
        """Start from `weights` and `mask` after `steps_done` steps: the next one is `steps_done` + 1 to TF-MOT.

        TF-MOT's thresholds are left as they are: it writes them with each mask and never reads them.
        """
        for name, variable in self._variables.items():
            variable.assign(weights[name])
        for name, variable in self.masks.items():
            variable.assign(mask[name].astype(np.float32))
        for wrapper in self._wrappers:
            wrapper.pruning_step.assign(steps_done)

    def seed(self, seeds: NDArray[np.uint64]) -> None:
        """Start the layers' random numbers afresh from `seeds`, uint64 `[random_layers]`."""
        for generator, seed in zip(self._generators, seeds >> np.uint64(1), strict=True):
            generator.reset_from_seed(int(seed))

    def weights(self) -> dict[str, Array]:
        """The weights as the optimizer's last step left them, pruned ones off zero: TF-MOT masks *before* each step."""
        return {name: variable.numpy() for name, variable in self._variables.items()}

    def mask(self) -> dict[str, NDArray[np.bool_]]:
        """The masks that the wrappers hold now."""
        return {name: variable.numpy() != 0.0 for name, variable in self.masks.items()}

    def _wrap(self, layer: Any, prunable: frozenset[Any], schedule: Any) -> Any:
        """`layer`, or the model that it is, with each owner of a prunable variable wrapped."""
        if isinstance(layer, keras.Model):
            return keras.models.clone_model(layer, clone_function=lambda inner: self._wrap(inner, prunable, schedule))
        if not any(variable.ref() in prunable for variable in layer.weights):
            return layer
        try:
            wrapper = tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)
        except ValueError as error:
            raise TaskError(f"TF-MOT cannot prune layer {layer.name!r}; mark its tensors dense in the task") from error
        self._wrappers.append(wrapper)
        return wrapper


def _tfmot_schedule(schedule: Schedule | None) -> Any:
    sparsity = tfmot.sparsity.keras
    if schedule is None:
        return sparsity.ConstantSparsity(0.0, begin_step=_NEVER)
    window = {"begin_step": schedule.begin_step, "end_step": schedule.end_step, "frequency": schedule.frequency}
    if isinstance(schedule, PolynomialDecay):
        return sparsity.PolynomialDecay(
            schedule.initial_sparsity, schedule.target_sparsity, power=schedule.power, **window
        )
    return sparsity.ConstantSparsity(schedule.target_sparsity, **window)


def _random_generators(model: Any) -> Iterator[tf.random.Generator]:
    for part in model.submodules:
        generator = getattr(getattr(part, "_random_generator", None), "_generator", None)
        if generator is not None:
            yield generator
