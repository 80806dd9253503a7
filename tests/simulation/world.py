"""A whole federation in one process: real machines, runners, codecs, store, book and merging over simulated faults.

Only the trainer and the evaluation are stand-ins (`tests/simulation/stand_ins.py`).
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from aggregator.cohort import Standing
from aggregator.exchange import Exchange
from aggregator.rollback import roll_back
from aggregator.round_machine import wake_at
from aggregator.round_state import Plan
from aggregator.run_store import RunStore
from aggregator.runner import AggregatorRunner
from aggregator.settings import AS_USUAL, Aggregation
from edge_agent.agent_state import Disconnected, HeldChanged, Limits, Ticked, Train
from edge_agent.held_model import Held
from edge_agent.local_round import LocalResult, LocalRound, owed_since
from edge_agent.local_training import train_locally
from edge_agent.runner import AgentRunner
from edge_agent.store import AgentStore
from edge_agent.trainers import Trained, Work
from fedprune.data import Dataset
from fedprune.errors import ProtocolError, TrainingError
from fedprune.model.tensors import weights_digest
from fedprune.pruning.masks import apply_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.task.bundle import Bundle
from fedprune.task.evaluation import LossScale
from fedprune.wire.link import Delivery
from fedprune.wire.messages import Assignment, CheckIn
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import content_of
from fedprune.wire.versions import SPOKEN, Versions
from tests.simulation.faults import Crash, Network, Physics, Process, Rates, SimulatedBook, SimulatedDisk, SimulatedLink
from tests.simulation.stand_ins import DATA, STEPS_PER_ROUND, NoisyTrainer, evaluate, make_bundle
from tests.simulation.witnessed_store import Settled, WitnessedStore

SEED = 1
ROUNDS, AGENTS, COHORT = 4, 5, 3
LIMITS = Limits(max_task_bytes=1_000_000, max_model_bytes=1_000_000)
_RESTART_S, _TRAINING_S, _SLOW = 20.0, 40.0, 0.15
_HUGE = np.float32(1e4)

_TOGETHER_S = 0.2
"""For which updates wait at most, to be stored together."""


class World:
    """`settled` and `trained_from` are what the agents experienced, `sent_blobs` the updates that they made, by the
    digest of what they sent and coded without a history.

    `led_over`: over how many versions a replay led to the model that an agent trained from, None for whole models.
    `huge`: digests of updates of a training that went wrong. `run_of`: the run's id for each round that is not undone.
    """

    def __init__(
        self,
        seed: int,
        policy: MaskPolicy,
        rates: Rates,
        codec: str,
        *,
        model_codec: str = "fp16",
        agents: int = AGENTS,
        quorum: int = 2,
        aggregation: Aggregation = AS_USUAL,
        bundle: Bundle | None = None,
        deadline_s: float | None = 150.0,
    ) -> None:
        self.aggregation = aggregation
        self.physics = Physics(seed, rates)
        self.bundle = bundle or make_bundle(policy)
        self.topics = Topics("sim")
        self.codec = codec
        self.model_codec = model_codec
        self.network = Network(self.physics)
        self.connection = sqlite3.connect(":memory:")
        self.checkpoints: dict[str, bytes] = {}
        self.updates: dict[str, bytes] = {}
        self.sent_blobs: dict[bytes, bytes] = {}
        self.settled: list[Settled] = []
        self.trained_from: list[tuple[str, int, str]] = []
        self.led_over: list[int | None] = []
        self.huge: set[bytes] = set()
        self.run_of: dict[int, str] = {}
        self.done = False
        self._quorum, self._deadline_s = quorum, deadline_s
        self._agent_disks: dict[str, dict[str, bytes]] = {f"agent-{index}": {} for index in range(agents)}

    def run(self, *, give_up: float = 200_000.0) -> None:
        """Let the federation run to its end, or until `give_up` simulated seconds have passed."""
        self.physics.after(0.0, self._start_aggregator)
        for name in self._agent_disks:
            self.physics.after(self.physics.chance.uniform(0.0, 30.0), lambda name=name: self._start_agent(name))
        self.physics.run(until=lambda: self.done or self.physics.now > give_up)

    def _start_aggregator(self) -> None:
        self._live("aggregator", self._aggregator_life, self._start_aggregator)

    def _start_agent(self, name: str) -> None:
        self._live(name, self._agent_life, lambda: self._start_agent(name))

    def _live(self, name: str, life: Callable[[Process], None], again: Callable[[], None]) -> None:
        """Start a process; whenever it crashes, at any of its crash points, start it again a little later."""
        process = Process(name, self.physics)
        self.physics.note(f"{name} starts")
        self._guard(process, again, lambda: life(process))

    def _guard(self, process: Process, again: Callable[[], None], action: Callable[[], None]) -> None:
        if not process.alive:
            return
        try:
            action()
        except (Crash, TrainingError):  # the latter: a round was given up, and somebody starts the gateway again
            process.alive = False
            if process.name == "aggregator" and self.physics.happens(self.physics.rates.rolled_back):
                self._roll_back()
            self.physics.after(self.physics.chance.uniform(0.1, _RESTART_S), again)

    def _roll_back(self) -> None:
        """Somebody takes the run back to any version, and does so again until nothing interrupts it."""
        run = f"run-{len(self.physics.trace)}"
        to = None
        while True:
            process = Process("somebody", self.physics)
            book = SimulatedBook(self.connection, process)
            store = RunStore(book, SimulatedDisk(self.checkpoints, process), SimulatedDisk(self.updates, process))
            try:
                if to is None:
                    to = self.physics.chance.randint(0, max(0, book.next_round() - 1))
                if book.next_round() or book.cohort(0)[0]:
                    done = roll_back(store, to, run)
                    self.physics.note(f"somebody rolls back to {done.rounds}")
                    for round_ in range(to, ROUNDS):
                        self.run_of[round_] = run
                return
            except Crash:
                if run in book.runs():
                    for round_ in range(to or 0, ROUNDS):
                        self.run_of[round_] = run
                    return

    def _aggregator_life(self, process: Process) -> None:
        def guarded(action: Callable[[], None]) -> None:
            self._guard(process, self._start_aggregator, action)
            watch()

        def watch() -> None:
            if process.alive and runner.is_done:
                self._finish(runner, process)
            if process.alive and self._is_out_of_reach(runner):
                self.physics.note("somebody reads that the quorum is out of reach, and starts the gateway again")
                process.alive = False
                self.physics.after(_RESTART_S, self._start_aggregator)
            alarm = wake_at(runner.state)
            if process.alive and alarm is not None:
                self.physics.after(max(0.0, alarm - self.physics.now), tick)

        def tick() -> None:
            alarm = wake_at(runner.state)
            if process.alive and alarm is not None and alarm <= self.physics.now:
                guarded(runner.tick)

        def receive(delivery: Delivery) -> None:
            self.physics.note(f"aggregator gets {delivery.topic}")
            guarded(lambda: runner.deliver(delivery))
            self.physics.after(self.physics.chance.uniform(0.0, _TOGETHER_S), lambda: guarded(runner.settle))

        link = SimulatedLink(
            process,
            self.network,
            receive,
            went_down=lambda: None,
            came_up=lambda: guarded(runner.connect),
            drained=lambda: guarded(runner.drained),
        )
        self.network.join(link)
        runner = self._make_runner(process, link)
        runner.connect()
        watch()

    def _make_runner(self, process: Process, link: SimulatedLink) -> Exchange:
        book = SimulatedBook(self.connection, process)
        run, incarnation = book.start("run", content_of(self.bundle.blob).digest, {"codec.model": self.model_codec})
        self.run_of = self.run_of or dict.fromkeys(range(ROUNDS), run)
        return AggregatorRunner(
            self._plan(run, incarnation),
            self.bundle,
            self.topics,
            link,
            RunStore(book, SimulatedDisk(self.checkpoints, process), SimulatedDisk(self.updates, process)),
            evaluate=evaluate,
            scale=LossScale(constant=1.0, ceiling=math.inf),
            report=lambda record: self.physics.note(f"round {record.round} merges {record.agents}"),
            clock=lambda: self.physics.now,
            keep_checkpoints=5,
            aggregation=self.aggregation,
            spoken=self._spoken_of(None),
            **self._gateway_keys(),
        )

    def _gateway_keys(self) -> dict[str, Any]:
        """What an aggregator has whose devices have joined."""
        return {}

    def _device_keys(self, _: AgentStore, __: SimulatedDisk) -> dict[str, Any]:
        """What an agent has by joining."""
        return {}

    def _finish(self, _: Exchange, __: Process) -> None:
        """The runner has done what it had to do in this life of the gateway's process."""
        self.done = True

    def _is_out_of_reach(self, runner: Exchange) -> bool:
        """More agents sit the round out than the quorum can do without."""
        return runner.state.cohort.count(Standing.OUT) > len(self._agent_disks) - self._quorum

    def _plan(self, run: str, incarnation: int) -> Plan:
        return Plan(
            run=run,
            incarnation=incarnation,
            rounds=ROUNDS,
            cohort=COHORT,
            quorum=self._quorum,
            deadline_s=self._deadline_s,
            gather_s=20.0,
            seed=SEED,
            task=content_of(self.bundle.blob),
            clock_steps_per_round=STEPS_PER_ROUND,
            codec=self.codec,
            max_update_bytes=10_000,
            ticket_key=b"%d" % incarnation,
            examples_cap=10.0,
            model_codec=self.model_codec,
            seeded=True,
        )

    def _agent_life(self, process: Process) -> None:
        def guarded(action: Callable[[], None]) -> None:
            self._guard(process, lambda: self._start_agent(process.name), action)
            watch()

        def watch() -> None:
            if process.alive and runner.state.wake_at is not None:
                self.physics.after(max(0.0, runner.state.wake_at - self.physics.now), tick)

        def tick() -> None:
            alarm = runner.state.wake_at
            if process.alive and alarm is not None and alarm <= self.physics.now:
                guarded(lambda: runner.handle(Ticked(), self.physics.now))

        def receive(delivery: Delivery) -> None:
            self.physics.note(f"{process.name} gets {delivery.topic}")
            guarded(lambda: runner.deliver(delivery, self.physics.now))

        def disconnect() -> None:
            guarded(lambda: runner.handle(Disconnected(), self.physics.now))

        def connect() -> None:
            guarded(lambda: runner.connect(self.physics.now))

        def drained() -> None:
            guarded(lambda: runner.drained(self.physics.now))

        def tell(held: tuple[str, int]) -> None:
            event = HeldChanged(held)
            self.physics.after(0.0, lambda: guarded(lambda: runner.handle(event, self.physics.now)))

        def train(action: Train) -> None:
            def end(result: LocalResult | Exception) -> None:
                guarded(lambda: runner.end_training(action.number, result, self.physics.now))

            if self.physics.happens(self.physics.rates.failed):
                self.physics.after(1.0, lambda: end(TrainingError("out of memory")))
                return
            try:
                result: LocalResult | Exception = self._train(process.name, action, store.held.telling(tell), store)
            except ProtocolError as error:
                result = error
            self.physics.after(self._training_s(process.name), lambda: end(result))

        disk = SimulatedDisk(self._agent_disks[process.name], process)
        store = WitnessedStore(disk, process.name, self.settled)
        link = SimulatedLink(process, self.network, receive, went_down=disconnect, came_up=connect, drained=drained)
        self.network.join(link)
        check_in = CheckIn(examples=self._examples_of(process.name))
        runner = AgentRunner(
            process.name,
            check_in,
            LIMITS,
            self.topics,
            link,
            store,
            train,
            stop_training=lambda: None,
            spoken=self._spoken_of(process.name),
            **self._device_keys(store, disk),
        )
        runner.connect(self.physics.now)
        watch()

    def _training_s(self, _: str) -> float:
        """The simulated seconds that an agent trains; now and then it is slow."""
        duration = self.physics.chance.uniform(0.5, _TRAINING_S)
        return duration * 10.0 if self.physics.happens(_SLOW) else duration

    def _examples_of(self, _: str) -> int:
        """The number that an agent says it holds."""
        return len(DATA)

    def _spoken_of(self, _: str | None) -> Versions:
        """The versions of the protocol that an agent speaks, or the aggregator."""
        return SPOKEN

    def _train(self, name: str, action: Train, held: Held, store: AgentStore) -> LocalResult:
        assignment = action.assignment
        since = owed_since(assignment)
        residual, form = store.residual(assignment.run, assignment.round, since), store.owed_form(assignment.run, since)
        local = LocalRound(
            name,
            assignment,
            action.model,
            lambda: residual,
            None,
            0.0,
            held=held,
            owed_form=form,
            remembered=store.remembered(assignment.run),
        )
        trainer = WitnessedTrainer(self, assignment)
        result = train_locally(local, self.bundle, trainer, DATA)
        readable = result.update.shared or result.update.blob
        for digest in {result.submit.content.digest, content_of(readable).digest}:
            self.sent_blobs[digest] = readable
            if trainer.went_wrong:
                self.huge.add(digest)
        if result.update.shared is not None:
            self.physics.note(f"{name} codes by its history")
        return result


class WitnessedTrainer(NoisyTrainer):
    """Notes the digest of what training starts from; now and then it moves the weights 10,000 times too far, or its
    statistics make no sense."""

    def __init__(self, world: World, assignment: Assignment) -> None:
        super().__init__(world.bundle.task.pruning.mask)
        self._world, self._assignment = world, assignment
        self.went_wrong = False

    def train(self, work: Work, data: Dataset) -> Trained:
        assignment, physics = self._assignment, self._world.physics
        self._world.trained_from.append((assignment.run, assignment.round, weights_digest(work.weights)))
        self._world.led_over.append(None if assignment.base < 0 else assignment.round - assignment.base)
        trained = super().train(work, data)
        self.went_wrong = physics.happens(physics.rates.huge)
        if self.went_wrong:
            moved = {name: base + _HUGE * (trained.weights[name] - base) for name, base in work.weights.items()}
            trained = replace(trained, weights=apply_mask(moved, trained.mask))
        if not physics.happens(physics.rates.spoiled):
            return trained
        variance = "b/moving_variance"
        return replace(trained, weights={**trained.weights, variance: -trained.weights[variance]})
