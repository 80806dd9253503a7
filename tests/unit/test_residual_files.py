"""Residuals on the disk: what each fate leaves is there, to some percent, in few bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_agent.residual_files import MOST_LOST, pack_residuals, unpack_residual
from edge_agent.updates import Learned, prepare_update
from fedprune.codecs import Key, parse_codec
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, TensorClass, TensorSpec, TensorTable

sparse = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    elements=st.just(0.0) | st.floats(-(2.0**40), 2.0**40, width=32),
)
TABLE = TensorTable((TensorSpec("kernel", (400, 250), "float32", TensorClass.PRUNABLE, "dense"),))
KEPT = {"kernel": Keyed(1).uniform(100_000, 0.0, 1.0).reshape(400, 250) < 0.2}


def assert_close(found: Array, expected: Array, *parts: Array) -> None:
    """To 10 % of the norms of what it is made of, where the values are no dust."""
    norm = max(float(np.linalg.norm(part.astype(np.float64))) for part in (expected, *parts))
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    assert float(np.linalg.norm(found.astype(np.float64) - expected)) <= MOST_LOST * norm + 1e-36


@given(st.dictionaries(st.text(max_size=8), sparse, max_size=3), st.floats(0.0, 3.0, width=32))
def test_what_was_packed_is_unpacked(residual: dict[str, Array], factor: float) -> None:
    late = {name: np.asarray(array * np.float32(factor)) for name, array in residual.items()}
    blob = pack_residuals(residual, late, b"the update")

    for found, expected in (
        (unpack_residual(blob, None), residual),
        (unpack_residual(blob, b"the update"), late),
    ):
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert_close(found[name], array, residual[name], late[name])


def test_values_that_lie_between_two_codes_are_told_as_well() -> None:
    between = np.full(24, 4.5 / 7, np.float32)
    between[0] = 1.0
    for residual in ({"kernel": between}, {"kernel": np.where(np.arange(24) == 0, between, np.float32(2.5 / 7))}):
        (found,) = unpack_residual(pack_residuals(residual, residual, b""), None).values()
        assert_close(found, residual["kernel"])


@pytest.mark.parametrize(
    ("codec", "most"),
    [
        ("mask | feedback(2) | int8", 1.2),
        ("mask | feedback(2) | fp16", 2.4),
        ("mask | topk(0.01) | ternary | rice", 200),
    ],
)
def test_beside_an_update_the_residuals_take_few_bytes(codec: str, most: float) -> None:
    """Of a tensor that is 80 % pruned; a bit for each place included. `most`: in sizes of the update."""
    learned = Learned({"kernel": Keyed(2).uniform(int(KEPT["kernel"].sum()), -1.0, 1.0)}, {}, KEPT)
    prepared = prepare_update(learned, None, TABLE, parse_codec(codec), Key(1, 0, "pi-1"), KEPT)
    blob = pack_residuals(prepared.residual_if_accepted, prepared.residual_if_late, prepared.blob)

    assert len(blob) <= most * len(prepared.blob)
    accepted, late = unpack_residual(blob, None), unpack_residual(blob, prepared.blob)
    assert accepted.keys() == prepared.residual_if_accepted.keys()
    for name in accepted:
        assert_close(accepted[name], prepared.residual_if_accepted[name])
        assert_close(late[name], prepared.residual_if_late[name])


def test_small_values_that_gather_over_rounds_are_not_lost() -> None:
    """Beside a large one eight bits would make them nothing."""
    owed = np.full(1000, 1e-4, np.float32)
    owed[0] = 1.0
    found = unpack_residual(pack_residuals({"a": owed}, {"a": owed}, b""), None)["a"]
    np.testing.assert_allclose(found, owed, rtol=0.01)


@pytest.mark.parametrize("blob", [b"", b"nonsense", pack_residuals({}, {}, b"")[:-1]])
def test_what_is_no_residual_is_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match=r"Error|truncated|incomplete"):
        unpack_residual(blob, None)
