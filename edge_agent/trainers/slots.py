"""Slots: the state that an agent keeps between rounds, by the names that all trainers give it.

``optimizer/0`` is the number of steps (int64), then come the optimizer's variables, weight by weight. With the agent's
own mask there is the *residue*, ``residue/<tensor>``: what the last step left in pruned weights. TF-MOT lets it compete
for a place when the very next step updates the mask, so going on exactly needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from edge_agent.trainers import Slots
from fedprune.errors import TrainingError
from fedprune.model.tensors import Array, Mask, TensorClass, Weights
from fedprune.pruning.masks import apply_mask
from fedprune.task.forms import Form

_TRAINED = (TensorClass.PRUNABLE, TensorClass.DENSE)

SlotsForm = Mapping[str, tuple[tuple[int, ...], str]]
"""Names, shapes and dtypes of slots."""


def optimizer_slots(variables: Iterable[NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """An optimizer's variables as slots."""
    return {f"optimizer/{index}": variable for index, variable in enumerate(variables)}


def optimizer_variables(slots: Slots) -> list[NDArray[np.generic]]:
    """The variables that `optimizer_slots` was given. Slots that were stored come back in another order."""
    count = sum(name.startswith("optimizer/") for name in slots)
    return [slots[f"optimizer/{index}"] for index in range(count)]


def residue_slots(weights: Weights, mask: Mask) -> dict[str, Array]:
    """The values that `weights` hold where `mask` prunes, as slots."""
    residue = apply_mask(weights, {name: ~kept for name, kept in mask.items()})
    return {f"residue/{name}": residue[name] for name in mask}


def with_residue(weights: Weights, mask: Mask, slots: Slots) -> dict[str, Array]:
    """`weights`, and where `mask` prunes, the residue if there is one."""
    residue = {name: slots[f"residue/{name}"] for name in mask if f"residue/{name}" in slots}
    return {
        name: np.where(mask[name], array, residue[name]) if name in residue else array
        for name, array in weights.items()
    }


def carried_slots(slots: Slots, former: Form, form: Form) -> dict[str, NDArray[np.generic]]:
    """Slots of the `former` form of a task in another one: of each trained tensor what is left of its variables.

    Those that fit no such task come back as they are, and are refused by `check_form`.
    """
    if not slots:
        return {}
    counter, *variables = optimizer_variables(slots)
    trained = [spec.name for spec in former.task.table if spec.kind in _TRAINED]
    each = len(variables) // max(len(trained), 1)
    if each * len(trained) != len(variables):
        return dict(slots)
    names = [name for name in trained for _ in range(each)]
    carried = [form.carry(former, name, array) for name, array in zip(names, variables, strict=True)]
    return optimizer_slots([counter, *carried])


def form_of(slots: Slots) -> SlotsForm:
    return {name: (array.shape, array.dtype.name) for name, array in slots.items()}


def check_form(slots: Slots, expected: SlotsForm, task: str) -> None:
    """Raise `TrainingError` unless what was kept is a state of this task's optimizer."""
    if form_of(slots) != expected:
        raise TrainingError(
            f"task {task!r}: the optimizer state kept from the last round is not this model's; "
            "delete the agent's state directory"
        )
