"""The order of examples: full batches, epoch after epoch, from the key alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.trainers.batches import draw_batches
from fedprune.model.randomness import Keyed

counts = st.integers(1, 40)


@given(examples=counts, steps=counts, batch_size=counts, seed=st.integers(0, 2**63 - 1))
def test_every_batch_is_full_and_every_epoch_a_permutation(
    examples: int, steps: int, batch_size: int, seed: int
) -> None:
    batches = draw_batches(Keyed(seed), examples, steps, batch_size)

    assert batches.shape == (steps, batch_size)
    drawn = batches.ravel()
    for start in range(0, drawn.size, examples):
        epoch = drawn[start : start + examples]
        assert np.unique(epoch).size == epoch.size
    assert drawn.min() >= 0
    assert drawn.max() < examples


def test_the_key_decides_the_order() -> None:
    def order(*key: int) -> list[int]:
        return draw_batches(Keyed(7, *key), 50, 2, 20).ravel().tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_epochs_differ_in_order() -> None:
    first, second = draw_batches(Keyed(3), 32, 2, 32)

    assert first.tolist() != second.tolist()
