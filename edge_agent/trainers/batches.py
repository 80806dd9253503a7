"""The examples of each step of a round."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edge_agent.augmentation import augment
from fedprune.data import Dataset, Examples
from fedprune.data.stored_rows import StoredRows
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Inputs
from fedprune.network.description import Network

BLOCK_BYTES = 2**16
"""Bytes of neighbouring examples that are read together from a disk, at least one of them."""

WINDOW_BYTES = 2**23
"""Bytes of the blocks whose examples are drawn in random order before the next ones. They are 128 blocks, so that the
examples of a window are from all over the file also where neighbours are alike, as in folders by class."""


def batches_of(keyed: Keyed, examples: Examples, steps: int, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Indices of the examples of each step, int64 `[batch_size]`, drawn from `keyed` before the first one is taken.

    Examples that are in memory come as `draw_batches` says. Of those that are on a disk each epoch is a random
    permutation of blocks of neighbours, and of the examples in each window of blocks. So few pages are read twice in an
    epoch, however small the page cache is, and nothing is held for each example.
    """
    stored = examples.stored
    if not stored:
        return iter(draw_batches(keyed, len(examples), steps, batch_size))
    return _cut(_shuffled(stored, len(examples), Keyed(int(keyed.integers(1)[0]), "blocks")), steps, batch_size)


def draw_batches(keyed: Keyed, examples: int, steps: int, batch_size: int) -> NDArray[np.int64]:
    """Indices of examples, int64 `[steps, batch_size]`: one random permutation (an epoch) after another.

    Every batch is full: one that reaches the end of an epoch goes on into the next, so that a device with fewer
    examples than a batch sees some of them more than once in a step. `examples` is at least 1.
    """
    wanted = steps * batch_size
    epochs = -(-wanted // examples)
    drawn = np.concatenate([keyed.permutation(examples) for _ in range(epochs)])
    return drawn[:wanted].reshape(steps, batch_size)


def _shuffled(stored: list[StoredRows], examples: int, keyed: Keyed) -> Iterator[NDArray[np.int64]]:
    """Windows of indices, epoch after epoch, for ever. What a window is of is read ahead."""
    example_bytes = sum(rows.row_bytes for rows in stored)
    size = max(1, BLOCK_BYTES // example_bytes)
    blocks, together = -(-examples // size), max(1, WINDOW_BYTES // (size * example_bytes))
    while True:
        order = keyed.permutation(blocks)
        for first in range(0, blocks, together):
            starts = order[first : first + together] * size
            for rows in stored:
                for start in starts.tolist():
                    rows.expect(start, min(start + size, examples))
            window = (starts[:, None] + np.arange(size)).reshape(-1)
            window = window[window < examples]
            yield window[keyed.permutation(len(window))]


def _cut(windows: Iterator[NDArray[np.int64]], steps: int, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Full batches of what comes."""
    waiting = np.zeros(0, np.int64)
    for _ in range(steps):
        while len(waiting) < batch_size:
            waiting = np.concatenate([waiting, next(windows)])
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


class Augmenter:
    """The network's augmentation of each step's examples in a round.

    Each step draws from a key of its own, so that examples are the same for every trainer, in whatever order it takes
    the steps. Where the network augments nothing, nothing is drawn from `keyed`.
    """

    def __init__(self, network: Network, keyed: Keyed) -> None:
        self._layers = network.augmentation
        self._seed = int(keyed.integers(1)[0]) if self._layers else 0

    def take(self, examples: Examples, indices: NDArray[np.int64], step: int) -> Dataset:
        """The examples at `indices`, as the network trains with them."""
        taken = examples.take(indices)
        if not self._layers:
            return taken
        return taken.with_arrays({"x": self.augmented(taken.x, step)}, taken.labels)

    def augmented(self, x: Inputs, step: int) -> Inputs:
        """What the network trains with in place of `x` `[batch, ...]`; `step` counts those of the round from 0."""
        if not self._layers:
            return x
        return augment(np.asarray(x, np.float32), self._layers, Keyed(self._seed, "augmentation", step))
