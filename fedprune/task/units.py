"""The user's units: where targets are normalised, a model's answers are put back into those of the data files."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from fedprune.data.normalization import shift_and_scale, targets_of
from fedprune.model.tensors import Array
from fedprune.network.description import Call, Network
from fedprune.network.layers import Rescaling
from fedprune.task.bundle import Task

_LAYER = "units"
_ROUNDING = 2.0**-22
"""Of a float32, and of what is computed with it."""


@dataclass(frozen=True)
class Units:
    """An answer is `scale` times what the model learned, plus `shift`: one number of each, or one for each output."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def rounding(self) -> float:
        """What an answer loses of the model's, since it is a float32 and may be far from 0."""
        return max(abs(shift) / scale for shift, scale in zip(self.shift, self.scale, strict=True)) * _ROUNDING

    def normalized(self, answers: Array) -> Array:
        """What the model gave for such answers, float32 `[examples, ..., outputs]`."""
        found: Array = ((answers.astype(np.float64) - self.shift) / self.scale).astype(np.float32)
        return found


def units_of(task: Task) -> Units | None:
    """None for a task whose targets are not normalised."""
    targets = targets_of(task.data)
    if targets is None:
        return None
    shift, scale = shift_and_scale(targets)
    return Units(tuple(shift.tolist()), tuple(scale.tolist()))


def answering_in(network: Network, units: Units) -> Network:
    """The network of one output with a last layer that puts its answers into these units."""
    (answer,) = network.outputs
    last = Rescaling(name=_LAYER, scale=units.scale, offset=units.shift)
    return msgspec.structs.replace(
        network,
        layers=(*network.layers, last),
        calls=(*network.calls, Call(len(network.layers), (answer,))),
        outputs=(len(network.inputs) + len(network.calls),),
    )
