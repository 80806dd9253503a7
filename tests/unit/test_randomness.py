from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.model.randomness import Keyed


def test_integers_are_the_raw_philox_stream_of_the_documented_key() -> None:
    key = np.frombuffer(hashlib.sha256(b'[1,2,"agent-3","batches"]').digest()[:16], "<u8").astype(np.uint64)
    expected = np.random.Philox(key=key).random_raw(5)
    np.testing.assert_array_equal(Keyed(1, 2, "agent-3", "batches").integers(5), expected)


def test_golden_values() -> None:
    """Fixed for ever: a federation's participants may run different releases on different processors."""
    keyed = Keyed(42, 7, "agent-1", "golden")
    assert keyed.integers(3).tolist() == [0xBA6CC120C9BC8F12, 0x655DF4AD3BABFBEC, 0xF654C0DFDDFAA1BB]
    assert keyed.integers(1).tolist() == [0xC3866E2068DEC74F]
    assert keyed.uniform(4, -0.1, 0.3).astype("<f4").tobytes().hex() == "ca7aa9bd8cc6993cd820963ce2000c3e"
    assert keyed.permutation(10).tolist() == [4, 9, 7, 6, 8, 0, 1, 5, 2, 3]
    assert keyed.sample("abcdefgh", 3) == ["a", "g", "h"]


@given(st.lists(st.integers() | st.text(), max_size=4), st.lists(st.integers() | st.text(), max_size=4))
def test_different_keys_give_different_streams(one: list[str | int], other: list[str | int]) -> None:
    equal = np.array_equal(Keyed(0, *one).integers(2), Keyed(0, *other).integers(2))
    assert equal == (one == other)


def test_draws_continue_the_stream() -> None:
    at_once, in_parts = Keyed(5, "x").integers(6), Keyed(5, "x")
    np.testing.assert_array_equal(at_once, np.concatenate([in_parts.integers(4), in_parts.integers(2)]))


def test_uniform_fills_its_range_evenly() -> None:
    values = Keyed(1, "uniform").uniform(100_000, -2.0, 6.0)
    assert values.dtype == np.float32
    assert -2.0 <= values.min() < -1.99
    assert 5.99 < values.max() <= 6.0
    counts, _ = np.histogram(values, bins=8)
    assert counts == pytest.approx(12_500, rel=0.05)


@given(st.integers(0, 200))
def test_permutation_holds_each_number_once(count: int) -> None:
    permutation = Keyed(count, "permutation").permutation(count)
    assert permutation.dtype == np.int64
    assert sorted(permutation.tolist()) == list(range(count))


def test_sample_draws_every_item_equally_often() -> None:
    keyed = Keyed(3, "sample")
    counts = np.zeros(5)
    for _ in range(2_000):
        picked = keyed.sample(range(5), 2)
        assert len(set(picked)) == 2
        counts[picked] += 1
    assert counts == pytest.approx(800, rel=0.1)


def test_sample_of_too_few_items_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot sample 3 of 2"):
        Keyed(3).sample(["a", "b"], 3)
