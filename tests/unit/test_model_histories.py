"""What a model's last deltas sent: whoever holds a version holds the same, however it came there, and deltas that are
coded by it lead to the same model."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedprune.codecs import (
    NOTHING_SENT,
    OtherHistory,
    apply_delta,
    delta_key,
    encode_delta,
    encode_model,
    parse_model_codec,
)
from fedprune.codecs.history import BusyLines
from fedprune.codecs.model_history import history_of, read_sent, sent_with
from fedprune.codecs.reader import Reader
from fedprune.codecs.signed_coder import SignedCoder
from fedprune.errors import ProtocolError
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Mask, TensorClass, TensorSpec, TensorTable, Weights
from fedprune.pruning.masks import apply_mask, full_mask

TABLE = TensorTable(
    (
        TensorSpec("kernel", (20, 15), "float32", TensorClass.PRUNABLE, "dense"),
        TensorSpec("bias", (15,), "float32", TensorClass.DENSE, "dense"),
        TensorSpec("mean", (3,), "float32", TensorClass.STATISTICS, "norm"),
        TensorSpec("variance", (3,), "float32", TensorClass.STATISTICS, "norm"),
    )
)
CODEC = parse_model_codec("fp16 + mask | topk(0.1) | ternary | history")
SEED, VERSIONS = 5, 12


class Version(NamedTuple):
    """A version as the gateway made it: the delta that leads to it, its mask, and all of it as bytes."""

    delta: bytes
    mask: Mask
    whole: bytes


def weights_of(*parts: int | str) -> Weights:
    keyed = Keyed(SEED, *parts)
    return {spec.name: keyed.uniform(spec.size, 0.0, 0.5).reshape(spec.shape) for spec in TABLE}


def mask_of(version: int) -> Mask:
    """Fewer weights from version to version, and some that come back."""
    return {"kernel": Keyed(SEED, "mask", version // 3).uniform(300, 0.0, 1.0).reshape(20, 15) > version / 20}


def following(whole: bytes, delta: bytes, mask: Mask, version: int) -> bytes:
    """What a device makes of the version that it holds and a delta."""
    held = CODEC.decode(whole, TABLE)
    key = delta_key(SEED, version)
    assert CODEC.deltas is not None
    reached = apply_delta(held.weights, delta, mask, TABLE, CODEC.deltas, key, CODEC.values, sent=held.sent)
    return reached.model + reached.sent


def made() -> list[Version]:
    """A gateway that never restarts, and keeps what deltas lose."""
    assert CODEC.deltas is not None
    mask, sent, base = mask_of(0), NOTHING_SENT, dict(apply_mask(weights_of("first"), mask_of(0)))
    versions = [Version(b"", mask, encode_model(base, mask, TABLE, CODEC.values))]
    base = CODEC.decode(versions[0].whole, TABLE).weights
    for version in range(1, VERSIONS + 1):
        mask, key = mask_of(version), delta_key(SEED, version)
        delta = encode_delta(weights_of("wanted", version // 4), base, mask, TABLE, CODEC.deltas, key, sent=sent)
        base, sent, model = apply_delta(base, delta, mask, TABLE, CODEC.deltas, key, CODEC.values, sent=sent)
        versions.append(Version(delta, mask, model + sent))
    return versions


MADE = made()


@given(whole=st.sets(st.integers(1, VERSIONS)))
def test_after_any_mix_of_whole_models_and_deltas_a_device_holds_what_the_gateway_does(whole: set[int]) -> None:
    held = MADE[0].whole
    for version, each in enumerate(MADE[1:], 1):
        held = each.whole if version in whole else following(held, each.delta, each.mask, version)
        assert held == each.whole


def test_deltas_are_coded_by_what_the_ones_before_sent() -> None:
    """The magic, the check of the mask, those of an update, and by how many: by nothing alone at first."""
    assert [each.delta[15] for each in MADE[1:]] == [0, *([1] * (VERSIONS - 1))]


def test_a_delta_that_is_coded_by_something_else_than_is_known_is_refused() -> None:
    stranger = MADE[5].whole[: len(encode_model(*CODEC.decode(MADE[5].whole, TABLE)[:2], TABLE, CODEC.values))]

    with pytest.raises(OtherHistory):
        following(stranger, MADE[6].delta, MADE[6].mask, 6)


def test_a_delta_that_is_coded_by_nothing_is_refused_where_it_is_known_what_was_sent() -> None:
    """A gateway would not have written it; whoever took it would code the next one otherwise than others."""
    assert CODEC.deltas is not None
    held, mask, key = CODEC.decode(MADE[5].whole, TABLE), MADE[6].mask, delta_key(SEED, 6)
    delta = encode_delta(weights_of("wanted", 1), held.weights, mask, TABLE, CODEC.deltas, key)

    with pytest.raises(OtherHistory, match="coded by something else than the last deltas sent here"):
        following(MADE[5].whole, delta, mask, 6)


@st.composite
def sent_before(draw: st.DrawFn) -> bytes:
    """What some deltas sent, one after another."""
    sent = NOTHING_SENT
    for _ in range(draw(st.integers(0, 4))):
        delta = {"kernel": draw(arrays.arrays(np.float32, 300, elements=_VALUES)), "bias": np.ones(15, np.float32)}
        sent = sent_with(sent, delta, full_mask(TABLE), TABLE)
    return sent


_VALUES = st.sampled_from([np.float32(0.0), np.float32(-1.0)])


@given(sent=sent_before())
def test_what_was_sent_is_read_again_up_to_its_end(sent: bytes) -> None:
    assert read_sent(Reader(sent), TABLE) == sent
    if sent:
        with pytest.raises(ProtocolError, match="what the last deltas sent"):
            read_sent(Reader(sent + b"\0"), TABLE)


@given(sent=sent_before(), data=st.data())
def test_damage_is_refused_or_leads_to_counts_that_can_be(sent: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(sent)))
    blob = sent[:at] + data.draw(st.binary(max_size=3)) + sent[at + data.draw(st.integers(0, 3)) :]
    try:
        found = read_sent(Reader(blob), TABLE)
    except ProtocolError:
        return
    for lines, size in zip(history_of(found, TABLE).recalled.values(), (300, 15), strict=False):
        assert isinstance(lines, BusyLines)
        assert 16 <= lines.each <= 128
        assert 0 <= lines.rows.sum() <= 128 * size


@pytest.mark.parametrize(
    "blob",
    [
        b"FPH1",
        b"FPH1\x0f" + bytes(51),
        b"FPH1\x81" + bytes(51),
        b"FPH1\x10" + bytes(50),
        b"FPH1\x10" + bytes(50) + b"\x80",
        b"FPH1\x10" + b"\x80\0" + bytes(50),
        b"FPH1\x10" + b"\xff\xff\xff\xff\xff\xff\x01" + bytes(50),
        b"FPH1\x10" + b"\x81\x0f" + bytes(50),
        b"FPH2\x10" + bytes(51),
    ],
)
def test_what_no_deltas_can_have_sent_is_refused(blob: bytes) -> None:
    """Of 20 rows and 15 columns of one tensor, and one row and 15 columns of the other."""
    assert read_sent(Reader(b"FPH1\x10" + b"\x80\x0f" + bytes(50)), TABLE)

    with pytest.raises(ProtocolError):
        read_sent(Reader(blob), TABLE)


def test_what_is_longer_ago_counts_less_and_what_was_sent_always_counts_as_each() -> None:
    nothing = {"kernel": np.zeros(300, np.float32), "bias": np.zeros(15, np.float32)}
    always: dict[str, Any] = nothing | {"bias": np.eye(15, dtype=np.float32)[3] * -2.0}
    sent = sent_with(NOTHING_SENT, nothing | {"kernel": np.eye(300, dtype=np.float32)[17]}, full_mask(TABLE), TABLE)
    counts = []
    for _ in range(30):
        sent = sent_with(sent, always, full_mask(TABLE), TABLE)
        kernel, bias = history_of(sent, TABLE).recalled.values()
        assert isinstance(kernel, BusyLines)
        assert isinstance(bias, BusyLines)
        counts.append(int(kernel.rows[1]))
        assert kernel.columns[2] == kernel.rows[1]
        assert bias.rows[0] == bias.columns[3]

    assert counts[:8] == [14, 12, 10, 8, 7, 6, 5, 4]
    assert counts[-1] == 0
    assert bias.columns[3] == bias.each == 121


def test_a_delta_is_smaller_where_the_last_ones_sent_of_the_same_rows() -> None:
    """Of which there are 4, and a tenth of their places."""
    coder = SignedCoder([np.ones((100, 100), np.bool_)], [np.zeros((100, 100), np.bool_)])
    kept = (Keyed(SEED, "rows").uniform(10_000, 0.0, 1.0) < 0.1) & (np.arange(10_000) // 100 % 25 == 3)
    busy = np.where(np.arange(100) % 25 == 3, 160, 0)
    lines = BusyLines(16, busy, np.full(100, int(busy.sum()) // 100))

    sizes = [len(coder.encode(kept, kept[kept], known)) for known in ([lines], None)]

    assert sizes[0] < 0.85 * sizes[1]
