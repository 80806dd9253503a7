"""Hostile blobs: whatever the bytes, decoding ends in a ProtocolError or in what a writer gives the same bytes for."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprune.codecs import Values, decode_model, decode_update, encode_model, parse_codec
from fedprune.codecs.reader import pack_bits
from fedprune.errors import ProtocolError
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable, Weights
from fedprune.pruning.masks import apply_mask
from tests.encoding import KEY, encoded, update_of, whole_delta

# Numbers that overflow on their way are as bad as an exception.
pytestmark = pytest.mark.filterwarnings("error")

TABLE = TensorTable(
    (
        TensorSpec("conv/kernel", (3, 3, 1, 4), "float32", TensorClass.PRUNABLE, "conv"),
        TensorSpec("norm/mean", (4,), "float32", TensorClass.STATISTICS, "norm"),
        TensorSpec("seen", (), "int64", TensorClass.INTEGER, "seen"),
        TensorSpec("flags", (3,), "bool", TensorClass.INTEGER, "seen"),
        TensorSpec("dense/kernel", (40, 11), "float32", TensorClass.PRUNABLE, "dense"),
        TensorSpec("dense/bias", (11,), "float32", TensorClass.DENSE, "dense"),
    )
)
KEYED = Keyed(1, "fuzz")
WEIGHTS = {spec.name: KEYED.uniform(spec.size, -1.0, 1.0).reshape(spec.shape).astype(spec.dtype) for spec in TABLE}
# The small tensor travels as a bitmap, the large one as Rice-coded gaps.
MASK = {"conv/kernel": WEIGHTS["conv/kernel"] > 0.2, "dense/kernel": WEIGHTS["dense/kernel"] > 0.8}
UPDATE = update_of(
    {spec.name: WEIGHTS[spec.name] for spec in TABLE.of(TensorClass.PRUNABLE, TensorClass.DENSE)},
    {"norm/mean": WEIGHTS["norm/mean"]},
    MASK,
)
MODELS = {values: encode_model(WEIGHTS, MASK, TABLE, values) for values in Values}
SAME_AGAIN = ("mask | fp32", "mask | fp16", "mask | int8")
"""Codecs by which what was decoded is encoded to the same bytes."""
CODECS = (
    *SAME_AGAIN,
    "mask | topk(0.3) | ternary | rice",
    "mask | topk(0.3) | ternary | context",
    "mask | feedback(2) | topk(0.3) | ternary | history",
    "mask | budget(12) | fp16 | rice",
    "mask | threshold(0.5) | fp16 | bitmap",
    "mask | random_mask(0.4) | quantise(2)",
    "mask | subsample(0.1) | rotate | fp32",
    "mask | low_rank(2) | fp32",
)
UPDATES = {
    (codec, known): encoded(UPDATE, TABLE, codec, mask_is_known=known) for codec in CODECS for known in (False, True)
}

EXTREMES = [
    *(struct.pack("<I", number) for number in (0, 1, 440, 441, 2**31 - 1, 2**31, 2**32 - 1)),
    *(struct.pack("<f", number) for number in (float("nan"), float("inf"), -1.0, 3.4e38, 1e-45)),
    *(struct.pack("<e", number) for number in (float("nan"), float("-inf"))),
    *(bytes([number]) for number in (0, 1, 2, 3, 8, 9, 31, 32, 63, 64, 255)),
]


def fields_of(values: Values) -> list[int]:
    """Where the tensors of a model begin, and the fields in front of their values: scheme, count, width, scale."""
    lengths = [len(encode_model(WEIGHTS, MASK, TensorTable((spec,)), values)) - 5 for spec in TABLE]
    starts = accumulate(lengths[:-1], initial=5)
    return [0, 3, 4, *(start + offset for start in starts for offset in (0, 1, 5, 6))]


FIELDS = sorted({field + shift for values in Values for field in fields_of(values) for shift in (0, 1)})


@st.composite
def damaged(draw: st.DrawFn, blobs: list[bytes]) -> bytes:
    """A valid blob after one to four mutations, most of them at the start of a field."""
    blob = draw(st.sampled_from(blobs))
    for _ in range(draw(st.integers(1, 4))):
        at = min(draw(st.sampled_from(FIELDS) | st.integers(0, len(blob))), len(blob))
        length = draw(st.integers(1, 40))
        replacement = draw(
            st.sampled_from(EXTREMES) | st.binary(min_size=1, max_size=8) | st.just(blob[at : at + length])
        )
        overwritten = draw(st.sampled_from([0, len(replacement), length, len(blob)]))
        blob = blob[:at] + replacement + blob[at + overwritten :]
    return blob


@settings(max_examples=1000)
@given(damaged(list(MODELS.values())))
def test_damaged_model(blob: bytes) -> None:
    try:
        weights, mask = decode_model(blob, TABLE)
    except ProtocolError:
        return
    TABLE.check(weights)
    assert encode_model(weights, mask, TABLE, list(Values)[blob[4]]) == blob
    assert_only_kept_weights_differ_from_zero(weights, apply_mask(weights, mask))


@settings(max_examples=1000)
@given(st.sampled_from(list(UPDATES)), st.data())
def test_damaged_update(case: tuple[str, bool], data: st.DataObject) -> None:
    codec, mask_is_known = case
    blob = data.draw(damaged([UPDATES[case]]))
    try:
        update = decode_update(blob, TABLE, MASK if mask_is_known else None, parse_codec(codec), KEY)
    except ProtocolError:
        return
    delta = whole_delta(update, TABLE)
    tensors = {**delta, **update.statistics}
    assert {name: array.shape for name, array in tensors.items()} == {
        spec.name: spec.shape for spec in TABLE if spec.kind is not TensorClass.INTEGER
    }
    assert all(np.isfinite(array).all() for array in tensors.values())
    if codec in SAME_AGAIN:
        assert encoded(update, TABLE, codec, mask_is_known=mask_is_known) == blob
    assert_only_kept_weights_differ_from_zero(delta, apply_mask(delta, update.mask))


@given(st.binary(max_size=2000))
def test_noise(noise: bytes) -> None:
    for magic, decode in [
        (b"FPM1", lambda blob: decode_model(blob, TABLE)),
        (b"FPU2", lambda blob: decode_update(blob, TABLE, None, parse_codec("mask | int8"), KEY)),
    ]:
        for blob in (noise, magic + noise, magic + b"\x02\x01" + noise):
            decodes_or_is_refused(decode, blob)


def test_memory_is_bounded_by_the_table_whatever_a_blob_promises() -> None:
    size = 100_000
    table = TensorTable((TensorSpec("kernel", (size,), "float32", TensorClass.PRUNABLE, "layer"),))
    ones = pack_bits(np.ones(40 * size, np.uint8))
    promises = [
        struct.pack("<IB", 2**32 - 1, 0),
        struct.pack("<IB", 2**32 - 1, 255),
        struct.pack("<IB", size, 255),
        *(struct.pack("<IB", count, width) for count in (1, size // 2, size) for width in (0, 1, 8, 16, 17, 18)),
    ]
    for promise in promises:
        blob = b"FPM1\x00\x02" + promise + ones
        tracemalloc.start()
        try:
            decodes_or_is_refused(lambda blob: decode_model(blob, table), blob)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 100 * size


def decodes_or_is_refused(decode: Callable[[bytes], object], blob: bytes) -> None:
    with suppress(ProtocolError):
        decode(blob)


def assert_only_kept_weights_differ_from_zero(found: Weights, masked: Weights) -> None:
    for name, array in masked.items():
        np.testing.assert_array_equal(found[name], array)
