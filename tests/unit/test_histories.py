"""What an agent has sent, which both sides remember, and updates that are coded by it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_agent.record import MOST_REMEMBERED
from fedprune.codecs import OtherHistory, decode_update, encode_signs, encode_update, parse_codec, recall
from fedprune.codecs.codec import Compressed
from fedprune.codecs.history import MOST_SIGNS_BYTES, MOST_UPDATES, Recalled
from fedprune.codecs.links import Places, State
from fedprune.codecs.reader import Reader
from fedprune.codecs.signed_coder import SignedCoder
from fedprune.errors import ProtocolError
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable
from fedprune.pruning.masks import full_mask
from tests.encoding import KEY

TABLE = TensorTable(
    (
        TensorSpec("kernel", (60, 50), "float32", TensorClass.PRUNABLE, "dense"),
        TensorSpec("bias", (50,), "float32", TensorClass.DENSE, "dense"),
    )
)
MASK = full_mask(TABLE)
CODEC = parse_codec("mask | feedback(100) | topk(0.05) | ternary | history")


def sent(number: int, state: State = MappingProxyType({})) -> Compressed:
    """What an agent sends that goes on the same way, with some noise."""
    trend = {spec.name: Keyed(1, spec.name).uniform(spec.size, -1.0, 1.0) for spec in TABLE}
    noise = {spec.name: Keyed(1, spec.name, number).uniform(spec.size, -0.2, 0.2) for spec in TABLE}
    return CODEC.compress({name: trend[name] ** 3 + noise[name] for name in trend}, state, KEY)


def signs_of(update: Compressed) -> bytes:
    sizes = {spec.name: spec.size for spec in TABLE}
    return encode_signs(CODEC.arrived(update, sizes, KEY), MASK, TABLE)


def encoded(update: Compressed, remembered: list[bytes]) -> bytes:
    return encode_update(update, {}, MASK, TABLE, CODEC, mask_is_known=True, history=recall(remembered, TABLE))


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Places], list[Places], list[Recalled] | None, Places, Places]:
    """Masks of some tensors, what has moved of them, what an agent has sent there, and which alive values it sends now,
    with their signs."""
    shapes = st.lists(st.integers(0, 9), min_size=0, max_size=3).map(tuple)
    masks = [draw(arrays.arrays(np.bool_, shape)) for shape in draw(st.lists(shapes, max_size=4))]
    moved = [draw(arrays.arrays(np.bool_, mask.shape)) for mask in masks]
    codes = st.integers(0, 16 * MOST_UPDATES)
    recalled = [draw(arrays.arrays(np.uint8, mask.shape, elements=codes)) for mask in masks]
    kept = draw(arrays.arrays(np.bool_, sum(int(np.count_nonzero(mask)) for mask in masks)))
    negative = draw(arrays.arrays(np.bool_, int(np.count_nonzero(kept))))
    return masks, moved, draw(st.sampled_from([recalled, None])), kept, negative


@given(drawn=histories())
def test_positions_and_signs_round_trip_and_leave_nothing(drawn: Any) -> None:
    masks, moved, recalled, kept, negative = drawn
    coder = SignedCoder(masks, moved)
    reader = Reader(coder.encode(kept, negative, recalled))

    found, signs = coder.read(reader, int(np.count_nonzero(kept)), recalled)

    np.testing.assert_array_equal(found, kept)
    np.testing.assert_array_equal(signs, negative)
    reader.finish()


@given(drawn=histories(), data=st.data())
def test_damaged_positions_and_signs_are_refused_or_have_one_form(drawn: Any, data: st.DataObject) -> None:
    masks, moved, recalled, kept, negative = drawn
    coder = SignedCoder(masks, moved)
    blob = coder.encode(kept, negative, recalled)
    at = data.draw(st.integers(0, len(blob)))
    blob = blob[:at] + data.draw(st.binary(max_size=3)) + blob[at + data.draw(st.integers(0, 3)) :]
    reader = Reader(blob)
    try:
        found, signs = coder.read(reader, kept.size, recalled)
        reader.finish()
    except ProtocolError:
        return
    assert coder.encode(found, signs, recalled) == blob


def test_more_positions_than_may_be_sent_are_refused() -> None:
    mask = np.ones((10, 10), np.bool_)
    kept = np.zeros(100, np.bool_)
    kept[::9] = True
    coder = SignedCoder([mask], [~mask])
    recalled = [np.ones((10, 10), np.uint8)]
    with pytest.raises(ProtocolError):
        coder.read(Reader(coder.encode(kept, kept[kept], recalled)), 11, recalled)


def test_an_update_takes_fewer_bytes_where_the_agent_is_remembered_and_goes_on_the_same_way() -> None:
    remembered: list[bytes] = []
    state: State = {}
    for number in range(10):
        update = sent(number, state)
        state = update.state
        by_history, shared = encoded(update, remembered), encoded(update, [])
        decoded = decode_update(by_history, TABLE, MASK, CODEC, KEY, remembered=remembered)
        for name, arrived in CODEC.arrived(update, {spec.name: spec.size for spec in TABLE}, KEY).items():
            np.testing.assert_array_equal(decoded.delta[name], arrived)
        remembered.insert(0, signs_of(update))

    assert len(by_history) < 0.9 * len(shared)


@pytest.mark.parametrize("here", [[], [signs_of(sent(7))], [signs_of(sent(7)), signs_of(sent(0))]])
def test_an_update_by_a_history_that_is_not_remembered_is_known_as_one(here: list[bytes]) -> None:
    blob = encoded(sent(1), [signs_of(sent(0))])

    with pytest.raises(OtherHistory, match="coded by its sender's last update, which is another here"):
        decode_update(blob, TABLE, MASK, CODEC, KEY, remembered=here)


def test_an_update_without_a_history_is_read_whatever_is_remembered() -> None:
    blob = encoded(sent(1), [])

    found = decode_update(blob, TABLE, MASK, CODEC, KEY, remembered=[signs_of(sent(0))])

    assert np.count_nonzero(found.delta["kernel"])


def test_an_agent_that_remembers_less_is_understood() -> None:
    """It has lost what it remembered of older updates, and names how many it goes by."""
    last = signs_of(sent(1))
    blob = encoded(sent(2), [last])

    found = decode_update(blob, TABLE, MASK, CODEC, KEY, remembered=[last, signs_of(sent(0))])

    assert np.count_nonzero(found.delta["kernel"])


def test_of_updates_to_a_network_of_another_size_nothing_is_known() -> None:
    larger = TensorTable((TensorSpec("kernel", (62, 50), "float32", TensorClass.PRUNABLE, "dense"),))
    other = encode_signs({"kernel": np.ones(3100, np.float32)}, full_mask(larger), larger)
    last = signs_of(sent(0))

    assert recall([last, other, last], TABLE).parts == (last,)


def test_what_is_remembered_is_bounded() -> None:
    many = TensorTable((TensorSpec("kernel", (300, 300), "float32", TensorClass.PRUNABLE, "dense"),))
    last = signs_of(sent(0))

    assert encode_signs({"kernel": np.ones(90_000, np.float32)}, full_mask(many), many) == b""
    assert len(last) <= MOST_SIGNS_BYTES
    assert len(recall([last] * 20, TABLE).parts) == MOST_UPDATES == MOST_REMEMBERED


def test_what_was_sent_last_and_how_often_and_with_which_sign_is_recalled() -> None:
    def remembered(**values: float) -> bytes:
        delta = np.zeros(3000, np.float32)
        for place, value in values.items():
            delta[int(place[1:])] = value
        return encode_signs({"kernel": delta, "bias": np.zeros(50, np.float32)}, MASK, TABLE)

    found = recall([remembered(p0=1.0, p1=-1.0), remembered(p1=1.0, p2=-2.0), remembered(p1=1.0)], TABLE)

    once_last, thrice, before_last = 1, 1 + 2 * 2 + 1, 1 + 16 + 1
    assert found.recalled["kernel"].reshape(-1)[:4].tolist() == [once_last, thrice, before_last, 0]
