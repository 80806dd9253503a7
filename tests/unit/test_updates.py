"""From training to bytes: what is sent, what is owed, and what is left alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.local_round import PreparedUpdate
from edge_agent.trainers import Trained
from edge_agent.updates import prepare_update, take_delta
from fedprune.codecs import Key, decode_update, parse_codec
from fedprune.codecs.update import LARGEST_VALUE
from fedprune.errors import TrainingError
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Mask, TensorClass, TensorSpec, TensorTable, Weights
from fedprune.pruning.masks import apply_mask
from tests.encoding import whole_delta

TABLE = TensorTable(
    (
        TensorSpec("kernel", (30, 10), "float32", TensorClass.PRUNABLE, "dense"),
        TensorSpec("bias", (10,), "float32", TensorClass.DENSE, "dense"),
        TensorSpec("mean", (10,), "float32", TensorClass.STATISTICS, "norm"),
        TensorSpec("variance", (10,), "float32", TensorClass.STATISTICS, "norm"),
        TensorSpec("seen", (), "int64", TensorClass.INTEGER, "norm"),
    )
)
TRAINABLE = ("kernel", "bias")
EXACT, INT8 = "mask | feedback(2) | fp32", "mask | feedback(2) | int8"
CODECS = (
    EXACT,
    "mask | feedback(2) | fp16",
    INT8,
    "mask | feedback(2) | topk(0.1) | ternary | rice",
    "mask | feedback(2) | random_mask(0.2) | rotate | quantise(4)",
)
KEY = Key(1, 0, "pi-1")


def weights(seed: int, scale: float = 1.0) -> Weights:
    keyed = Keyed(seed, "weights")
    return {spec.name: keyed.uniform(spec.size, -scale, scale).reshape(spec.shape).astype(spec.dtype) for spec in TABLE}


BASE = weights(0)
MASK: Mask = {"kernel": weights(9)["kernel"] > -0.5}
OWN: Mask = {"kernel": MASK["kernel"] & (weights(8)["kernel"] > -0.8)}


def trained(mask: Mask = MASK, *, by: float = 0.01, seed: int = 1) -> Trained:
    moved = {name: array + weights(seed, by)[name] for name, array in BASE.items()}
    return Trained(apply_mask(moved, mask), mask, {}, loss=1.0, seconds=1.0, steps=1)


def prepare(
    codec: str, residual: Weights | None = None, *, own: bool = False, by: float = 0.01, seed: int = 1
) -> PreparedUpdate:
    what = trained(OWN if own else MASK, by=by, seed=seed)
    return prepare_update(
        take_delta(base(own), what, TABLE), residual, TABLE, parse_codec(codec), KEY, None if own else MASK
    )


def base(own: bool) -> Weights:
    """The global model: with the agents' own masks it is not pruned here."""
    return BASE if own else apply_mask(BASE, MASK)


def sent(prepared: PreparedUpdate, codec: str, *, own: bool = False) -> Weights:
    update = decode_update(prepared.blob, TABLE, None if own else MASK, parse_codec(codec), KEY)
    return whole_delta(update, TABLE)


def delta(own: bool = False) -> Weights:
    mask = OWN if own else MASK
    return apply_mask({name: trained(mask).weights[name] - base(own)[name] for name in TRAINABLE}, mask)


def norm(tensors: Weights) -> float:
    return math.sqrt(sum(float(np.sum(np.square(array, dtype=np.float64))) for array in tensors.values()))


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("codec", CODECS)
def test_what_arrives_and_what_is_owed_add_up_to_what_was_learned(codec: str, own: bool) -> None:
    prepared = prepare(codec, own=own)

    assert prepared.residual_if_accepted.keys() == prepared.residual_if_late.keys() == set(TRAINABLE)
    for name, wanted in delta(own).items():
        arrived, owed = sent(prepared, codec, own=own)[name], prepared.residual_if_accepted[name]
        np.testing.assert_allclose(arrived + owed, wanted, rtol=0, atol=1e-8)
        np.testing.assert_allclose(prepared.residual_if_late[name], wanted, rtol=0, atol=1e-8)


def test_an_exact_codec_owes_nothing_once_accepted_and_everything_if_late() -> None:
    prepared = prepare(EXACT)

    assert norm(prepared.residual_if_accepted) == 0.0
    assert norm(prepared.residual_if_late) == pytest.approx(norm(delta()), rel=1e-6)


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_a_residual_is_sent_with_the_next_update_where_its_weights_are_still_kept(own: bool) -> None:
    residual = {name: weights(3, 0.001)[name] for name in TRAINABLE}

    arrived = sent(prepare(EXACT, residual, own=own), EXACT, own=own)

    mask = OWN if own else MASK
    for name, wanted in apply_mask({name: delta(own)[name] + residual[name] for name in TRAINABLE}, mask).items():
        np.testing.assert_allclose(arrived[name], wanted, rtol=0, atol=1e-8)


def test_without_error_feedback_nothing_is_owed_whatever_becomes_of_the_update() -> None:
    residual = {name: weights(3, 0.001)[name] for name in TRAINABLE}

    prepared = prepare("mask | topk(0.1) | ternary | rice", residual)

    assert dict(prepared.residual_if_accepted) == dict(prepared.residual_if_late) == {}


def test_an_own_mask_travels_and_a_shared_one_does_not() -> None:
    update = decode_update(prepare(INT8, own=True).blob, TABLE, None, parse_codec(INT8), KEY)

    np.testing.assert_array_equal(update.mask["kernel"], OWN["kernel"])
    assert len(prepare(INT8).blob) < len(prepare(INT8, own=True).blob)


@pytest.mark.parametrize("codec", CODECS)
def test_statistics_travel_as_they_are_and_leave_no_residual(codec: str) -> None:
    update = decode_update(prepare(codec).blob, TABLE, MASK, parse_codec(codec), KEY)

    for name in ("mean", "variance"):
        np.testing.assert_array_equal(update.statistics[name], trained().weights[name])


@given(
    st.lists(st.tuples(st.booleans(), st.floats(1e-6, 10.0)), min_size=1, max_size=12),
    st.sampled_from(CODECS),
    st.booleans(),
)
def test_no_fate_makes_a_residual_grow_beyond_two_rounds_of_learning(
    rounds: list[tuple[bool, float]], codec: str, own: bool
) -> None:
    """An agent that is always late must not come back one day with the sum of all it ever learned.

    What its own mask has just pruned it did not learn.
    """
    residual: Weights | None = None
    for seed, (is_late, by) in enumerate(rounds):
        prepared = prepare(codec, residual, by=by, seed=seed, own=own)
        residual = prepared.residual_if_late if is_late else prepared.residual_if_accepted
        mask = OWN if own else MASK
        after = trained(mask, by=by, seed=seed).weights
        learned = apply_mask({name: after[name] - base(own)[name] for name in TRAINABLE}, mask)
        assert norm(residual) <= 2.0 * norm(learned) * (1 + 1e-5)


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_what_a_bad_round_left_behind_does_not_drown_the_next_one(own: bool) -> None:
    """A huge update that came late is owed: no more than two rounds of learning are sent with the next one."""
    bad = prepare(EXACT, by=1e4, own=own).residual_if_late

    update = sent(prepare(EXACT, bad, own=own), EXACT, own=own)
    learned = sent(prepare(EXACT, own=own), EXACT, own=own)
    assert norm(update) <= 3.0 * norm(learned) * (1 + 1e-5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("tensor", "before", "after"),
    [
        ("kernel", -2e38, 2e38),  # the difference overflows
        ("bias", 0.0, np.inf),
        ("bias", np.inf, np.inf),
        ("mean", 0.0, np.nan),
        ("variance", 0.0, 3e38),  # finite, but no gateway takes it
        ("bias", 0.0, LARGEST_VALUE * (1 + 2.0**-20)),
    ],
)
def test_what_cannot_be_sent_is_training_that_diverged(tensor: str, before: float, after: float, codec: str) -> None:
    base = {**BASE, tensor: np.full_like(BASE[tensor], before)}
    moved = Trained({**BASE, tensor: np.full_like(BASE[tensor], after)}, {"kernel": MASK["kernel"]}, {}, 1.0, 1.0, 1)

    with pytest.raises(TrainingError, match=f"training diverged: its update's tensor {tensor}: .*learning rate"):
        prepare_update(take_delta(base, moved, TABLE), None, TABLE, parse_codec(codec), KEY, MASK)


def test_a_value_that_int8_rounds_beyond_what_a_gateway_takes_is_not_sent() -> None:
    base = {**BASE, "bias": np.zeros(10, np.float32)}
    moved = Trained({**base, "bias": np.full(10, LARGEST_VALUE, np.float32)}, MASK, {}, 1.0, 1.0, 1)
    prepare_update(take_delta(base, moved, TABLE), None, TABLE, parse_codec(EXACT), KEY, MASK)

    with pytest.raises(TrainingError, match="tensor bias"):
        prepare_update(take_delta(base, moved, TABLE), None, TABLE, parse_codec(INT8), KEY, MASK)
