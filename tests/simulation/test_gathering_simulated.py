"""Federations that gather statistics first, under loss, doubling, reordering and crashes, each decided by one seed."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from aggregator import round_uploads
from aggregator.book import Book
from aggregator.exchange import Exchange
from aggregator.gathering import GatheringRunner, forget_given, gathering_plan, load_pooled
from edge_agent import agent_submitting
from edge_agent.agent_state import Outcome, Train
from edge_agent.gathering import give_statistics
from edge_agent.held_model import Held
from edge_agent.local_round import LocalResult, LocalRound, asks_for_statistics
from edge_agent.store import AgentStore
from fedprune.codecs import DEFAULT_CODEC
from fedprune.data import Dataset
from fedprune.data.description import Arrays, Standard
from fedprune.data.normalization import inputs_of
from fedprune.pruning.policy import MaskPolicy
from fedprune.task.bundle import read_bundle
from fedprune.task.gathering import completed, is_incomplete, own_statistics, with_data
from fedprune.wire import serving, transfer
from fedprune.wire.transfer import content_of
from tests.simulation.faults import CALM, Process, Rates, SimulatedBook, SimulatedDisk, SimulatedLink
from tests.simulation.stand_ins import make_bundle
from tests.simulation.world import AGENTS, ROUNDS, World

SEEDS = 12
INCOMPLETE = with_data(make_bundle(MaskPolicy.SHARED), Arrays(normalize=Standard(statistics="federated")))
DIGEST = content_of(INCOMPLETE.blob).digest
ROUGH = replace(Rates(), crash=0.02, spoiled=0.0, huge=0.0)


def data_of(agent: str) -> Dataset:
    """20 examples and more; of the last agent too few."""
    number = int(agent.rpartition("-")[2])
    examples = 12 if number == AGENTS - 1 else 20 + 30 * number
    random = np.random.default_rng(number)
    return Dataset(np.float32(random.normal(number, 1 + number, (examples, 40))), np.zeros(examples, np.int64))


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (transfer, serving, round_uploads, agent_submitting):
        monkeypatch.setattr(module, "CHUNK_SIZES", (640, 80, 10))


class GatheringWorld(World):
    """Its gateway's process gathers, ends its link, and begins the rounds with another."""

    def __init__(self, seed: int, rates: Rates) -> None:
        super().__init__(seed, MaskPolicy.SHARED, rates, DEFAULT_CODEC)
        self.bundle = INCOMPLETE
        self.gathered = sqlite3.connect(":memory:")
        self.given: dict[str, bytes] = {}
        self.run_directory: dict[str, bytes] = {}
        self.trained_with: set[bytes] = set()

    def _make_runner(self, process: Process, link: SimulatedLink) -> Exchange:
        given, run = SimulatedDisk(self.given, process), SimulatedDisk(self.run_directory, process)
        pooled = load_pooled(run, DIGEST)
        if pooled is not None:
            forget_given(given)
            self.bundle = with_data(INCOMPLETE, pooled.data)
            return super()._make_runner(process, link)
        book = SimulatedBook(self.gathered, process)
        name, incarnation = book.start("gathering", DIGEST, {})
        plan = replace(gathering_plan(self._plan(name, incarnation)), cohort=AGENTS, quorum=3)
        return GatheringRunner(plan, INCOMPLETE, self.topics, link, book, given, run, clock=lambda: self.physics.now)

    def _finish(self, runner: Exchange, process: Process) -> None:
        if not isinstance(runner, GatheringRunner):
            super()._finish(runner, process)
            return
        process.alive = False
        self.physics.after(0.1, self._start_aggregator)

    def _examples_of(self, name: str) -> int:
        return len(data_of(name))

    def _train(self, name: str, action: Train, held: Held, store: AgentStore) -> LocalResult:
        assignment = action.assignment
        if asks_for_statistics(assignment):
            local = LocalRound(name, assignment, b"", lambda: None, None, 0.0)
            return give_statistics(local, store.task(assignment.task.digest), lambda _: data_of(name))
        bundle = read_bundle(store.task(assignment.task.digest))
        assert not is_incomplete(bundle.task)
        self.trained_with.add(assignment.task.digest)
        return super()._train(name, action, held, store)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_statistics_are_those_of_the_devices_that_gave_them_however_often_anything_crashes(seed: int) -> None:
    world = GatheringWorld(seed, ROUGH if seed else CALM)

    world.run()

    accepted = Book(world.gathered).accepted(0)
    given = [
        (own_statistics(INCOMPLETE.task, data_of(agent)), update.weight / len(data_of(agent)))
        for agent, update in accepted.items()
    ]
    pooled = load_pooled(SimulatedDisk(world.run_directory, Process("reader", world.physics)), DIGEST)
    assert pooled is not None
    expected = completed(INCOMPLETE.task, [each for each in given if not each[0].is_empty])
    assert msgspec.json.encode(pooled.data) == msgspec.json.encode(expected)
    assert inputs_of(pooled.data) is not None
    assert not world.given
    assert [record.round for record in Book(world.connection).records()] == list(range(ROUNDS))
    assert world.trained_with == {content_of(world.bundle.blob).digest}
    told = {
        (each.agent, each.digest)
        for each in world.settled
        if each.run == "gathering" and each.outcome is Outcome.ACCEPTED
    }
    assert told <= {(agent, update.digest) for agent, update in accepted.items()}
