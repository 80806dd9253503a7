"""The gateway after a power cut: it holds what it had said, and goes on with its round at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from rpds import HashTrieMap

from aggregator.cohort import Standing
from aggregator.round_state import Phase
from aggregator.run_store import RunStore
from aggregator.runner import AggregatorRunner
from aggregator.settings import FederationSettings
from fedprune.system.ownership import owned
from fedprune.task.bundle import Bundle
from fedprune.task.evaluation import Evaluation, LossScale
from fedprune.task.run_directory import CHECKPOINTS, UPDATES
from fedprune.wire.link import Delivery
from fedprune.wire.messages import Accepted, Assignment, Content, Manifest, Submit, decode, encode, tag_of
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import content_of
from tests.drivers import PLAN
from tests.federations import NAME
from tests.power_cuts.operations import Operation, Sent
from tests.power_cuts.scene import AGENTS, KEPT_CHECKPOINTS, ROUNDS
from tests.recorder import Recorder

TOPICS = Topics(NAME)
_ANOTHER_RUN = "another-run"
"""What a gateway calls its run if its book knows of none."""


@dataclass(frozen=True)
class Said:
    """What a gateway has told its agents. Rounds before the manifest's are finished; `accepted`: the update of a round
    and agent that counts; `assigned`: the run in which an agent has work in a round."""

    manifest: Manifest | None = None
    accepted: HashTrieMap[tuple[int, str], bytes] = HashTrieMap()
    assigned: HashTrieMap[tuple[int, str], str] = HashTrieMap()

    def and_then(self, sent: Sent) -> Said:
        agent = sent.topic.split("/")[-2]
        if sent.topic == TOPICS.round and sent.payload:
            return replace(self, manifest=decode(Manifest, sent.payload))
        if sent.topic == TOPICS.down(agent, "accepted"):
            accepted = decode(Accepted, sent.payload)
            return replace(self, accepted=self.accepted.insert((accepted.round, agent), accepted.update))
        if sent.topic == TOPICS.down(agent, "assignment"):
            assignment = decode(Assignment, sent.payload)
            told = replace(self, assigned=self.assigned.insert((assignment.round, agent), assignment.run))
            if assignment.accepted is None:
                return told
            return replace(told, accepted=told.accepted.insert((assignment.round - 1, agent), assignment.accepted))
        return self


class GatewayCheck:
    """Starts a gateway in a state directory, and asserts that nothing is lost of what was said before.

    `recording` is the whole of it, from which the states were taken: a gateway may know less, but nothing else.
    """

    def __init__(self, bundle: Bundle, recording: list[Operation]) -> None:
        self._bundle = bundle
        self._sent = [operation for operation in recording if isinstance(operation, Sent)]

    @cached_property
    def _models(self) -> dict[int, bytes]:
        """The beginning of the digest of the model that each round trained."""
        topics = {TOPICS.down(agent, "assignment") for agent in AGENTS}
        assignments = [decode(Assignment, sent.payload) for sent in self._sent if sent.topic in topics]
        return {assignment.round: assignment.weights_digest for assignment in assignments}

    def __call__(self, state: Path, said: Said) -> None:
        with owned(state, CHECKPOINTS, UPDATES) as directory:
            store = RunStore.open(directory.path)
            try:
                self._check(store, said)
            finally:
                store.book.close()

    def _check(self, store: RunStore, said: Said) -> None:
        lasting = FederationSettings(task="", state="").lasting(self._bundle.task.table)
        run, incarnation = store.book.start(_ANOTHER_RUN, content_of(self._bundle.blob).digest, lasting)
        known_round = store.book.next_round()
        if said.manifest is not None:
            assert run == said.manifest.run, "the run that was announced is forgotten"
            assert incarnation > said.manifest.incarnation, "agents cannot tell this start from an earlier one"
            assert known_round >= said.manifest.round, "a round that was finished is open again"
        assert [record.round for record in store.book.records()] == list(range(known_round))
        self._check_updates(store, known_round, said)

        link = Recorder()
        runner = self._resume(store, run, incarnation, link)
        self._check_model(runner)
        runner.connect()
        self._check_progress(runner, link, known_round)
        self._ask_again(runner, link, store, known_round)

    def _check_updates(self, store: RunStore, known_round: int, said: Said) -> None:
        for (round_, agent), tag in said.accepted.items():
            update = store.book.accepted(round_).get(agent)
            assert update is not None, f"the accepted update of {agent} in round {round_} is not in the book"
            assert update.digest.startswith(tag), f"another update of {agent} is in the book in round {round_}"
        for round_, agent in said.assigned:
            assert agent in store.book.cohort(round_)[0], f"{agent} has no place in round {round_} any more"
        for agent, update in store.book.accepted(known_round).items():
            segment = store.updates.read(update.file)
            assert segment is not None, f"the update of {agent} in round {known_round} is in the book, but nowhere else"
            blob = segment[update.place : update.place + update.size]
            assert content_of(blob).digest == update.digest, f"the update of {agent} in round {known_round} is damaged"

    def _check_progress(self, runner: AggregatorRunner, link: Recorder, known_round: int) -> None:
        """It merges at once what waits for nobody, and takes the round up."""
        standings = {agent: member.standing for agent, member in runner.state.cohort.members.items()}
        assert runner.state.phase is Phase.DONE or set(standings.values()) != {Standing.ACCEPTED}, "it waits for nobody"
        manifest = decode(Manifest, next(payload for payload in reversed(link.on(TOPICS.round)) if payload))
        assert known_round <= manifest.round <= known_round + 1
        self._check_model(runner)

    def _check_model(self, runner: AggregatorRunner) -> None:
        state = runner.state
        if state.plan.run != _ANOTHER_RUN and state.round in self._models:
            made = self._models[state.round]
            assert state.model.weights_digest.startswith(made), "a model is not the one that was made before"

    def _ask_again(self, runner: AggregatorRunner, link: Recorder, store: RunStore, known_round: int) -> None:
        """Each agent submits its last accepted update once more, as it does if the answer was lost."""
        for agent in AGENTS:
            taken = [(round_, store.book.accepted(round_).get(agent)) for round_ in range(known_round + 1)]
            for round_, update in [(round_, update) for round_, update in taken if update is not None][-1:]:
                content = Content(digest=update.digest, size=update.size)
                submit = Submit(
                    run=runner.state.plan.run,
                    round=round_,
                    update=content,
                    examples=update.weight,
                    local_steps=update.local_steps,
                )
                runner.deliver(Delivery(TOPICS.up(agent, "submit"), encode(submit)))
                answers = [decode(Accepted, payload) for payload in link.on(TOPICS.down(agent, "accepted"))]
                assert [answer.update for answer in answers] == [tag_of(content.digest)], (
                    f"{agent} is not told that it counts"
                )

    def _resume(self, store: RunStore, run: str, incarnation: int, link: Recorder) -> AggregatorRunner:
        plan = replace(
            PLAN,
            run=run,
            incarnation=incarnation,
            rounds=ROUNDS,
            cohort=len(AGENTS),
            quorum=len(AGENTS),
            task=content_of(self._bundle.blob),
            clock_steps_per_round=self._bundle.task.training.steps_per_round,
        )
        return AggregatorRunner(
            plan,
            self._bundle,
            TOPICS,
            link,
            store,
            evaluate=lambda *_: Evaluation(1, 1.0, {"accuracy": 0.5}),
            scale=LossScale(constant=1.0, ceiling=math.inf),
            report=lambda _: None,
            clock=lambda: 0.0,
            keep_checkpoints=KEPT_CHECKPOINTS,
        )
