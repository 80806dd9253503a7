"""Residuals on the disk: what each fate leaves is there, to some percent, in few bytes."""

from __future__ import annotations

import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_agent.local_round import PreparedUpdate
from edge_agent.residual_files import MOST_LOST, pack_residuals, unpack_residual
from edge_agent.updates import Learned, prepare_update
from fedprune.codecs import Key, parse_codec
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, TensorClass, TensorSpec, TensorTable, Weights
from fedprune.task.checks import MAX_PARAMETERS

INT8 = parse_codec("mask | feedback(2) | int8")
sparse = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    elements=st.just(0.0) | st.floats(-(2.0**40), 2.0**40, width=32),
)
TABLE = TensorTable((TensorSpec("kernel", (400, 250), "float32", TensorClass.PRUNABLE, "dense"),))
KEPT = {"kernel": Keyed(1).uniform(100_000, 0.0, 1.0).reshape(400, 250) < 0.2}


def owes(residual: Weights) -> PreparedUpdate:
    """An update of which nothing arrived."""
    return PreparedUpdate(b"", residual, residual)


def assert_close(found: Array, expected: Array, *parts: Array) -> None:
    """To 10 % of the norms of what it is made of, where the values are no dust."""
    norm = max(float(np.linalg.norm(part.astype(np.float64))) for part in (expected, *parts))
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    assert float(np.linalg.norm(found.astype(np.float64) - expected)) <= MOST_LOST * norm + 1e-36


@given(st.dictionaries(st.text(max_size=8), sparse, max_size=3), st.floats(0.0, 3.0, width=32))
def test_what_was_packed_is_unpacked(residual: dict[str, Array], factor: float) -> None:
    late = {name: np.asarray(array * np.float32(factor)) for name, array in residual.items()}
    blob = pack_residuals(PreparedUpdate(b"the update", residual, late))

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
        (found,) = unpack_residual(pack_residuals(owes(residual)), None).values()
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
    blob = pack_residuals(prepared)

    assert len(blob) <= most * len(prepared.blob)
    accepted, late = unpack_residual(blob, None), unpack_residual(blob, prepared.blob)
    assert accepted.keys() == prepared.residual_if_accepted.keys()
    for name in accepted:
        assert_close(accepted[name], prepared.residual_if_accepted[name])
        assert_close(late[name], prepared.residual_if_late[name])


def peaked(size: int, power: float) -> Array:
    """Values of which most are small beside the largest one, the more the higher the power, and a fifth are 0."""
    drawn, used = Keyed(3).uniform(size, -1.0, 1.0), Keyed(4).uniform(size, 0.0, 1.0) < 0.8
    return np.asarray(np.sign(drawn) * np.abs(drawn) ** np.float32(power) * used, np.float32)


@pytest.mark.parametrize("power", [1.0, 3.0, 9.0, 27.0])
def test_beside_an_int8_update_the_residuals_take_few_bytes_however_its_values_are_spread(power: float) -> None:
    """What arrived is in the update, zeros included."""
    learned = Learned({"kernel": peaked(int(KEPT["kernel"].sum()), power)}, {}, KEPT)
    prepared = prepare_update(learned, None, TABLE, INT8, Key(1, 0, "pi-1"), KEPT)

    blob = pack_residuals(prepared)

    assert len(blob) <= 1.4 * len(prepared.blob)
    for late, expected in ((None, prepared.residual_if_accepted), (prepared.blob, prepared.residual_if_late)):
        assert_close(unpack_residual(blob, late)["kernel"], expected["kernel"])


OWED = {
    "even": np.float32([[0.0, 0.25, -0.5], [0.5, 0.0, 0.25]]),
    "remainder": np.float32([0.5, 0.0625, 0.0625, -0.03125]),
    "gathered": np.float32([50.0, 2.5, -3.5, 0.0]),
}
ARRIVED = {
    "even": np.float32([[0.0, 127.0, -2.0], [3.0, 0.0, 0.0]]),
    "remainder": np.float32([100.0, -127.0, 0.0, 1.0]),
    "gathered": np.float32([0.0, 0.0, 8.0, -8.0]),
}
GOLDEN = PreparedUpdate(
    bytes.fromhex("00 7ffe0300 00 64810001"),
    OWED,
    {name: owed + ARRIVED[name] for name, owed in OWED.items()},
    mask={"even": np.array([[False, True, True], [True, False, True]])},
)
"""Owed values of four, eight and sixteen bits; codes of what arrived in the update, and in the file."""

GOLDEN_BYTES = bytes.fromhex(
    "83a46576656e94920203c402012e94cb3fb24924a000000004c4029337ff94cb3ff000000000000008c40001a972656d"
    "61696e646572949104c4010094cb3f7020408000000008c4047f1010f8ff94cb3ff000000000000008c40006a8676174"
    "6865726564949104c4010094cb404900000000000010c408003c662a7bac0000ff94cb3ff24924a000000004c4020097"
    "ff"
)


def test_the_bytes_on_the_disk_stay_as_they_are() -> None:
    """Agents are upgraded while rounds go on, and read what the version before wrote."""
    assert zlib.decompress(pack_residuals(GOLDEN)) == GOLDEN_BYTES
    blob = zlib.compress(GOLDEN_BYTES)
    for late, expected in ((None, OWED), (GOLDEN.blob, GOLDEN.residual_if_late)):
        found = unpack_residual(blob, late)
        assert found.keys() == expected.keys()
        for name in expected:
            assert_close(found[name], expected[name], OWED[name])


def test_small_values_that_gather_over_rounds_are_not_lost() -> None:
    """Beside a large one eight bits would make them nothing."""
    owed = np.full(1000, 1e-4, np.float32)
    owed[0] = 1.0
    found = unpack_residual(pack_residuals(owes({"a": owed})), None)["a"]
    np.testing.assert_allclose(found, owed, rtol=0.01)


@pytest.mark.parametrize("blob", [b"", b"nonsense", pack_residuals(owes({}))[:-1]])
def test_what_is_no_residual_is_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match=r"Error|truncated|incomplete"):
        unpack_residual(blob, None)


_NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 2**28 + 1, 2**40, 2**63])
_VALUES = st.tuples(st.sampled_from([0.0, 1.0, -1.0, 1e300, float("nan")]), _NUMBERS, st.binary(max_size=4), _NUMBERS)


@given(
    shape=st.lists(_NUMBERS, max_size=40),
    places=st.sampled_from([b"", b"\0", b"\0\0", b"\1\1", b"\2\0\0\0\0\0", b"\3"]),
    owed=_VALUES,
    arrived=_VALUES,
    late=st.sampled_from([None, b"", b"update"]),
)
def test_a_forged_file_is_refused_or_read_and_nothing_else(
    shape: list[int], places: bytes, owed: tuple[object, ...], arrived: tuple[object, ...], late: bytes | None
) -> None:
    blob = zlib.compress(msgspec.msgpack.encode({"kernel": (shape, places, owed, arrived)}))
    try:
        found = unpack_residual(blob, late)
    except ValueError:
        return
    assert found["kernel"].shape == tuple(shape)
    assert np.isfinite(found["kernel"]).all()


NONE = (0.0, 8, b"", -1)


@pytest.mark.parametrize("count", [1, 2, 64], ids="{} tensors".format)
def test_all_tensors_together_are_no_larger_than_a_tasks_model(count: int) -> None:
    """One byte says that no place of a tensor has a value, however large it is."""
    share = MAX_PARAMETERS // count
    blob = zlib.compress(
        msgspec.msgpack.encode({f"t{number}": ((share, 2), b"\2\0\0\0\0\0", NONE, NONE) for number in range(count)})
    )

    with pytest.raises(ValueError, match=f"{2 * MAX_PARAMETERS} values, a task's model has at most {MAX_PARAMETERS}"):
        unpack_residual(blob, None)


def test_tensors_without_any_value_are_bounded_too() -> None:
    blob = zlib.compress(
        msgspec.msgpack.encode({str(number): ((0,), b"\0", NONE, NONE) for number in range(2**16 + 1)})
    )

    with pytest.raises(ValueError, match="length <= 65536"):
        unpack_residual(blob, None)


@pytest.mark.parametrize(
    "values",
    [
        (1.0, 16, np.float16([np.nan]).tobytes(), -1),
        (1.0, 16, np.float16([-np.inf]).tobytes(), -1),
        (3e38, 8, b"\x7f", -1),
        (3e38, 4, b"\x07", -1),
        (3e38, 8, b"", 0),
    ],
    ids=["NaN", "infinity", "large, 8 bits", "large, 4 bits", "large, in the update"],
)
def test_values_that_are_not_finite_are_refused(values: tuple[object, ...]) -> None:
    for owed, arrived in ((values, (0.0, 8, b"\0", -1)), ((0.0, 8, b"\0", -1), values)):
        blob = zlib.compress(msgspec.msgpack.encode({"kernel": ((1,), b"\0", owed, arrived)}))
        with pytest.raises(ValueError, match=r"NaN or infinite|0 bytes of codes for 1 values"):
            unpack_residual(blob, b"\x7f")


def test_what_follows_a_residual_is_refused() -> None:
    with pytest.raises(ValueError, match="something follows it"):
        unpack_residual(pack_residuals(owes({})) + b"x", None)
