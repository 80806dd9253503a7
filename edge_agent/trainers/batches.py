"""The examples of each step of a round."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedprune.model.randomness import Keyed


def draw_batches(keyed: Keyed, examples: int, steps: int, batch_size: int) -> NDArray[np.int64]:
    """Indices of examples, int64 `[steps, batch_size]`: one random permutation (an epoch) after another.

    Every batch is full: one that reaches the end of an epoch goes on into the next, so that a device with fewer
    examples than a batch sees some of them more than once in a step. `examples` is at least 1.
    """
    wanted = steps * batch_size
    epochs = -(-wanted // examples)
    drawn = np.concatenate([keyed.permutation(examples) for _ in range(epochs)])
    return drawn[:wanted].reshape(steps, batch_size)
