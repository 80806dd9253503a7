"""Whole updates and models: round trips, lengths, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedprune.codecs import (
    Update,
    Values,
    alive_sizes,
    decode_model,
    decode_update,
    encode_model,
    encode_update,
    parse_codec,
)
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Mask, TensorClass, TensorSpec, TensorTable, Weights, weights_digest
from fedprune.pruning.masks import apply_mask, full_mask
from tests.encoding import KEY, encoded, update_of

TABLE = TensorTable(
    (
        TensorSpec("conv/kernel", (3, 3, 1, 4), "float32", TensorClass.PRUNABLE, "conv"),
        TensorSpec("norm/mean", (4,), "float32", TensorClass.STATISTICS, "norm"),
        TensorSpec("norm/variance", (4,), "float32", TensorClass.STATISTICS, "norm"),
        TensorSpec("seen", (), "int64", TensorClass.INTEGER, "seen"),
        TensorSpec("base/kernel", (3, 2), "float32", TensorClass.FROZEN, "base"),
        TensorSpec("dense/kernel", (9, 11), "float32", TensorClass.PRUNABLE, "dense"),
        TensorSpec("dense/bias", (11,), "float32", TensorClass.DENSE, "dense"),
    )
)
FINITE = st.floats(-1e6, 1e6, width=32)


def tensors(*kinds: TensorClass) -> st.SearchStrategy[dict[str, Any]]:
    return in_table_order(
        {
            spec.name: arrays.arrays(spec.dtype, spec.shape, elements=FINITE if spec.dtype == "float32" else None)
            for spec in TABLE.of(*kinds)
        }
    )


def in_table_order(strategies: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*strategies.values()).map(lambda drawn: dict(zip(strategies, drawn, strict=True)))


masks = in_table_order(
    {spec.name: arrays.arrays(np.bool_, spec.shape) for spec in TABLE.of(TensorClass.PRUNABLE)}
) | st.just(full_mask(TABLE))
updates = st.builds(
    update_of,
    tensors(TensorClass.PRUNABLE, TensorClass.DENSE),
    tensors(TensorClass.STATISTICS),
    masks,
)
models = tensors(*TensorClass)


CODECS = (
    "mask | fp32",
    "mask | clip(1) | feedback(2) | int8",
    "mask | fp16",
    "mask | feedback(2) | topk(0.1) | ternary | rice",
    "mask | topk(0.2) | ternary | context",
    "mask | feedback(2) | budget(8) | ternary | context",
    "mask | feedback(2) | topk(0.2) | ternary | history",
    "mask | threshold(0.5) | quantise(4) | bitmap",
    "mask | feedback(2) | topk(0.5) | rotate | quantise(2) | rice",
    "mask | random_mask(0.3) | fp16",
    "mask | subsample(0.3) | rotate | quantise(4)",
    "mask | feedback(5) | low_rank(2) | quantise(8)",
)


def zero_update() -> Update:
    zeros = {spec.name: np.zeros(spec.shape, np.float32) for spec in TABLE}
    return update_of(
        {spec.name: zeros[spec.name] for spec in TABLE.of(TensorClass.PRUNABLE, TensorClass.DENSE)},
        {spec.name: zeros[spec.name] for spec in TABLE.of(TensorClass.STATISTICS)},
        full_mask(TABLE),
    )


def assert_same(found: Weights | Mask, expected: Weights | Mask) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@given(updates, st.booleans())
def test_fp32_update_arrives_exactly_at_kept_positions(update: Update, mask_is_known: bool) -> None:
    blob = encoded(update, TABLE, "mask | fp32", mask_is_known=mask_is_known)
    decoded = decode_update(blob, TABLE, update.mask if mask_is_known else None, parse_codec("mask | fp32"), KEY)
    assert_same(decoded.delta, update.delta)
    assert_same(decoded.statistics, update.statistics)
    assert_same(decoded.mask, update.mask)


@given(updates, st.sampled_from(CODECS))
def test_statistics_are_exact_in_every_codec(update: Update, codec: str) -> None:
    blob = encoded(update, TABLE, codec, mask_is_known=True)
    assert_same(decode_update(blob, TABLE, update.mask, parse_codec(codec), KEY).statistics, update.statistics)


@pytest.mark.filterwarnings("error")
@given(updates, st.sampled_from(CODECS), st.booleans())
def test_what_a_sender_believes_to_arrive_arrives(update: Update, description: str, mask_is_known: bool) -> None:
    codec = parse_codec(description)
    sent = codec.compress(update.delta, codec.init(TABLE), KEY)
    blob = encode_update(sent, update.statistics, update.mask, TABLE, codec, mask_is_known=mask_is_known)

    decoded = decode_update(blob, TABLE, update.mask if mask_is_known else None, codec, KEY)

    believed = codec.arrived(sent, alive_sizes(TABLE, update.mask), KEY)
    assert_same(decoded.delta, believed)


@given(models, masks, st.sampled_from(Values))
def test_model_arrives_with_its_mask_and_exactly_what_is_not_trained(
    weights: Weights, mask: Mask, values: Values
) -> None:
    travelled, decoded_mask = decode_model(encode_model(weights, mask, TABLE, values), TABLE)
    decoded = TABLE.with_unsent(travelled, weights)
    TABLE.check(decoded)
    assert_same(decoded_mask, mask)
    exact = apply_mask(weights, mask)
    for spec in TABLE.of(TensorClass.STATISTICS, TensorClass.INTEGER):
        np.testing.assert_array_equal(decoded[spec.name], exact[spec.name])
    if values is Values.FP32:
        assert weights_digest(decoded) == weights_digest(exact)


@given(models, masks, st.sampled_from(Values))
def test_what_was_decoded_once_travels_unchanged(weights: Weights, mask: Mask, values: Values) -> None:
    blob = encode_model(weights, mask, TABLE, values)
    assert encode_model(*decode_model(blob, TABLE), TABLE, values) == blob


@given(models, masks, st.sampled_from(Values))
def test_frozen_tensors_cost_no_byte_of_a_model(weights: Weights, mask: Mask, values: Values) -> None:
    others = TensorTable(tuple(spec for spec in TABLE if spec.kind is not TensorClass.FROZEN))
    assert encode_model(weights, mask, TABLE, values) == encode_model(weights, mask, others, values)
    decoded, _ = decode_model(encode_model(weights, mask, TABLE, values), TABLE)
    assert list(decoded) == [spec.name for spec in others]


@given(updates)
def test_a_known_mask_costs_no_bytes(update: Update) -> None:
    kept = sum(int(np.count_nonzero(array)) for array in update.mask.values())
    blob = encoded(update, TABLE, "mask | fp32", mask_is_known=True)
    assert len(blob) == 4 + 2 + 1 + 4 * (kept + 4 + 4 + 11)


def test_a_full_mask_costs_a_byte_for_each_tensor() -> None:
    update = zero_update()
    known = encoded(update, TABLE, "mask | int8", mask_is_known=True)
    own = encoded(update, TABLE, "mask | int8", mask_is_known=False)
    assert len(own) == len(known) + 2


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda blob: blob[:-1], "values: truncated"),
        (lambda blob: blob + b"\0", "1 bytes too many"),
        (lambda blob: blob[:0], "truncated"),
        (lambda blob: b"FPU1" + blob[4:], "starts with b'FPU1'"),
        (lambda blob: b"FPM1" + blob[4:], "starts with b'FPM1'"),
        (lambda blob: blob[:4] + bytes([blob[4] ^ 1]) + blob[5:], "not of the codec 'mask | fp32'"),
        (lambda blob: blob[:6] + b"\0" + blob[7:], "mask byte is 0, not 1"),
        (lambda blob: blob[:6] + b"\x02" + blob[7:], "mask byte is 2, not 1"),
        (lambda blob: blob[:7] + b"\x07" + blob[8:], "tensor conv/kernel: positions scheme 7"),
    ],
)
def test_malformed_update_is_refused_with_its_reason(damage: Any, complaint: str) -> None:
    codec = parse_codec("mask | fp32")
    blob = encoded(zero_update(), TABLE, "mask | fp32", mask_is_known=False)
    decode_update(blob, TABLE, None, codec, KEY)
    with pytest.raises(ProtocolError, match=complaint.replace("|", "[|]")):
        decode_update(damage(blob), TABLE, None, codec, KEY)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda blob: blob[:-1], "tensor dense/bias: truncated"),
        (lambda blob: blob + b"\0", "1 bytes too many"),
        (lambda blob: b"FPU1" + blob[4:], "starts with b'FPU1'"),
        (lambda blob: blob[:4] + b"\xff" + blob[5:], "value scheme 255"),
    ],
)
def test_malformed_model_is_refused_with_its_reason(damage: Any, complaint: str) -> None:
    zeros = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in TABLE}
    blob = encode_model(zeros, full_mask(TABLE), TABLE, Values.INT8)
    decode_model(blob, TABLE)
    with pytest.raises(ProtocolError, match=complaint):
        decode_model(damage(blob), TABLE)


def test_an_own_mask_is_refused_where_masks_are_shared() -> None:
    update = zero_update()
    blob = encoded(update, TABLE, "mask | fp32", mask_is_known=False)
    with pytest.raises(ProtocolError, match="mask byte is 1, not 0"):
        decode_update(blob, TABLE, update.mask, parse_codec("mask | fp32"), KEY)


def test_an_update_that_is_not_finite_or_does_not_fit_is_our_own_bug() -> None:
    update = zero_update()
    for bad in (np.full(11, np.nan, np.float32), np.full(11, np.inf, np.float32)):
        spoiled = Update({**update.delta, "dense/bias": bad}, update.statistics, update.mask)
        with pytest.raises(ValueError, match="tensor dense/bias"):
            encoded(spoiled, TABLE, "mask | fp32", mask_is_known=True)
    for bad in (np.full(4, np.nan, np.float32), np.zeros(5, np.float32)):
        spoiled = Update(update.delta, {**update.statistics, "norm/mean": bad}, update.mask)
        with pytest.raises(ValueError, match="tensor norm/mean"):
            encoded(spoiled, TABLE, "mask | fp32", mask_is_known=True)
