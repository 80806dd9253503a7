"""The check that training did not diverge."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedprune.errors import TrainingError
from fedprune.model.tensors import Array, Weights


class TrainingDiverged(TrainingError):
    """What came of the training is not finite, or larger than a gateway takes. `where` says which number."""

    def __init__(self, where: str) -> None:
        super().__init__(f"training diverged: {where}; lower the task's learning rate")


def check_finite(losses: NDArray[np.float32], weights: Weights) -> None:
    """Raise `TrainingDiverged`, naming the round's step, unless the steps' losses and the weights that came of them are
    finite."""
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        where = f"the loss is {losses[bad[0]]} at step {bad[0] + 1} of the round"
    elif unfit := next((name for name, array in weights.items() if not _is_finite(array)), None):
        where = f"{unfit} is not finite after the round's {losses.size} steps"
    else:
        return
    raise TrainingDiverged(where)


def _is_finite(array: Array) -> bool:
    """True if all of it is; no array of verdicts is made of a large one."""
    return bool(np.isfinite(array.max(initial=0)) and np.isfinite(array.min(initial=0)))
