"""A task's Keras model with TF-MOT's wrappers around its prunable layers, and arrays' way into and out of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.keras.model import build_model
from fedprune.keras.stack import keras, tf, tfmot
from fedprune.model.tensors import Array, Mask, TensorClass, TensorTable, Weights
from fedprune.network.description import Network
from fedprune.pruning.schedules import PolynomialDecay, Schedule

_NEVER = 2**62
"""A step that no training reaches."""


class PrunedModel:
    """`keras` is the wrapped model, to be called with `training=True`. Tensors go by their names in the task's table.

    `trained` are the variables that have gradients, in the table's order, `masks` those of zeros and ones that each
    step applies. They are updated on `schedule`, or held if there is none.

    Raises `TaskError` if the network cannot be built, or does not fit the table.
    """

    def __init__(self, network: Network, table: TensorTable, schedule: Schedule | None) -> None:
        plain, self._variables = build_model(network, table)
        prunable = {self._variables[spec.name].ref(): spec.name for spec in table.of(TensorClass.PRUNABLE)}
        self._wrappers: list[Any] = []
        # The wrappers share their variables with the plain model.
        self.keras = self._wrap(plain, frozenset(prunable), _tfmot_schedule(schedule))
        masks = {weight.ref(): mask for wrapper in self._wrappers for weight, mask, _ in wrapper.pruning_vars}
        self.masks = {name: masks[variable] for variable, name in prunable.items()}
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

    def _wrap(self, model: Any, prunable: frozenset[Any], schedule: Any) -> Any:
        """`model` with each owner of prunable variables wrapped, for these and no others."""

        def wrapped(layer: Any) -> Any:
            own = [variable for variable in layer.weights if variable.ref() in prunable]
            if not own:
                return layer
            layer.get_prunable_weights = lambda: own  # TF-MOT asks a layer that has this, and else its registry
            self._wrappers.append(tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule))
            return self._wrappers[-1]

        return keras.models.clone_model(model, clone_function=wrapped)


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
