"""Compressors: what is sent and what is owed, what is right on average, and what depends on what."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedprune.codecs import Codec, Key, parse_codec
from fedprune.codecs.links import Tensors, sizes_of
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array
from tests.encoding import KEY

SIZES = {"kernel": 45, "bias": 5}
LOSSY = (
    "mask | feedback(1e9) | fp16",
    "mask | feedback(1e9) | int8",
    "mask | feedback(1e9) | quantise(2)",
    "mask | feedback(1e9) | topk(0.1) | fp32 | rice",
    "mask | feedback(1e9) | topk(0.1) | ternary | rice",
    "mask | feedback(1e9) | threshold(0.5) | ternary | bitmap",
    "mask | feedback(1e9) | budget(4) | ternary | rice",
    "mask | feedback(1e9) | random_mask(0.2) | int8",
    "mask | feedback(1e9) | topk(0.5) | rotate | quantise(4) | rice",
    "mask | feedback(1e9) | low_rank(2) | int8",
)
UNBIASED = (
    "mask | subsample(0.25) | fp32",
    "mask | quantise(4)",
    "mask | quantise(2)",
    "mask | rotate | quantise(2)",
    "mask | subsample(0.5) | rotate | quantise(4)",
)


def deltas() -> st.SearchStrategy[dict[str, Array]]:
    some = st.integers(-(2**17), 2**17).map(lambda number: number / 2**16)
    vectors = [arrays.arrays(np.float32, size, elements=some) for size in SIZES.values()]
    return st.tuples(*vectors).map(lambda drawn: dict(zip(SIZES, drawn, strict=True)))


def drawn(seed: int = 1) -> dict[str, Array]:
    return {name: Keyed(seed, name).uniform(size, -1.0, 1.0) for name, size in SIZES.items()}


def arrived(codec: Codec, delta: Tensors, key: Key = KEY) -> dict[str, Array]:
    return codec.arrived(codec.compress(delta, {}, key), sizes_of(delta), key)


def flat(tensors: Tensors) -> Array:
    return np.concatenate(list(tensors.values()))


def norm(tensors: Tensors) -> float:
    return math.sqrt(float(np.sum(np.square(flat(tensors), dtype=np.float64)))) if tensors else 0.0


@pytest.mark.parametrize("description", LOSSY)
@given(delta=deltas(), owed=deltas())
def test_what_is_owed_is_exactly_what_was_wanted_less_what_arrives(
    description: str, delta: Tensors, owed: Tensors
) -> None:
    codec = parse_codec(description)

    sent = codec.compress(delta, owed, KEY)

    received = codec.arrived(sent, SIZES, KEY)
    assert list(sent.state) == list(received) == list(SIZES)
    for name, array in delta.items():
        wanted = array + owed[name]
        if norm(delta) > 0.0:
            np.testing.assert_array_equal(sent.state[name], wanted - received[name])


@given(delta=deltas(), owed=deltas(), cap=st.floats(0.01, 4.0))
def test_what_is_owed_is_no_longer_than_the_cap(delta: Tensors, owed: Tensors, cap: float) -> None:
    codec = parse_codec(f"mask | feedback({cap!r}) | topk(0.1) | ternary | rice")

    most = cap * norm(delta)
    assert norm(codec.compress(delta, owed, KEY).state) <= most * 1.00001
    assert norm(codec.defer(delta, owed, KEY)) <= most * 1.00001


def test_an_update_that_does_not_count_is_owed_whole() -> None:
    delta, owed = drawn(1), drawn(2)

    deferred = parse_codec("mask | feedback(2) | int8").defer(delta, owed, KEY)

    for name, array in delta.items():
        np.testing.assert_array_equal(deferred[name], array + owed[name])
    assert parse_codec("mask | int8").defer(delta, {}, KEY) == {}


def test_what_was_clipped_off_is_not_owed() -> None:
    codec, delta = parse_codec("mask | clip(0.5) | feedback(2) | fp32"), drawn()

    sent = codec.compress(delta, {}, KEY)

    assert norm(sent.tensors) == pytest.approx(0.5, rel=1e-5)
    assert norm(sent.state) == 0.0
    assert norm(codec.defer(delta, {}, KEY)) == pytest.approx(0.5, rel=1e-5)
    short = {name: array * np.float32(0.01) for name, array in delta.items()}
    np.testing.assert_array_equal(flat(codec.compress(short, {}, KEY).tensors), flat(short))


def test_what_int8_cannot_tell_apart_arrives_over_rounds() -> None:
    """A constant drift below half a step next to a large value: lost without feedback, sent with it."""
    delta = {"kernel": np.full(45, 0.001, np.float32), "bias": drawn()["bias"]}
    delta["kernel"][0] = 1.0
    codec, owed, total = parse_codec("mask | feedback(2) | int8"), {}, 0.0
    for round_ in range(40):
        sent = codec.compress(delta, owed, Key(1, round_, "pi-1"))
        owed, total = sent.state, total + float(sent.tensors["kernel"][33])

    assert total == pytest.approx(40 * 0.001, abs=1.0 / 127)
    assert arrived(parse_codec("mask | int8"), delta)["kernel"][33] == 0.0


@given(deltas(), st.floats(0.01, 1.0))
def test_topk_sends_the_largest_of_all_tensors_together(delta: Tensors, fraction: float) -> None:
    codec = parse_codec(f"mask | topk({fraction!r}) | fp32 | rice")

    sent = codec.compress(delta, {}, KEY)

    magnitudes, places = np.abs(flat(delta)), flat(sent.support)
    k = max(1, round(fraction * 50))
    assert np.count_nonzero(places) == min(k, np.count_nonzero(magnitudes))
    assert magnitudes[places].min(initial=math.inf) >= magnitudes[~places].max(initial=0.0)


@given(deltas())
def test_a_threshold_sends_what_reaches_it(delta: Tensors) -> None:
    sent = parse_codec("mask | threshold(0.5) | fp32 | bitmap").compress(delta, {}, KEY)

    np.testing.assert_array_equal(flat(sent.support), np.abs(flat(delta)) >= 0.5)


@given(deltas())
def test_ternary_sends_signs_and_the_mean_magnitude(delta: Tensors) -> None:
    sent = parse_codec("mask | threshold(0.25) | ternary | bitmap").compress(delta, {}, KEY)

    chosen = flat(delta)[np.abs(flat(delta)) >= 0.25]
    if chosen.size:
        expected = np.sign(chosen) * np.abs(chosen.astype(np.float64)).mean()
        np.testing.assert_allclose(flat(sent.tensors), expected, rtol=1e-5)


@pytest.mark.parametrize("description", UNBIASED)
def test_what_arrives_is_right_on_average(description: str) -> None:
    """Over 1,500 agents with the same update the mean error is everywhere within six of its standard deviations."""
    codec, delta, agents = parse_codec(description), drawn(), 1500
    total, squares = np.zeros(50), np.zeros(50)
    for agent in range(agents):
        error = flat(arrived(codec, delta, Key(1, 0, f"pi-{agent}"))).astype(np.float64) - flat(delta)
        total += error
        squares += np.square(error)

    deviation = np.sqrt(squares / agents) / math.sqrt(agents)
    assert (np.abs(total / agents) <= 6.0 * deviation + 2.0**-15).all()


@pytest.mark.parametrize("bits", [8, 4, 2])
@given(delta=deltas())
def test_quantised_values_are_off_by_less_than_a_step(bits: int, delta: Tensors) -> None:
    found = arrived(parse_codec(f"mask | quantise({bits})"), delta)

    for name, array in delta.items():
        largest = float(np.abs(array).max())
        step = largest / (2 ** (bits - 1) - 1) if largest > 1e-30 else 1e-30
        assert (np.abs(found[name].astype(np.float64) - array) <= step * 1.0001).all()


@given(deltas())
def test_a_rotation_alone_loses_nothing_but_rounding(delta: Tensors) -> None:
    found = flat(arrived(parse_codec("mask | rotate | fp32"), delta))

    np.testing.assert_allclose(found, flat(delta), rtol=0, atol=1e-5)


def test_a_rotation_makes_one_large_value_cost_the_others_less() -> None:
    delta = {"kernel": Keyed(1).uniform(1024, -0.01, 0.01)}
    delta["kernel"][7] = 1.0

    plain, rotated = (
        arrived(parse_codec(f"mask | {words}"), delta) for words in ("quantise(4)", "rotate | quantise(4)")
    )

    errors = [norm({"kernel": found["kernel"] - delta["kernel"]}) for found in (plain, rotated)]
    assert errors[1] < 0.6 * errors[0]


def test_low_rank_is_a_projection() -> None:
    """What arrives is sent unchanged, and what is lost stands at a right angle to it."""
    codec, delta = parse_codec("mask | low_rank(2) | fp32"), {"kernel": Keyed(1).uniform(1024, -1.0, 1.0)}

    once = arrived(codec, delta)["kernel"]
    again = arrived(codec, {"kernel": once})["kernel"]

    sent = codec.compress(delta, {}, KEY).tensors["kernel"]
    assert sent.size == 2 * 1024 // 32
    np.testing.assert_allclose(again, once, rtol=0, atol=1e-5)
    lost = delta["kernel"] - once
    assert abs(float(np.dot(once, lost))) < 1e-2 * norm({"kernel": once}) * norm({"kernel": lost})


def test_low_rank_sends_small_tensors_whole() -> None:
    np.testing.assert_allclose(
        flat(arrived(parse_codec("mask | low_rank(8) | fp32"), drawn())), flat(drawn()), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    "link", ["random_mask(0.2) | fp32", "subsample(0.2) | fp32", "quantise(2)", "low_rank(1) | fp32"]
)
def test_what_is_drawn_depends_on_seed_round_and_agent(link: str) -> None:
    codec, delta = parse_codec(f"mask | {link}"), {"kernel": Keyed(1).uniform(1000, -1.0, 1.0)}
    keys = [KEY, Key(2, 0, "pi-1"), Key(1, 1, "pi-1"), Key(1, 0, "pi-2")]

    found = [arrived(codec, delta, key)["kernel"].tobytes() for key in [*keys, KEY]]

    assert len(set(found)) == 4
    assert found[0] == found[4]


@pytest.mark.parametrize("description", [*LOSSY, *UNBIASED])
def test_a_model_without_anything_to_send_is_no_trouble(description: str) -> None:
    codec = parse_codec(description)
    for delta in ({}, {"kernel": np.empty(0, np.float32)}):
        sent = codec.compress(delta, {}, KEY)
        assert flat({**codec.arrived(sent, sizes_of(delta), KEY), "none": np.empty(0, np.float32)}).size == 0
