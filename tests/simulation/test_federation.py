"""200 federations under loss, duplication, reordering and crashes, each decided by one seed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from aggregator import round_uploads, update_exchange
from aggregator.book import Book
from aggregator.global_model import NO_STATE, moved_in, new_model, next_model
from aggregator.merging import Aggregate
from aggregator.server_optimizers import FedAdam, FedAvgM, server_step
from aggregator.settings import AS_USUAL, Aggregation
from aggregator.voting import Votes, Voting
from edge_agent import agent_submitting
from edge_agent.agent_state import Outcome
from fedprune.codecs import DEFAULT_CODEC, Key, decode_update, parse_codec, parse_model_codec
from fedprune.model.tensors import Mask, Weights, weights_digest
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.regrowth import Regrowth
from fedprune.task.checkpoints import Checkpoint, load_checkpoint
from fedprune.task.versions import asked_votes, without_due_units
from fedprune.wire import received_chunks, serving, transfer
from tests.simulation.faults import Process, Rates, SimulatedDisk
from tests.simulation.forgetful import ForgetfulWorld
from tests.simulation.slimming_task import slimming_bundle
from tests.simulation.world import COHORT, ROUNDS, SEED, STEPS_PER_ROUND, World, make_bundle

SEEDS = 200
QUORUM_SEEDS = 60
SLIMMING_SEEDS = 40
REGROWING_SEEDS = 20
REMEMBERING_SEEDS = 40
_BATCH = 20
INPUTS = 40
CODECS = (
    DEFAULT_CODEC,
    "mask | fp32",
    "mask | feedback(2) | fp16",
    "mask | feedback(10) | topk(0.5) | quantise(8) | context",
    "mask | feedback(10) | random_mask(0.5) | rotate | int8",
)
AGGREGATIONS = (AS_USUAL, Aggregation(optimizer=FedAvgM()), Aggregation(optimizer=FedAdam()))
MODEL_CODECS = (
    "fp16",
    "fp16 + mask | topk(0.2) | ternary | rice",
    "fp32 + mask | int8",
    "fp16 + mask | topk(0.1) | ternary | history",
)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models and updates here are a few kB: cut the larger ones into several chunks, as real ones are."""
    for module in (transfer, serving, round_uploads, agent_submitting):
        monkeypatch.setattr(module, "CHUNK_SIZES", (640, 80, 10))
    monkeypatch.setattr(received_chunks, "RESUMABLE_BYTES", 1000)
    for sender in (agent_submitting, update_exchange):
        monkeypatch.setattr(sender, "MAX_INLINE_BYTES", 400)


def _run(seed: int, rates: Rates = Rates()) -> World:  # noqa: B008 - immutable
    policy = MaskPolicy.OWN if seed % 2 else MaskPolicy.SHARED
    model_codec = MODEL_CODECS[seed // 2 % len(MODEL_CODECS)] if policy is MaskPolicy.SHARED else "fp16"
    codec, aggregation = CODECS[seed % len(CODECS)], AGGREGATIONS[seed % len(AGGREGATIONS)]
    world = World(seed, policy, rates, codec, model_codec=model_codec, aggregation=aggregation)
    world.run()
    return world


def _whole_fleet(seed: int) -> World:
    """A federation that needs every agent in every round, many of whose updates are malformed."""
    world = World(seed, MaskPolicy.SHARED, replace(Rates(), spoiled=0.2), DEFAULT_CODEC, agents=COHORT, quorum=COHORT)
    world.run()
    return world


def _slimming(seed: int) -> World:
    """A federation whose network becomes smaller while all that goes wrong."""
    world = World(
        seed,
        MaskPolicy.SHARED,
        Rates(),
        CODECS[seed % len(CODECS)],
        model_codec=MODEL_CODECS[seed % len(MODEL_CODECS)],
        aggregation=AGGREGATIONS[seed % len(AGGREGATIONS)],
        bundle=slimming_bundle(INPUTS, STEPS_PER_ROUND),
    )
    world.run()
    return world


def _regrowing(seed: int) -> World:
    """A federation after each of whose rounds pruned weights come back."""
    world = World(
        seed,
        MaskPolicy.SHARED,
        Rates(),
        CODECS[seed % len(CODECS)],
        aggregation=AGGREGATIONS[seed % len(AGGREGATIONS)],
        bundle=make_bundle(MaskPolicy.SHARED, INPUTS, Regrowth(fraction=0.5, every_rounds=1, until_round=2 * ROUNDS)),
    )
    world.run()
    return world


def _remembering(seed: int) -> World:
    """A federation whose updates are coded by what their agents have sent, which both sides may forget."""
    settings: dict[str, Any] = {"model_codec": MODEL_CODECS[seed % len(MODEL_CODECS)]}
    if seed % 4 == 3:
        settings["bundle"] = slimming_bundle(INPUTS, STEPS_PER_ROUND)
    world = ForgetfulWorld(seed, **settings)
    world.run()
    return world


def _check(world: World) -> None:
    book = Book(world.connection)
    disk = SimulatedDisk(world.checkpoints, Process("reader", world.physics))
    assert [record.round for record in book.records()] == list(range(ROUNDS))
    digests = {}
    for round_ in range(ROUNDS):
        before, after = load_checkpoint(disk, round_), load_checkpoint(disk, round_ + 1)
        digests[round_] = weights_digest(before.weights)
        accepted, record = book.accepted(round_), book.records()[round_]
        assert record.agents == len(accepted)
        huge = {agent for agent, update in accepted.items() if update.digest in world.huge}
        left_out = _left_out(world, round_)
        if record.kept:
            assert left_out == huge, f"round {round_}: others were left out than those whose training went wrong"
        else:
            assert left_out == set(accepted)
            assert huge, f"round {round_}: nothing was wrong with the merge that was not kept"
        known = world.bundle.task.pruning.mask.rules.known_mask(before.mask)
        table = world.bundle.forms.of(before.units).task.table
        aggregate = Aggregate(table, before.weights, known)
        asked = asked_votes(world.bundle.task, round_, before.mask)
        voting = Voting(before.mask, asked)
        for agent in accepted.keys() - left_out:
            blob = world.sent_blobs[accepted[agent].digest]
            codec = parse_codec(world.codec)
            moved = moved_in(before.weights, world.bundle.forms, world.bundle.forms.of(before.units), codec)
            update = decode_update(blob, table, known, codec, Key(SEED, round_, agent), moved, asked)
            aggregate.add(update, accepted[agent].weight)
            voting.add(update, accepted[agent].weight)
        weights, mask, state = before.exact, before.mask, NO_STATE
        if record.kept:
            state = before.optimizer_state
            merged = aggregate.result(before.exact)
            weights, mask = merged.weights, merged.mask
            if (optimizer := world.aggregation.optimizer) is not None:
                weights, state = server_step(optimizer, before.exact, weights, state, mask, table)
        expected = _next(world, before, weights, mask, state, voting.sums if record.kept and asked else None)
        for name, kept in expected.mask.items():
            np.testing.assert_array_equal(after.mask[name], kept, f"round {round_}: other weights came back")
        for name, array in expected.exact.items():
            np.testing.assert_array_equal(after.exact[name], array, f"round {round_}: {name} was not merged once each")
        assert after.optimizer_state.keys() == expected.optimizer_state.keys()
        for name, array in expected.optimizer_state.items():
            np.testing.assert_array_equal(after.optimizer_state[name], array, f"round {round_}: {name} was lost")
    last = load_checkpoint(disk, ROUNDS)
    assert not world.bundle.forms.can_change or not world.bundle.forms.of(last.units).is_whole
    for run, round_, digest in world.trained_from:
        if world.run_of[round_] == run:
            assert digest == digests[round_], f"round {round_}: an agent trained from another model"
    for event in world.settled:
        if event.run != world.run_of[event.round] or (
            event.run != world.run_of[ROUNDS - 1] and event.outcome is Outcome.INVALID
        ):
            continue  # the round was undone, or the run has another id since
        update = book.accepted(event.round).get(event.agent)
        was_taken = update is not None and update.digest == event.digest
        assert was_taken == (event.outcome is Outcome.ACCEPTED), event


def _next(
    world: World, before: Checkpoint, weights: Weights, mask: Mask, state: Weights, votes: Votes | None
) -> Checkpoint:
    codec, task, version = parse_model_codec(world.model_codec), world.bundle.task, before.version + 1
    if codec.deltas is None:
        forms, form = world.bundle.forms, world.bundle.forms.of(before.units)
        exact, state = form.expanded(weights), forms.whole.carry_parts(form, state)
        due = without_due_units(exact, form.expanded(mask), task, world.bundle.network, before.version, version)
        following = forms.after(form, due, before.version, version)
        values = codec.values
        return new_model(exact, task, before.run, version, values, due, state, following, votes=votes).checkpoint
    return next_model(
        weights, world.bundle.forms, before.run, before, codec.values, codec.deltas, SEED, state
    ).checkpoint


@dataclass(frozen=True)
class Seen:
    """What happened in a federation that came out right: who learned what, who was left out, and the whole trace."""

    trace: tuple[str, ...]
    outcomes: frozenset[Outcome]
    left_out: bool
    all_kept: bool
    led_over: frozenset[int | None]
    counted: frozenset[str]
    """What bytes of updates were counted for."""


@cache
def _seen(run: Callable[[int], World], seed: int) -> Seen:
    """Run a federation and check it; once, for whoever else asks what happened in it."""
    world = run(seed)
    try:
        _check(world)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    return Seen(
        trace=tuple(sys.intern(what) for _, what in world.physics.trace),
        outcomes=frozenset(event.outcome for event in world.settled),
        left_out=any(_left_out(world, round_) for round_ in range(ROUNDS)),
        all_kept=all(record.kept for record in Book(world.connection).records()),
        led_over=frozenset(world.led_over),
        counted=frozenset(kind for record in Book(world.connection).records() for kind in record.bytes_up_by_kind),
    )


def _left_out(world: World, round_: int) -> set[str]:
    rows = world.connection.execute("SELECT agent FROM updates WHERE round = ? AND left_out NOT NULL", (round_,))
    return {row[0] for row in rows}


@pytest.mark.parametrize("first", range(0, SEEDS, _BATCH))
def test_every_round_ends_and_every_accepted_update_counts_once(first: int) -> None:
    for seed in range(first, first + _BATCH):
        _seen(_run, seed)


@pytest.mark.parametrize("first", range(0, QUORUM_SEEDS, _BATCH))
def test_every_round_ends_where_the_whole_fleet_is_needed(first: int) -> None:
    """An agent that is refused twice sits the round out: then somebody has to look, and no round waits in silence."""
    for seed in range(first, first + _BATCH):
        _seen(_whole_fleet, seed)


@pytest.mark.parametrize("first", range(0, SLIMMING_SEEDS, _BATCH))
def test_every_round_ends_where_the_network_becomes_smaller(first: int) -> None:
    """Agents that were away, and all that is started again, go on with the form that the model has."""
    for seed in range(first, first + _BATCH):
        _seen(_slimming, seed)


@pytest.mark.parametrize("first", range(0, REGROWING_SEEDS, _BATCH))
def test_every_round_ends_and_every_vote_counts_once_where_pruned_weights_come_back(first: int) -> None:
    """Agents that were away, and all that is started again, go on with the mask that the model has."""
    seen = [_seen(_regrowing, seed) for seed in range(first, first + _BATCH)]
    assert all("votes" in each.counted for each in seen)


@pytest.mark.parametrize("first", range(0, REMEMBERING_SEEDS, _BATCH))
def test_every_round_ends_and_every_update_counts_once_where_either_side_forgets_what_was_sent(first: int) -> None:
    """An update by a history that the gateway does not remember comes once more, without: that is all."""
    seen = [_seen(_remembering, seed) for seed in range(first, first + _BATCH)]
    coded = sum(any(what.endswith("codes by its history") for what in each.trace) for each in seen)
    assert coded > _BATCH // 2, "where units go often, all histories are of other networks"
    assert any(what.endswith("sends its update without its history") for each in seen for what in each.trace)


def test_a_seed_replays_exactly() -> None:
    assert _run(7).physics.trace == _run(7).physics.trace
    assert _run(7).physics.trace != _run(8).physics.trace


def test_the_faults_really_happen() -> None:
    worlds = [_seen(_run, seed) for seed in range(80)]
    whole_fleets = [_seen(_whole_fleet, seed) for seed in range(20)]
    assert sum(what.endswith("crashes") for world in worlds[:10] for what in world.trace) > 20
    assert any(what == "aggregator crashes" for world in worlds[:10] for what in world.trace)
    assert any(what == "aggregator is cut off" for world in worlds[:10] for what in world.trace)
    assert any("out of reach" in what for world in whole_fleets for what in world.trace)
    assert frozenset[Outcome]().union(*(world.outcomes for world in worlds)) == set(Outcome)
    assert any(world.left_out for world in worlds)
    assert not all(world.all_kept for world in worlds)
    assert any("rolls back" in what for world in worlds for what in world.trace)
    assert any(what == "2 updates are accepted together" for world in worlds for what in world.trace)
    assert frozenset[int | None]().union(*(world.led_over for world in worlds)) >= {None, 0, 1, 2}
