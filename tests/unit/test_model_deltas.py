"""Deltas between versions of a model: what arrives is the model, what is lost comes later, and nonsense is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.codecs import (
    Values,
    apply_delta,
    decode_model,
    decode_replay,
    delta_key,
    describe_model_codec,
    encode_delta,
    encode_model,
    encode_replay,
    moved_since,
    parse_codec,
    parse_model_codec,
)
from fedprune.errors import ProtocolError
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Mask, TensorClass, TensorSpec, TensorTable, Weights, euclidean_norm

TABLE = TensorTable(
    (
        TensorSpec("kernel", (20, 15), "float32", TensorClass.PRUNABLE, "dense"),
        TensorSpec("bias", (15,), "float32", TensorClass.DENSE, "dense"),
        TensorSpec("mean", (3,), "float32", TensorClass.STATISTICS, "norm"),
        TensorSpec("variance", (3,), "float32", TensorClass.STATISTICS, "norm"),
        TensorSpec("seen", (2,), "int32", TensorClass.INTEGER, "seen"),
    )
)
CHAINS = (
    "mask | fp32",
    "mask | int8",
    "mask | topk(0.1) | ternary | rice",
    "mask | topk(0.2) | quantise(4) | context",
    "mask | threshold(0.01) | fp16 | bitmap",
    "mask | random_mask(0.2) | rotate | int8",
)
SEED = 3


def model(seed: int) -> Weights:
    keyed = Keyed(seed, "model of deltas")
    drawn = {spec.name: keyed.uniform(spec.size, 0.0, 0.5).reshape(spec.shape) for spec in TABLE if spec.name != "seen"}
    return drawn | {"seen": np.array([1, 2], np.int32)}


def mask(seed: int) -> Mask:
    return {"kernel": Keyed(seed, "mask").uniform(300, 0.0, 1.0).reshape(20, 15) > 0.3}


def test_a_delta_that_is_coded_by_what_has_moved_is_refused_where_something_else_has() -> None:
    codec, key, base, kept = parse_codec(CHAINS[3]), delta_key(SEED, 1), model(1), mask(1)
    moved = moved_since(model(0), base, TABLE)
    delta = encode_delta(model(2), base, kept, TABLE, codec, key, moved)

    apply_delta(base, delta, kept, TABLE, codec, key, Values.FP16, moved)
    with pytest.raises(ProtocolError, match="or of another model"):
        apply_delta(base, delta, kept, TABLE, codec, key, Values.FP16)


def test_nothing_has_moved_of_a_start_that_is_not_known_or_of_one_that_is_held() -> None:
    assert moved_since(None, model(1), TABLE) == {}
    assert not any(places.any() for places in moved_since(model(1), model(1), TABLE).values())


def pruned(weights: Weights, kept: Mask) -> Weights:
    return weights | {"kernel": np.where(kept["kernel"], weights["kernel"], np.float32(0.0))}


def delta_of(wanted: Weights, base: Weights, kept: Mask, chain: str, version: int = 1) -> bytes:
    return encode_delta(wanted, base, kept, TABLE, parse_codec(chain), delta_key(SEED, version))


def applied(
    base: Weights, delta: bytes, kept: Mask, chain: str, version: int = 1, values: Values = Values.FP32
) -> tuple[Weights, bytes]:
    reached = apply_delta(base, delta, kept, TABLE, parse_codec(chain), delta_key(SEED, version), values)
    return reached.weights, reached.model


def distance(wanted: Weights, found: Weights) -> float:
    return euclidean_norm({name: wanted[name] - found[name] for name in ("kernel", "bias")})


@pytest.mark.parametrize("values", [Values.FP32, Values.FP16])
@pytest.mark.parametrize("chain", CHAINS)
def test_a_delta_leads_to_a_model_that_its_own_bytes_hold(chain: str, values: Values) -> None:
    kept = mask(1)
    wanted, base = pruned(model(1), kept), model(2)

    weights, blob = applied(base, delta_of(wanted, base, kept, chain), kept, chain, values=values)

    decoded, decoded_mask = decode_model(blob, TABLE)
    assert encode_model(weights, decoded_mask, TABLE, values) == blob
    np.testing.assert_array_equal(decoded_mask["kernel"], kept["kernel"])
    assert not weights["kernel"][~kept["kernel"]].any(), "what the new mask prunes is gone"
    np.testing.assert_array_equal(weights["mean"], wanted["mean"], "statistics arrive as they are")
    np.testing.assert_array_equal(weights["seen"], base["seen"], "integers stay")
    assert {name: array.tolist() for name, array in weights.items()} == {n: a.tolist() for n, a in decoded.items()}


@given(st.integers(0, 2**20))
def test_what_arrives_and_what_is_still_owed_are_together_what_was_wanted(seed: int) -> None:
    """Of values on a coarse grid sums are exact, and so nothing is lost in between."""
    chain, kept = "mask | topk(0.1) | fp32 | rice", mask(seed)
    wanted, base = (
        {name: np.round(array * 64) / 64 if array.dtype == np.float32 else array for name, array in drawn.items()}
        for drawn in (pruned(model(seed), kept), pruned(model(seed + 1), kept))
    )

    weights, _ = applied(base, delta_of(wanted, base, kept, chain), kept, chain)

    for name in ("kernel", "bias"):
        sent, owed = weights[name] - base[name], wanted[name] - weights[name]
        np.testing.assert_array_equal(sent + owed, wanted[name] - base[name])
        assert not (sent * owed).any(), "what is sent is sent whole"


@pytest.mark.parametrize("chain", CHAINS)
def test_what_a_delta_loses_later_ones_bring(chain: str) -> None:
    kept = mask(4)
    wanted, found = pruned(model(4), kept), pruned(model(5), kept)
    before = distance(wanted, found)

    for version in range(1, 61):
        delta = delta_of(wanted, found, kept, chain, version)
        found, _ = applied(found, delta, kept, chain, version)

    assert distance(wanted, found) < 0.1 * before


def test_a_delta_is_far_smaller_than_the_model() -> None:
    kept = mask(6)
    wanted, base = pruned(model(6), kept), pruned(model(7), kept)

    delta = delta_of(wanted, base, kept, "mask | topk(0.02) | ternary | rice")

    assert 5 * len(delta) < len(encode_model(wanted, kept, TABLE, Values.FP16))


def test_a_delta_of_another_mask_is_noticed() -> None:
    kept, chain = mask(8), "mask | topk(0.1) | ternary | rice"
    other = {"kernel": kept["kernel"].copy()}
    first, second = np.flatnonzero(kept["kernel"])[0], np.flatnonzero(~kept["kernel"])[0]
    other["kernel"].flat[first], other["kernel"].flat[second] = False, True
    base = pruned(model(8), kept)
    delta = delta_of(pruned(model(9), kept), base, kept, chain)

    with pytest.raises(ProtocolError, match="the delta is of another mask"):
        applied(base, delta, other, chain)


@pytest.mark.parametrize("position", range(0, 200, 7))
def test_a_damaged_delta_is_refused_or_makes_finite_numbers(position: int) -> None:
    kept, chain = mask(10), "mask | topk(0.1) | fp32 | rice"
    base = pruned(model(10), kept)
    delta = bytearray(delta_of(pruned(model(11), kept), base, kept, chain))
    delta[position % len(delta)] ^= 0xFF

    try:
        weights, _ = applied(base, bytes(delta), kept, chain)
    except ProtocolError:
        return
    assert all(np.isfinite(array).all() for array in weights.values())


def test_numbers_that_are_no_model_are_refused() -> None:
    kept, chain = mask(12), "mask | fp32"
    base = pruned(model(12), kept)
    delta = delta_of(base | {"bias": np.full(15, np.float32(123.0))}, base, kept, chain)
    for bad in (np.nan, np.inf, 2.0**41):
        spoiled = delta.replace((np.float32(123.0) - base["bias"][:1]).tobytes(), np.float32(bad).tobytes())
        assert spoiled != delta
        with pytest.raises(ProtocolError, match=r"NaN or infinite|at most"):
            applied(base, spoiled, kept, chain)
    with pytest.raises(ProtocolError, match="a variance is negative"):
        applied(base, delta_of(base | {"variance": np.full(3, np.float32(-1.0))}, base, kept, chain), kept, chain)


def test_a_move_that_float32_does_not_hold_is_no_delta() -> None:
    kept = mask(13)
    base = pruned(model(13), kept) | {"bias": np.full(15, np.float32(-3e38))}

    with pytest.raises(ProtocolError, match="tensor bias: it moves too far for a delta"):
        delta_of(base | {"bias": np.full(15, np.float32(3e38))}, base, kept, "mask | int8")


def test_a_replay_of_another_length_is_refused() -> None:
    replay = encode_replay([b"one", b"two"])

    assert decode_replay(replay, 2) == [b"one", b"two"]
    with pytest.raises(ProtocolError, match="7 bytes too many"):
        decode_replay(replay, 1)
    with pytest.raises(ProtocolError, match="delta 3 of 3: truncated"):
        decode_replay(replay, 3)
    with pytest.raises(ProtocolError, match="starts with"):
        decode_replay(b"FPM1" + replay[4:], 2)


def test_a_model_codec_is_its_description() -> None:
    for chain in CHAINS:
        description = describe_model_codec("fp16", chain)
        assert str(parse_model_codec(description)) == description
    assert parse_model_codec("fp32").deltas is None


@pytest.mark.parametrize(
    ("description", "why"),
    [
        ("int4", "value scheme 'int4' is unknown"),
        ("fp16 + topk(0.1) | fp16 | rice", "must begin with mask"),
        ("fp16 + mask | feedback(2) | int8", "leave clip and feedback out"),
        ("fp16 + mask | clip(1) | int8", "leave clip and feedback out"),
        ("fp16 + mask | subsample(0.1) | int8", "take random_mask"),
        ("fp16 + mask | topk(0.1) | int8 | history", "it needs ternary"),
    ],
)
def test_a_model_codec_that_makes_no_sense_is_refused(description: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_model_codec(description)
