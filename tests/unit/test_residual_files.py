"""Residuals on the disk: nothing is lost, and what is zero costs a bit."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_agent.residual_files import pack_residual, unpack_residual
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array

sparse = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    elements=st.just(0.0) | st.floats(width=32, allow_nan=False),
)


@given(st.dictionaries(st.text(max_size=8), sparse, max_size=3))
def test_what_was_packed_is_unpacked(residual: dict[str, Array]) -> None:
    found = unpack_residual(pack_residual(residual))

    assert found.keys() == residual.keys()
    for name, array in residual.items():
        np.testing.assert_array_equal(found[name], array)
        assert (found[name].shape, found[name].dtype) == (array.shape, np.float32)


def test_a_pruned_tensor_takes_the_room_of_its_kept_values_and_a_bit_for_each_place() -> None:
    kernel = Keyed(1).uniform(80_000, -1.0, 1.0)
    kernel[np.arange(80_000) % 5 > 0] = 0.0

    assert len(pack_residual({"kernel": kernel})) < 4 * 16_000 + 80_000 // 8 + 1000
