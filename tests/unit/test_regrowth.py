"""Pruned weights that come back: the exchange, its votes as bytes, and whole federations with them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aggregator.traffic import Traffic, TrafficCount
from export.settings import OneShotSettings, PruningSettings, UnitSettings
from fedprune.codecs import Key, decode_update, encode_votes, parse_codec
from fedprune.codecs.reader import Reader
from fedprune.codecs.votes import read_votes
from fedprune.errors import ProtocolError, TaskError
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Mask
from fedprune.pruning.masks import Allocation
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.regrowth import LARGEST_VOTE, Regrowth, most_votes, regrow, votes_for
from fedprune.pruning.schedules import ConstantSparsity, PolynomialDecay
from fedprune.task.bundle import Bundle, read_bundle, write_bundle
from fedprune.task.versions import asked_votes
from tests.shrinking import STEPS, Shrinking, bundle_of

REGROWTH = Regrowth(fraction=0.4, every_rounds=2, until_round=8)
HALF = ConstantSparsity(target_sparsity=0.5, begin_step=0, frequency=STEPS)
GROWING = PolynomialDecay(begin_step=0, end_step=6 * STEPS, frequency=STEPS, initial_sparsity=0.3, target_sparsity=0.8)


def kernel(size: int, number: int) -> NDArray[np.float32]:
    return Keyed(number, "kernel").uniform(size, -1.0, 1.0)


@given(st.integers(2, 60), st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.integers(0, 9), st.integers(1, 3))
def test_an_exchange_keeps_the_number_of_weights_and_takes_the_smallest_for_those_with_votes(
    size: int, density: float, fraction: float, number: int, agents: int
) -> None:
    weights = kernel(size, number)
    mask = {"kernel": Keyed(number, "mask").uniform(size, 0.0, 1.0) < density}
    most = most_votes(mask, fraction)
    sums = sum(
        votes_for({"kernel": kernel(size, 100 + agent)}, mask, most).get("kernel", np.zeros(0)).astype(np.int64)
        for agent in range(agents)
    )
    found = regrow({"kernel": weights}, mask, mask, {"kernel": np.asarray(sums)} if most else {}, fraction)["kernel"]
    before = mask["kernel"]
    gone, back = before & ~found, found & ~before
    assert np.count_nonzero(found) == np.count_nonzero(before)
    assert np.count_nonzero(gone) <= round(fraction * np.count_nonzero(before))
    if gone.any():
        assert np.abs(weights[gone]).max() <= np.abs(weights[before & found]).min(initial=2.0)
        voted = np.zeros(size, np.int64)
        voted[~before] = sums
        assert np.abs(voted[back]).min() >= np.abs(voted[~found & ~before]).max(initial=0)
        assert voted[back].all()


def test_votes_are_relative_to_the_largest_so_that_no_agent_outvotes_others_by_its_numbers() -> None:
    mask = {"kernel": np.arange(40) < 10}
    most = most_votes(mask, 0.5)
    small, large = (votes_for({"kernel": kernel(40, 1) * np.float32(scale)}, mask, most) for scale in (1e-6, 1e6))
    assert small["kernel"].tolist() == large["kernel"].tolist()
    assert np.abs(small["kernel"]).max() == LARGEST_VOTE
    assert 0 < np.count_nonzero(small["kernel"]) <= most["kernel"]


def test_votes_come_back_from_their_bytes() -> None:
    mask = {"a": np.arange(300).reshape(30, 10) % 3 == 0, "b": np.array([True, False])}
    most = most_votes(mask, 0.3)
    votes = votes_for({"a": kernel(300, 2).reshape(30, 10), "b": np.float32([1, 1])}, mask, most)
    found = read_votes(Reader(encode_votes(votes)), mask, most)
    assert {name: each.tolist() for name, each in found.items()} == {
        name: each.tolist() for name, each in votes.items()
    }


@pytest.mark.parametrize(
    "blob",
    [
        b"\x01\x03\x01\x01",  # two votes, where there may be one
        b"\x00\x01\x01\x01\x01",  # one for each weight that is pruned
        b"\x01\x01\x00",  # a vote of 0
        b"\x01\x01\x80",  # -128
        b"\x01\x01",  # no vote
        b"\x07\x01\x01",  # an unknown coding
        b"",
    ],
)
def test_bytes_that_are_no_votes_are_refused(blob: bytes) -> None:
    mask = {"kernel": np.array([True, True, False, False, False])}
    with pytest.raises(ProtocolError, match="votes, tensor kernel"):
        read_votes(Reader(blob), mask, {"kernel": 1})


@pytest.mark.parametrize(
    "changes",
    [
        {"mask": MaskPolicy.OWN, "allocation": Allocation.UNIFORM},
        {"units": UnitSettings(OneShotSettings(target_sparsity=0.5, begin_round=2))},
        {"block": (1, 4)},
        {"threshold": 0.001},
    ],
)
def test_what_does_not_go_together_with_regrowth_is_refused_with_the_reason(changes: dict[str, Any]) -> None:
    schedule = OneShotSettings(target_sparsity=0.5, begin_round=2)
    with pytest.raises(ValueError, match=r"pruning\.regrowth"):
        PruningSettings(**({"schedule": schedule, "regrowth": REGROWTH} | changes))


def test_regrowth_under_powerpropagation_is_refused_since_it_holds_weights_at_0() -> None:
    bundle = bundle_of(units=None, weights=HALF, regrowth=REGROWTH)
    training = msgspec.structs.replace(bundle.task.training, powerpropagation=2.0)
    task = msgspec.structs.replace(bundle.task, training=training)
    with pytest.raises(TaskError, match="where powerpropagation holds them"):
        read_bundle(write_bundle(task, network=bundle.network, weights=bundle.initial_weights(), graphs=bundle.graphs))


def masks_of(gateway: Shrinking, rounds: int, away: Callable[[int], list[str]] = lambda _: []) -> list[Mask]:
    """The masks of all versions. That each weight which comes back starts at 0 is checked on the way."""
    masks = [gateway.model.checkpoint.mask]
    for number in range(rounds):
        gateway.round(away(number))
        checkpoint = gateway.model.checkpoint
        for name, kept in checkpoint.mask.items():
            back = kept & ~masks[-1][name]
            assert not checkpoint.weights[name][back].any()
            assert not checkpoint.exact[name][back].any()
        masks.append(checkpoint.mask)
    return masks


def back_in(masks: list[Mask]) -> list[int]:
    """For each round, the number of weights that came back after it."""
    return [
        sum(int(np.count_nonzero(kept & ~before[name])) for name, kept in after.items())
        for before, after in pairwise(masks)
    ]


def test_weights_come_back_at_0_in_the_rounds_that_ask_and_sparsity_stays(tmp_path: Path) -> None:
    gateway = Shrinking(tmp_path, bundle_of(units=None, weights=HALF, regrowth=REGROWTH), codec="mask | int8")
    masks = masks_of(gateway, 9)
    counts = back_in(masks)
    assert [count > 0 for count in counts] == [False, True, False, True, False, True, False, False, False]
    assert counts[1] > counts[3] > counts[5]
    kept = [{name: int(np.count_nonzero(each)) for name, each in mask.items()} for mask in masks]
    assert kept == kept[:1] * len(kept)
    back = masks[2]["dense/kernel"] & ~masks[1]["dense/kernel"] & masks[-1]["dense/kernel"]
    assert back.any()
    assert gateway.model.checkpoint.weights["dense/kernel"][back].all()


def test_agents_that_join_late_or_come_back_go_on_with_the_same_model(tmp_path: Path) -> None:
    bundle = bundle_of(units=None, weights=GROWING, regrowth=REGROWTH, state="keep")
    gateway = Shrinking(tmp_path, bundle, codec="mask | feedback(2) | topk(0.3) | ternary | rice", agents=3)
    away = [["agent-2"], ["agent-2"], ["agent-2", "agent-1"], ["agent-2", "agent-1"], [], ["agent-0"], []]
    counts = back_in(masks_of(gateway, len(away), lambda number: away[number]))  # digests are checked on the way
    assert all(counts[version - 1] for version in (2, 4, 6))
    assert not any(counts[version - 1] for version in (1, 3, 5, 7))


def test_a_gateway_that_was_started_again_lets_the_same_weights_come_back(tmp_path: Path) -> None:
    bundle = bundle_of(units=None, weights=HALF, regrowth=REGROWTH)
    once, again = Shrinking(tmp_path / "once", bundle), Shrinking(tmp_path / "again", bundle)
    for _ in range(4):
        once.round()
        again.start_gateway()
        again.round()
    assert once.model.model.weights_digest == again.model.model.weights_digest
    assert once.model.blob == again.model.blob


def test_votes_are_in_the_updates_of_the_rounds_that_ask_for_them_alone(tmp_path: Path) -> None:
    gateway = Shrinking(tmp_path, bundle_of(units=None, weights=HALF, regrowth=REGROWTH))
    first, second = gateway.round(), gateway.round()
    assert first.vote_bytes == 0
    assert sum(gateway.updates[2:]) - sum(gateway.updates[:2]) == second.vote_bytes > 0


def test_an_update_with_votes_that_nobody_asked_for_is_refused(tmp_path: Path) -> None:
    bundle: Bundle = bundle_of(units=None, weights=HALF, regrowth=REGROWTH)
    gateway = Shrinking(tmp_path, bundle, codec="mask | int8")
    gateway.round()
    blob, checkpoint = gateway.train("agent-0").update.blob, gateway.model.checkpoint
    key, codec = Key(7, 1, "agent-0"), parse_codec("mask | int8")
    asked = asked_votes(bundle.task, 1, checkpoint.mask)
    assert (
        decode_update(blob, bundle.task.table, checkpoint.mask, codec, key, most_votes=asked).votes.keys()
        == asked.keys()
    )
    with pytest.raises(ProtocolError, match="bytes too many"):
        decode_update(blob, bundle.task.table, checkpoint.mask, codec, key)


def test_bytes_of_votes_are_counted_apart_from_those_of_updates() -> None:
    count = TrafficCount()
    count.add("topic", 1000, Traffic.UPDATE, 900)
    count.part(Traffic.UPDATE, Traffic.VOTES, 250)
    assert count.by_kind == {"update": 650, "votes": 250, "control": 100}
    count.part(Traffic.UPDATE, Traffic.VOTES, 10_000)  # the book knows of updates from before a restart
    assert count.by_kind == {"votes": 900, "control": 100}
