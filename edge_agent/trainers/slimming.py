"""Training a task whose network becomes smaller: each form has a trainer of its own, compared before it is used.

Nobody could prove the training graphs of networks that follow from a federation's own weights. So each device compares
loss and gradients of the smaller network with those of the whole one, in which the same units are masked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from edge_agent.trainers import AnsweringTrainer, Slots, Trained, Trainer, Work
from edge_agent.trainers.slots import carried_slots
from fedprune.data import Examples
from fedprune.errors import ExportError, TaskError
from fedprune.model.tensors import Array, Inputs, Weights, euclidean_norm
from fedprune.task.forms import Form

_log = logging.getLogger(__name__)

RELATIVE = 1e-4
"""The least of a tensor's norm that a smaller network may be off by. Kernels add up in another order; those that are
wrong are off by far more."""

MOST_DRAWS = 3
"""Batches on which two networks are compared at most. An example that lies at a kink, of ReLU or a maximum, may fall on
its other side; what is wrong fails with all of them."""


LOSS = "the loss"


class SlimmedDiffers(TaskError):
    """Without the units that are gone the network trains otherwise than with them masked."""


class Slimmable(AnsweringTrainer, Protocol):
    """A trainer of the whole network."""

    def slimmed(self, form: Form) -> Trainer:
        """A trainer of the network in another form. Raises `SlimmedDiffers`, `TaskError` or `ExportError` where it
        cannot be trusted with it, or has no room."""
        ...


class SlimmingTrainer:
    """A `Trainer` of a task's forms, of which it holds the last one."""

    def __init__(self, trainer: Slimmable, whole: Form) -> None:
        self._trainer, self._whole = trainer, whole
        self._slimmed: tuple[bytes, Trainer] | None = None

    def train(self, work: Work, data: Examples) -> Trained:
        if work.form is None or work.form.is_whole:
            return self._trainer.train(work, data)
        if self._slimmed is None or self._slimmed[0] != work.form.name:
            self._slimmed = None  # a device has no room for two
            self._slimmed = work.form.name, self._made(work.form)
        return self._slimmed[1].train(work, data)

    def answers(self, weights: Weights, inputs: Sequence[Inputs]) -> tuple[Array, ...]:
        return self._trainer.answers(weights, inputs)

    def _made(self, form: Form) -> Trainer:
        try:
            return self._trainer.slimmed(form)
        except (TaskError, ExportError) as error:
            _log.warning("the network stays as large as it was on this device, and its units are masked: %s", error)
            return _Masking(self._trainer, self._whole, form)


class _Masking:
    """Trains a form by the whole network, in which all that is gone is masked."""

    def __init__(self, trainer: Trainer, whole: Form, form: Form) -> None:
        self._trainer, self._whole, self._form = trainer, whole, form

    def train(self, work: Work, data: Examples) -> Trained:
        trained = self._trainer.train(
            replace(
                work,
                weights=dict(self._form.expanded(work.weights)),
                mask=dict(self._form.expanded(work.mask)),
                slots=None if work.slots is None else carried_slots(work.slots, self._form, self._whole),
                form=None,
            ),
            data,
        )
        slots: Slots = carried_slots(trained.slots, self._whole, self._form)
        return replace(
            trained,
            weights=self._form.cut_all(trained.weights),
            mask=self._form.cut_all(trained.mask),
            slots=slots,
        )


def check_alike(trial: Callable[[int], tuple[Mapping[str, Array], Mapping[str, Array]]]) -> None:
    """Compare loss and gradients of a masked network, cut, with those of the smaller one, on drawn batches.

    A gradient that cancels is zero but for rounding, and tells nothing of its own size: so `RELATIVE` is of the norm of
    all gradients together. `trial` gives both, of a numbered draw, the loss by the name `LOSS`. Raises
    `SlimmedDiffers`, saying what is off, if they differ in each of `MOST_DRAWS`.
    """
    why = ""
    for draw in range(MOST_DRAWS):
        expected, found = trial(draw)
        gradients = {name: array for name, array in expected.items() if name != LOSS}
        scales = dict.fromkeys(gradients, euclidean_norm(gradients)) | {LOSS: euclidean_norm({LOSS: expected[LOSS]})}
        off = {name: euclidean_norm({name: found[name] - expected[name]}) for name in expected}
        wrong = next((name for name in expected if not off[name] <= RELATIVE * scales[name]), None)
        if wrong is None:
            return
        why = f"{wrong[:80]} is off by {off[wrong]:.2g}, and may be by {RELATIVE * scales[wrong]:.2g}"
    raise SlimmedDiffers(f"without the units that are gone {why}; fedprune is at fault, please report it")
