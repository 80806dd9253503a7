"""A gateway for tests: real runner, book, disk and codecs, one aggregator after another in a directory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from aggregator.book import Book, RoundRecord
from aggregator.cohort import Standing
from aggregator.round_answers import terms, ticket
from aggregator.round_state import Phase, Plan
from aggregator.run_store import RunStore
from aggregator.runner import AggregatorRunner
from aggregator.settings import AS_USUAL, Aggregation
from aggregator.workers import Workers
from edge_agent.held_model import Held, HoldsNothing
from edge_agent.local_round import LocalResult, LocalRound
from edge_agent.local_training import train_locally
from edge_agent.trainers import Trained, Work
from fedprune.data import Dataset
from fedprune.errors import ProtocolError
from fedprune.identity.device_keys import DeviceKeys
from fedprune.pruning.masks import apply_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle
from fedprune.task.evaluation import Evaluate, Evaluation, LossScale
from fedprune.wire.link import Delivery
from fedprune.wire.messages import Assignment, CheckIn, Chunk, Content, Message, Submit, decode, encode, kind_of
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import Receiving, content_of
from fedprune.wire.versions import SPOKEN, Versions
from tests.drivers import PLAN
from tests.recorder import Recorder
from tests.samples import chunks
from tests.simulation.stand_ins import DATA, NoisyTrainer, make_bundle

TOPICS = Topics("tests")
BUNDLE = make_bundle(MaskPolicy.SHARED)
AGENTS = ("pi-0", "pi-1")
TASK_PLAN = replace(
    PLAN,
    rounds=2,
    cohort=2,
    quorum=2,
    task=content_of(BUNDLE.blob),
    clock_steps_per_round=BUNDLE.task.training.steps_per_round,
)


class Site:
    """A gateway's directory, and one aggregator after another in it."""

    def __init__(self, path: Path, bundle: Bundle = BUNDLE) -> None:
        self.path, self.bundle = path, bundle
        self.records: list[RoundRecord] = []
        self.link = Recorder()

    def start(
        self,
        plan: Plan = TASK_PLAN,
        *,
        loss: float = 1.0,
        accuracy: Callable[[], float] = lambda: 0.5,
        evaluate: Evaluate | None = None,
        agents_evaluate: bool = False,
        clock: Callable[[], float] = lambda: 0.0,
        keep: int = 5,
        keys: DeviceKeys | None = None,
        patience: int | None = None,
        aggregation: Aggregation = AS_USUAL,
        workers: Workers | None = None,
        spoken: Versions = SPOKEN,
    ) -> AggregatorRunner:
        def usual(*_: Any) -> Evaluation:
            return Evaluation(1, loss, {"accuracy": accuracy()})

        directory = Directory(self.path)
        book = self.book = Book.open(self.path / "book.sqlite")
        book.start(plan.run, plan.task.digest, {"codec.model": plan.model_codec})
        self.updates = Directory(directory.path / "updates")
        self.checkpoints = Directory(directory.path / "checkpoints")
        self.link = Recorder()
        self._terms = terms(plan)
        return AggregatorRunner(
            plan,
            self.bundle,
            TOPICS,
            self.link,
            RunStore(book, self.checkpoints, self.updates),
            evaluate=None if agents_evaluate else evaluate or usual,
            scale=None if agents_evaluate else LossScale(constant=1.0, ceiling=math.inf),
            report=self.records.append,
            clock=clock,
            keep_checkpoints=keep,
            keys=keys,
            patience=patience,
            aggregation=aggregation,
            workers=workers,
            spoken=spoken,
        )

    def assignment_of(self, agent: str) -> Assignment:
        """The last one, with the terms, as an agent has it."""
        assignment = decode(Assignment, self.link.on(TOPICS.down(agent, "assignment"))[-1])
        return assignment if assignment.terms else msgspec.structs.replace(assignment, terms=self._terms)


def tell(runner: AggregatorRunner, agent: str, *messages: Message) -> None:
    for message in messages:
        if isinstance(message, CheckIn):
            message = msgspec.structs.replace(message, ticket=ticket(TASK_PLAN.ticket_key, agent))
        runner.deliver(Delivery(TOPICS.up(agent, kind_of(message)), encode(message)))
        runner.settle()


def fetch(site: Site, runner: AggregatorRunner, content: Content) -> bytes:
    """What is broadcast when all agents ask for a content."""
    incoming, need = Receiving.begin(content, 0.0)
    for agent in list(runner.state.cohort.agents(Standing.ASSIGNED)):
        tell(runner, agent, need)
    runner.drained()
    for sent in site.link.published:
        if sent.topic.startswith(TOPICS.content(content.digest)) or sent.topic.endswith("/k"):
            with suppress(ProtocolError):
                incoming, _ = incoming.add(decode(Chunk, sent.payload), 0.0)
    return incoming.assemble()


class FarTrainer(NoisyTrainer):
    """Moves the weights `factor` times as far."""

    def __init__(self, factor: float) -> None:
        super().__init__(MaskPolicy.SHARED)
        self._factor = np.float32(factor)

    def train(self, work: Work, data: Dataset) -> Trained:
        trained = super().train(work, data)
        moved = {name: base + self._factor * (trained.weights[name] - base) for name, base in work.weights.items()}
        return replace(trained, weights=apply_mask(moved, trained.mask))


def trained(
    site: Site,
    runner: AggregatorRunner,
    agent: str,
    factor: float = 1.0,
    held: Held | None = None,
    remembered: tuple[bytes, ...] = (),
) -> LocalResult:
    assignment = site.assignment_of(agent)
    model = assignment.model or b""
    model = fetch(site, runner, model) if isinstance(model, Content) else model
    held = held or HoldsNothing()
    local = LocalRound(agent, assignment, model, lambda: None, None, 0.0, held=held, remembered=remembered)
    return train_locally(local, site.bundle, FarTrainer(factor), DATA)


def submit_update(site: Site, runner: AggregatorRunner, agent: str, factor: float = 1.0, **claims: Any) -> Submit:
    """An agent trains and submits; `claims` are what it says in the submit instead of the truth."""
    result = trained(site, runner, agent, factor)
    submit = msgspec.structs.replace(result.submit, **claims)
    tell(runner, agent, submit, *chunks(result.update.blob))
    return submit


def begin(site: Site, agents: Sequence[str] = AGENTS, **settings: Any) -> AggregatorRunner:
    """A round in which all agents train."""
    runner = site.start(**settings)
    runner.connect()
    for agent in agents:
        tell(runner, agent, CheckIn(examples=7))
    assert runner.state.phase is Phase.TRAINING
    return runner
