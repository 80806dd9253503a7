"""An update, and the bounds within which its numbers must lie."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedprune.errors import ProtocolError
from fedprune.model.tensors import Array, Mask, TensorTable, Weights
from fedprune.pruning.masks import put_kept
from fedprune.pruning.regrowth import Votes

LARGEST_VALUE = 2.0**40
"""The largest magnitude of a delta or a moving mean, about 1e12; no model that learns comes near it."""

LARGEST_VARIANCE = LARGEST_VALUE**2
"""The largest moving variance, about 1e24."""


@dataclass(frozen=True, eq=False)
class Update:
    """An agent's report of its training.

    `delta`: trained minus base weights, by the names of the prunable and dense tensors, float32, one dimension: the
    alive values alone, which are a dense tensor's all, and those that `mask` keeps of a prunable one, row by row.
    `statistics`: the statistics tensors *themselves*, no differences, so that their moments can be pooled.
    `mask`: where the agent's prunable weights are kept. `votes`: for pruned weights to come back, if the round asks.
    """

    delta: Weights
    statistics: Weights
    mask: Mask
    votes: Votes = field(default_factory=dict)

    def whole(self, name: str, shape: tuple[int, ...]) -> Array:
        """The delta of tensor `name`, which has that shape: 0 where the mask prunes.

        Example:
            >>> import numpy as np
            >>> update = Update({"kernel": np.float32([1, 4])}, {}, {"kernel": np.array([[True, False, True]])})
            >>> update.whole("kernel", (1, 3)).tolist()
            [[1.0, 0.0, 4.0]]
        """
        return put_kept(self.delta[name], self.mask[name]) if name in self.mask else self.delta[name].reshape(shape)


def check_magnitudes(update: Update, table: TensorTable) -> None:
    """Refuse numbers that are not finite, or larger than any sum has room for.

    Args:
        update: of the tensors in `table`.
        table: the task's tensor table.

    Raises:
        ProtocolError: a number lies outside ±`LARGEST_VALUE` (a variance outside ±`LARGEST_VARIANCE`) or is NaN; the
            message names its tensor.

    Example:
        >>> import numpy as np
        >>> from fedprune.model.tensors import TensorClass, TensorSpec
        >>> table = TensorTable((TensorSpec("bias", (2,), "float32", TensorClass.DENSE, "layer"),))
        >>> check_magnitudes(Update({"bias": np.array([1.0, 1e30], np.float32)}, {}, {}), table)
        Traceback (most recent call last):
        fedprune.errors.ProtocolError: tensor bias: a value is 1e+30; at most 1.1e+12 is allowed
    """
    variances = {variance for _, variance in table.moments}
    for name, array in {**update.delta, **update.statistics}.items():
        bound = LARGEST_VARIANCE if name in variances else LARGEST_VALUE
        for extreme in (array.max(initial=0.0), array.min(initial=0.0)):
            if not abs(extreme) <= bound:
                raise ProtocolError(f"tensor {name}: a value is {extreme:.2g}; at most {bound:.2g} is allowed")


def check_update(update: Update, table: TensorTable) -> None:
    """Refuse an update that cannot be merged, or cannot come of honest training. See `check_magnitudes`.

    Raises:
        ProtocolError: the same, and for a variance below 0.
    """
    check_magnitudes(update, table)
    for _, variance in table.moments:
        if update.statistics[variance].min(initial=0.0) < 0.0:
            raise ProtocolError(f"tensor {variance}: a variance is negative")
