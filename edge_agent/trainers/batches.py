"""The examples of each step of a round."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_agent.augmentation import augment
from fedprune.data import Dataset
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Inputs
from fedprune.network.description import Network


def draw_batches(keyed: Keyed, examples: int, steps: int, batch_size: int) -> NDArray[np.int64]:
    """Indices of examples, int64 `[steps, batch_size]`: one random permutation (an epoch) after another.

    Every batch is full: one that reaches the end of an epoch goes on into the next, so that a device with fewer
    examples than a batch sees some of them more than once in a step. `examples` is at least 1.
    """
    wanted = steps * batch_size
    epochs = -(-wanted // examples)
    drawn = np.concatenate([keyed.permutation(examples) for _ in range(epochs)])
    return drawn[:wanted].reshape(steps, batch_size)


class Augmenter:
    """The network's augmentation of each step's examples in a round.

    Each step draws from a key of its own, so that examples are the same for every trainer, in whatever order it takes
    the steps. Where the network augments nothing, nothing is drawn from `keyed`.
    """

    def __init__(self, network: Network, keyed: Keyed) -> None:
        self._layers = network.augmentation
        self._seed = int(keyed.integers(1)[0]) if self._layers else 0

    def take(self, data: Dataset, indices: NDArray[np.int64], step: int) -> Dataset:
        """The examples at `indices`, as the network trains with them."""
        taken = data.take(indices)
        if not self._layers:
            return taken
        return Dataset(self.augmented(taken.x, step), taken.labels, taken.origin, taken.weight)

    def augmented(self, x: Inputs, step: int) -> Inputs:
        """What the network trains with in place of `x` `[batch, ...]`; `step` counts those of the round from 0."""
        if not self._layers:
            return x
        return augment(np.asarray(x, np.float32), self._layers, Keyed(self._seed, "augmentation", step))
