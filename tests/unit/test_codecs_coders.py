"""Byte coders one by one: positions and values."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedprune.codecs import context
from fedprune.codecs.context import ContextCoder
from fedprune.codecs.floats import Fp16, Fp32
from fedprune.codecs.integers import Codes, Int8
from fedprune.codecs.links import Places, ValueCoder, Vector
from fedprune.codecs.positions import Bitmap, Coding, Smallest
from fedprune.codecs.quantisation import Quantisation
from fedprune.codecs.reader import Reader, pack_bits
from fedprune.codecs.rice import Rice
from fedprune.codecs.ternary import Ternary
from fedprune.errors import ProtocolError
from fedprune.model.randomness import Keyed
from tests.encoding import KEY

FLOAT32_MAX = float(np.finfo(np.float32).max)
EXACT_AGAIN = (Fp32(), Fp16(), Int8(), Quantisation(4), Quantisation(2))
"""Coders of values of any kind; what they rounded once they write exactly."""


def decode(coder: ValueCoder, blob: bytes, count: int) -> Vector:
    reader = Reader(blob)
    (vector,) = coder.read(reader, [count])
    reader.finish()
    return vector


def kept_positions() -> st.SearchStrategy[Places]:
    """Masks scattered, clustered, empty and full."""
    scattered = arrays.arrays(np.bool_, st.integers(0, 300))
    runs = st.lists(st.tuples(st.booleans(), st.integers(0, 3000)), max_size=6).map(
        lambda pieces: np.repeat([kept for kept, _ in pieces], [n for _, n in pieces]).astype(np.bool_)
    )
    return scattered | runs


def vectors(limit: float = FLOAT32_MAX) -> st.SearchStrategy[Vector]:
    elements = st.floats(-limit, limit, width=32)
    return arrays.arrays(np.float32, st.integers(0, 50), elements=elements)


def bernoulli(density: float, size: int) -> Places:
    kept: Places = Keyed(1, "bernoulli", str(density)).uniform(size, 0.0, 1.0) < density
    return kept


@pytest.mark.parametrize("coding", [Bitmap(), Rice(), Smallest()])
@given(kept=kept_positions())
def test_positions_round_trip_and_leave_nothing(coding: Coding, kept: Places) -> None:
    reader = Reader(coding.encode(kept))
    np.testing.assert_array_equal(coding.read(reader, kept.size, kept.size), kept)
    reader.finish()


@st.composite
def masks_and_positions(draw: st.DrawFn) -> tuple[list[Places], list[Places], Places]:
    """Masks of some tensors, what has moved of them, and which of their alive values are sent."""
    shapes = st.lists(st.integers(0, 9), min_size=0, max_size=3).map(tuple)
    masks = [draw(arrays.arrays(np.bool_, shape)) for shape in draw(st.lists(shapes, max_size=4))]
    alive = sum(int(np.count_nonzero(mask)) for mask in masks)
    moved = [draw(arrays.arrays(np.bool_, mask.shape)) for mask in masks]
    return masks, moved, draw(arrays.arrays(np.bool_, alive))


@given(drawn=masks_and_positions())
def test_positions_in_context_round_trip_and_leave_nothing(drawn: tuple[list[Places], list[Places], Places]) -> None:
    masks, moved, kept = drawn
    coder = ContextCoder(masks, moved)
    reader = Reader(coder.encode(kept))

    np.testing.assert_array_equal(coder.read(reader, kept.size, int(np.count_nonzero(kept))), kept)
    reader.finish()


@given(drawn=masks_and_positions(), data=st.data())
def test_damaged_positions_in_context_are_refused_or_have_one_form(
    drawn: tuple[list[Places], list[Places], Places], data: st.DataObject
) -> None:
    masks, moved, kept = drawn
    coder, blob = ContextCoder(masks, moved), ContextCoder(masks, moved).encode(kept)
    at = data.draw(st.integers(0, len(blob)))
    blob = blob[:at] + data.draw(st.binary(max_size=3)) + blob[at + data.draw(st.integers(0, 3)) :]
    reader = Reader(blob)
    try:
        found = coder.read(reader, kept.size, kept.size)
        reader.finish()
    except ProtocolError:
        return
    assert coder.encode(found) == blob


@given(drawn=masks_and_positions(), more=st.integers(1, 2**16))
def test_other_bytes_that_a_decoder_would_read_alike_are_refused(
    drawn: tuple[list[Places], list[Places], Places], more: int
) -> None:
    """Any number of the last interval decodes to the same positions: a writer takes one of them."""
    masks, moved, kept = drawn
    coder = ContextCoder(masks, moved)
    body = coder.encode(kept)[1:]
    assume(len(body) < 120)
    for other in (
        body + b"\0",
        (int.from_bytes(body + bytes(4), "big") + more).to_bytes(len(body) + 4, "big").rstrip(b"\0"),
        (max(int.from_bytes(body, "big") - more, 0)).to_bytes(len(body), "big").rstrip(b"\0"),
    ):
        if other == body:
            continue
        try:
            found = coder.read(Reader(bytes([len(other)]) + other), kept.size, kept.size)
        except ProtocolError:
            continue
        assert not np.array_equal(found, kept)


def test_positions_that_are_laid_the_other_way_than_a_writer_lays_them_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = bernoulli(0.02, 40_000).reshape(400, 100)
    kept[::40] |= bernoulli(0.5, 1000).reshape(10, 100)
    chooses = context._Line.is_by_column
    for places in (kept, kept.T):
        coder = unmoved(places.shape)
        with monkeypatch.context() as hostile:
            hostile.setattr(context._Line, "is_by_column", lambda *given: not chooses(*given))
            forged = coder.encode(places.reshape(-1))
        with pytest.raises(ProtocolError, match="laid"):
            coder.read(Reader(forged), places.size, places.size)


@pytest.mark.parametrize("permille", [2, 5, 10, 30, 100, 300])
def test_context_coding_of_scattered_positions_is_within_2_percent_of_the_entropy(permille: int) -> None:
    kept = bernoulli(permille / 1000, 100_000)
    density = kept.mean()
    entropy = -density * math.log2(density) - (1 - density) * math.log2(1 - density)
    assert len(unmoved(kept.shape).encode(kept)) <= 1.02 * kept.size * entropy / 8 + 16


def test_context_coding_of_busy_rows_or_columns_is_far_below_the_entropy_of_scattered_positions() -> None:
    busy = np.zeros((400, 100), np.bool_)
    busy[::20] = bernoulli(0.3, 20 * 100).reshape(20, 100)
    density = busy.mean()
    entropy = busy.size * (-density * math.log2(density) - (1 - density) * math.log2(1 - density)) / 8
    for kept in (busy, busy.T):
        assert len(unmoved(kept.shape).encode(kept.reshape(-1))) < 0.75 * entropy


def test_positions_where_weights_have_moved_before_take_fewer_bytes() -> None:
    moved = np.zeros((400, 100), np.bool_)
    moved[::10, ::5] = True
    kept = (moved & bernoulli(0.5, moved.size).reshape(moved.shape)).reshape(-1)
    everything = np.ones(moved.shape, np.bool_)

    assert len(ContextCoder([everything], [moved]).encode(kept)) < 0.6 * len(unmoved(moved.shape).encode(kept))


def unmoved(shape: tuple[int, ...]) -> ContextCoder:
    """The coder of a tensor that is kept whole and has not moved."""
    return ContextCoder([np.ones(shape, np.bool_)], [np.zeros(shape, np.bool_)])


def test_a_promise_of_endless_positions_in_context_ends_soon() -> None:
    """A few bytes decode to any number of likely bits: what bounds them is the table and what may be sent."""
    mask = np.ones((1000, 1000), np.bool_)
    for blob in (b"\x04\xff\xff\xff\xff", b"\x08\x55" + bytes(7), b"\x02\x80\x00", b"\x80\x00"):
        with pytest.raises(ProtocolError):
            ContextCoder([mask] * 3, [~mask] * 3).read(Reader(blob), 3_000_000, 100)


@given(kept=kept_positions())
def test_smallest_is_no_longer_than_any_alternative(kept: Places) -> None:
    length = len(Smallest().encode(kept))
    assert length <= 1 + min(len(Bitmap().encode(kept)), len(Rice().encode(kept)))
    if kept.all():
        assert length == 1


@pytest.mark.parametrize("percent", [1, 2, 3, 5, 8, 10, 15, 20, 25, 30, 35, 38, 40, 45, 50])
def test_rice_is_within_5_percent_of_the_entropy(percent: int) -> None:
    kept = bernoulli(percent / 100, 200_000)
    density = kept.mean()
    entropy = -density * math.log2(density) - (1 - density) * math.log2(1 - density)
    assert len(Rice().encode(kept)) <= 1.05 * kept.size * entropy / 8


@pytest.mark.parametrize("coding", [Bitmap(), Rice(), Smallest()])
def test_more_positions_than_may_be_sent_are_refused(coding: Coding) -> None:
    kept = bernoulli(0.3, 200)
    count = int(np.count_nonzero(kept))

    np.testing.assert_array_equal(coding.read(Reader(coding.encode(kept)), 200, count), kept)
    with pytest.raises(ProtocolError, match=f"{count} positions are sent, at most {count - 1} may be"):
        coding.read(Reader(coding.encode(kept)), 200, count - 1)


@pytest.mark.parametrize(
    ("coding", "blob", "complaint"),
    [
        (Bitmap(), b"\xff", "truncated"),
        (Bitmap(), b"\xff\xff", "padding"),
        (Smallest(), b"", "truncated"),
        (Smallest(), b"\x03", "scheme 3"),
        (Rice(), b"\x01\x00", "truncated"),
        (Rice(), struct.pack("<IB", 11, 0) + b"\xff" * 9, "11 positions"),
        (Rice(), struct.pack("<IB", 2**32 - 1, 255), "4294967295 positions"),
        (Rice(), struct.pack("<IB", 1, 5), "5 lower bits"),
        (Rice(), struct.pack("<IB", 3, 1) + b"\x08\x07", "padding"),
        (Rice(), struct.pack("<IB", 3, 1) + b"\x00\x03", "2 of 3"),
        (Rice(), struct.pack("<IB", 3, 0) + b"\x0f", "padding"),
        (Rice(), struct.pack("<IB", 1, 0) + b"\x00\x04", "position 10"),
        (Rice(), struct.pack("<IB", 1, 4) + b"\x0f\x01", "position 15"),
    ],
)
def test_malformed_positions_are_refused(coding: Coding, blob: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        coding.read(Reader(blob), 10, 10)


def rice_of(kept: Places, width: int) -> bytes:
    """The positions with any number of lower bits."""
    gaps = np.diff(np.flatnonzero(kept), prepend=-1) - 1
    lower = (gaps[:, np.newaxis] >> np.arange(width)) & 1
    upper = "".join("0" * int(gap) + "1" for gap in gaps >> width)
    bits = (lower.ravel().astype(np.uint8), np.array([*map(int, upper)], np.uint8))
    return struct.pack("<IB", gaps.size, width) + b"".join(map(pack_bits, bits))


@given(kept=arrays.arrays(np.bool_, st.integers(1, 300)) | st.integers(1, 3000).map(lambda size: bernoulli(0.05, size)))
def test_positions_have_one_form(kept: Places) -> None:
    """Of all schemes and widths that say the same, only what a writer takes is read."""
    widths = range(kept.size.bit_length() + 1)
    forms = [b"\0", b"\1" + pack_bits(kept), *(b"\2" + rice_of(kept, width) for width in widths)]
    written = Smallest().encode(kept)
    shortest = Rice().encode(kept)
    assert written in forms
    assert b"\2" + shortest in forms

    for form in set(forms) - {written}:
        reader = Reader(form)
        try:
            found = Smallest().read(reader, kept.size, kept.size)
        except ProtocolError:
            continue
        assert not np.array_equal(found, kept)
    for form in {rice_of(kept, width) for width in widths} - {shortest}:
        with pytest.raises(ProtocolError, match="lower bits"):
            Rice().read(Reader(form), kept.size, kept.size)


@settings(max_examples=200)
@pytest.mark.parametrize("coder", [*EXACT_AGAIN, Ternary()])
@given(data=st.data())
def test_values_have_one_form(coder: ValueCoder, data: st.DataObject) -> None:
    """Whatever bytes are read as values are those that a writer gives for these values."""
    count, size = data.draw(st.integers(0, 4)), {Fp32: 4, Fp16: 2}.get(type(coder), 1)
    scale = b""
    if size == 1:
        rounded = coder.encode([np.array([data.draw(st.floats(0.0, FLOAT32_MAX, width=32))], np.float32)])[:4]
        scale = data.draw(st.just(rounded) | st.binary(min_size=4, max_size=4) | st.just(struct.pack("<f", -0.0)))
    code = st.binary(min_size=size, max_size=size) | st.sampled_from([b"\x7f", b"\x81", b"\0"]).map(lambda b: b * size)
    blob = scale + b"".join(data.draw(st.lists(code, max_size=count)))
    try:
        vector = decode(coder, blob, count)
    except ProtocolError:
        return

    assert coder.encode([vector]) == blob


@pytest.mark.parametrize(
    ("scale", "codes"),
    [(1.0, (0, 0)), (1.0, (1, 126)), (-0.0, (0, 0)), (0.0, (1, 0)), (1e-40, (127, 0)), (1.0 + 2.0**-20, (127, 0))],
)
def test_an_int8_scale_is_the_one_that_a_writer_takes(scale: float, codes: tuple[int, int]) -> None:
    with pytest.raises(ProtocolError, match=r"the scale is .*, a writer takes"):
        decode(Int8(), struct.pack("<f2b", scale, *codes), 2)


@given(vectors())
def test_fp32_is_exact(vector: Vector) -> None:
    decoded = decode(Fp32(), Fp32().encode([vector]), vector.size)
    assert decoded.tobytes() == vector.tobytes()


@given(vectors())
def test_fp16_rounds_to_nearest_and_saturates(vector: Vector) -> None:
    decoded = decode(Fp16(), Fp16().encode([vector]), vector.size)
    clipped = np.clip(vector.astype(np.float64), -65504.0, 65504.0)
    # Half a unit in the last of 11 bits, or of the smallest half.
    assert (np.abs(decoded - clipped) <= np.maximum(np.abs(clipped) * 2.0**-11, 2.0**-25)).all()


@given(vectors())
def test_int8_is_within_half_a_step(vector: Vector) -> None:
    payload = Int8().encode([vector])
    assert len(payload) == 4 + vector.size
    decoded = decode(Int8(), payload, vector.size)
    largest = float(np.abs(vector).max(initial=0.0))
    subnormal_scale = largest < 127 * float(np.finfo(np.float32).smallest_normal)
    tolerance = largest if subnormal_scale else 0.5001 * largest / 127
    assert (np.abs(decoded.astype(np.float64) - vector) <= tolerance).all()


def test_int8_keeps_the_extremes() -> None:
    for extreme in (1.0, 1e-30, FLOAT32_MAX):
        vector = np.array([extreme, 0.0, -extreme], np.float32)
        decoded = decode(Int8(), Int8().encode([vector]), 3)
        np.testing.assert_allclose(decoded, vector, rtol=2.0**-16)


@pytest.mark.parametrize("coder", EXACT_AGAIN)
@given(vector=vectors(limit=2.0**100))
def test_what_was_decoded_is_encoded_to_the_same_bytes(coder: ValueCoder, vector: Vector) -> None:
    payload = coder.encode([vector])
    assert coder.encode([decode(coder, payload, vector.size)]) == payload


@pytest.mark.parametrize("coder", [*EXACT_AGAIN, Ternary()])
@given(vector=vectors(limit=2.0**100))
def test_what_a_compressor_made_is_coded_without_loss(coder: ValueCoder, vector: Vector) -> None:
    vector = vector[vector != 0.0]
    tensors, _, _ = coder.apply({"kernel": vector}, {}, {}, KEY)

    np.testing.assert_array_equal(decode(coder, coder.encode([tensors["kernel"]]), vector.size), tensors["kernel"])


@pytest.mark.parametrize("coder", [*EXACT_AGAIN, Ternary()])
def test_several_vectors_are_coded_one_after_another(coder: ValueCoder) -> None:
    vectors = [np.float32([0.5, -0.5, 0.5]), np.empty(0, np.float32), np.float32([-0.5])]
    reader = Reader(coder.encode(vectors) + b"more")

    found = coder.read(reader, [3, 0, 1])

    for vector, alone in zip(found, vectors, strict=True):
        np.testing.assert_array_equal(vector, decode(coder, coder.encode([alone]), alone.size))
    assert bytes(reader.take(4)) == b"more"


@pytest.mark.parametrize(("bits", "size"), [(8, 9), (4, 5), (2, 3)])
def test_codes_of_few_bits_share_bytes(bits: int, size: int) -> None:
    vector = np.arange(-4, 5, dtype=np.float32)

    assert len(Codes(bits).encode([vector])) == 4 + size


def test_a_sign_takes_a_bit_and_no_value_takes_nothing() -> None:
    assert len(Ternary().encode([np.full(17, -0.25, np.float32)])) == 4 + 3
    assert Ternary().encode([np.empty(0, np.float32)]) == b""


def test_int8_writes_no_subnormal_scale() -> None:
    payload = Int8().encode([np.array([1e-37, -2e-40], np.float32)])
    assert payload == bytes(4 + 2)


@pytest.mark.parametrize(
    ("coder", "blob"),
    [
        (Fp32(), struct.pack("<2f", 1.0, math.nan)),
        (Fp32(), struct.pack("<2f", math.inf, 1.0)),
        (Fp16(), struct.pack("<2H", 0x7C00, 0)),
        (Fp16(), struct.pack("<2H", 0x7C01, 0)),
        (Int8(), struct.pack("<f2b", math.nan, 0, 0)),
        (Int8(), struct.pack("<f2b", math.inf, 0, 1)),
        (Int8(), struct.pack("<f2b", -1.0, 0, 1)),
        (Int8(), struct.pack("<f2b", 3e38, 127, 1)),
        (Int8(), struct.pack("<f2b", 1.0, 1, -128)),
        (Int8(), struct.pack("<fb", 1.0, 1)),
        (Quantisation(4), struct.pack("<fB", 1.0, 0xF0)),
        (Quantisation(2), struct.pack("<fB", 1.0, 0b0011)),
        (Quantisation(2), struct.pack("<fB", 1.0, 0b010010)),
        (Ternary(), struct.pack("<fB", 0.0, 0)),
        (Ternary(), struct.pack("<fB", -1.0, 0)),
        (Ternary(), struct.pack("<fB", math.inf, 0)),
        (Ternary(), struct.pack("<fB", 1.0, 4)),
    ],
)
def test_malformed_values_are_refused(coder: ValueCoder, blob: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(coder, blob, 2)
