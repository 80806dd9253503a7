"""Kept values, gathered and scattered in pieces, and halves rounded in pieces: the same as in one go."""

from __future__ import annotations

import numpy as np
import pytest

from fedprune.codecs.floats import Fp16
from fedprune.codecs.reader import Reader
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array
from fedprune.pruning.masks import put_kept, take_kept, zero_pruned

SHAPE = (3, 50_001)
"""Longer than a piece, and no multiple of one."""


def drawn() -> Array:
    return Keyed(1, "kept values").uniform(SHAPE[0] * SHAPE[1], -1.0, 1.0).reshape(SHAPE)


@pytest.mark.parametrize("above", [-2.0, -0.9, 0.6, 2.0], ids=["all", "most", "few", "none"])
def test_kept_values_are_those_that_numpy_picks_and_go_back_to_their_places(above: float) -> None:
    array = drawn()
    kept = array > above

    values = take_kept(array, kept)
    np.testing.assert_array_equal(values, array[kept])
    np.testing.assert_array_equal(put_kept(values, kept), np.where(kept, array, np.float32(0.0)))
    np.testing.assert_array_equal(put_kept(values, kept, fill=7.0), np.where(kept, array, np.float32(7.0)))

    zero_pruned({"kernel": array}, {"kernel": kept, "another": kept})
    np.testing.assert_array_equal(array, put_kept(values, kept))


def test_every_half_and_what_lies_between_two_is_rounded_as_numpy_does() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    exact = np.sort(halves[np.isfinite(halves)].astype(np.float32))
    between = (exact[:-1] + exact[1:]) / np.float32(2)
    beside = [np.nextafter(between, np.float32(side)) for side in (-np.inf, np.inf)]
    tiny_and_large = np.float32([1e-45, -1e-45, 65519.0, 65520.0, -65520.0, 3e38, -3e38])
    vector = np.concatenate([exact, between, *beside, tiny_and_large])

    largest = np.float32(np.finfo(np.float16).max)
    expected = np.clip(vector, -largest, largest).astype("<f2")
    assert Fp16().encode([vector]) == expected.tobytes()
    (found,) = Fp16().read(Reader(expected.tobytes()), [vector.size])
    np.testing.assert_array_equal(found, expected.astype(np.float32))
