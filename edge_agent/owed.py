"""What an agent remembers of its last round, in the form of the task that the present round's model has.

The network may have become smaller since. What belonged to units that are gone is dropped: nobody waits for it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_agent.local_round import LocalRound
from edge_agent.trainers import Slots
from edge_agent.trainers.slots import carried_slots
from fedprune.model.tensors import Array, Weights
from fedprune.task.forms import Form, Forms


class Owed:
    """What `local` brings of earlier rounds, in `form`."""

    def __init__(self, local: LocalRound, forms: Forms, form: Form) -> None:
        """Raises `ProtocolError` if it is in a form that the task does not have."""
        self._local, self._form = local, form
        is_alike = local.owed_form in (b"", form.name)
        self._former = form if is_alike else forms.named(local.owed_form)

    def local(self) -> dict[str, Array]:
        """The tensors that are this device's own; empty before its first round."""
        own = self._local.local
        if own is None:
            return {}
        names = [spec.name for spec in self._form.task.table.local]
        return {name: self._form.carry(self._former, name, own[name]) for name in names}

    def slots(self) -> Slots | None:
        slots = self._local.slots
        return (
            slots if slots is None or self._form.is_as(self._former) else carried_slots(slots, self._former, self._form)
        )

    def residual(self) -> Weights | None:
        """It is read only now, and each tensor is let go of as it is carried."""
        residual = self._local.read_residual()
        if residual is None or self._form.is_as(self._former):
            return residual
        left: dict[str, NDArray[np.float32]] = dict(residual)
        del residual
        for name in left:
            left[name] = self._form.carry(self._former, name, left[name])
        return left
