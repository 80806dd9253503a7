"""The aggregator's state machine under messages of any kind, slow disks, and restarts at any time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aggregator.cohort import Standing
from aggregator.round_machine import wake_at
from aggregator.round_state import (
    Action,
    BookCohort,
    Connected,
    Event,
    GiveUp,
    LinkDrained,
    Merge,
    Merged,
    Phase,
    RoundGiven,
    RoundState,
    Said,
    Send,
    StoreUpdate,
    Ticked,
    UpdateRefused,
    UpdateStored,
    resume,
)
from fedprune.errors import ProtocolError
from fedprune.wire.messages import (
    UPDATE_TAG_BYTES,
    UPLINK,
    Accepted,
    Assignment,
    Begun,
    CheckIn,
    Chunk,
    Content,
    Failed,
    LeftOut,
    Need,
    Submit,
)
from fedprune.wire.transfer import content_of
from tests.drivers import AGENTS, CHECK_IN, PLAN, Gateway, model_of, said, sent_to, submission, update_of
from tests.samples import MODEL, RUN, TASK, UPDATE, chunks, digest, submit

_AGENTS = st.sampled_from(AGENTS)
_ROUNDS = st.integers(0, 3)
_BLOBS = [update_of(agent, round_) for agent in AGENTS for round_ in range(2)]
_RUNS = st.sampled_from([RUN, RUN, RUN, "another-run"])
_UPDATES = st.sampled_from([content_of(blob) for blob in _BLOBS] + [UPDATE, Content(UPDATE.digest, 2**31 - 1)])
_DIGESTS = st.sampled_from([MODEL.digest, TASK.digest, UPDATE.digest, digest("foreign")])
_SAID: dict[str, st.SearchStrategy[Any]] = {
    "check-in": st.builds(CheckIn, examples=st.integers(0, 10)),
    "need": st.builds(Need, digest=_DIGESTS, missing=st.sampled_from([b"\1", b"\0", b"", b"\xff\xff"])),
    "begun": st.builds(Begun, round=_ROUNDS),
    "submit": st.builds(submit, _ROUNDS, run=_RUNS, update=_UPDATES, examples=st.integers(1, 10)),
    "chunk": st.builds(
        Chunk,
        digest=st.sampled_from([content_of(blob).digest for blob in _BLOBS]),
        index=st.integers(0, 1),
        data=st.sampled_from([*_BLOBS, b"X" * len(_BLOBS[0]), b""]),
    ),
    "failed": st.builds(Failed, run=_RUNS, round=_ROUNDS, why=st.just("why")),
}


class AnyOrder(RuleBasedStateMachine):
    """A shell with a book around the machine: messages of any kind, slow disks, restarts at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.gateway = Gateway(replace(PLAN, rounds=2))
        self.cohorts: dict[int, dict[str, int]] = {}
        self.caps: dict[int, int] = {}
        self.book: dict[tuple[int, str], bytes] = {}
        self.merged: list[int] = []
        self.left_out: dict[str, LeftOut] = {}
        self.storing: dict[str, Submit] = {}
        self.is_merging = False
        self.is_below = False
        self.moves = 0
        self.take(Connected())

    @property
    def state(self) -> RoundState:
        return self.gateway.state

    def booked(self, agent: str) -> list[tuple[int, bytes]]:
        """(round, digest) of an agent's updates in the book, the last one last."""
        return [(round_, taken) for (round_, booked), taken in sorted(self.book.items()) if booked == agent]

    def take(self, event: Event) -> None:
        before = self.state
        self.moves += 1
        try:
            actions = self.gateway.gets(event)
        except ProtocolError:
            assert self.state == before
            return
        for action in actions:
            self.perform(action)
        if any(isinstance(action, GiveUp) for action in actions):
            self.begin_anew()
        if isinstance(event, Said) and isinstance(event.message, Submit):
            self.check_answer(event.agent, event.message, actions)

    def begin_anew(self) -> None:
        """Of a sub-gateway, the parent gives the round once more; another's process ends, and somebody starts it."""
        assert not self.storing, "given up without what is on its way"
        if self.is_below:
            self.take(RoundGiven(self.state.round, model_of(self.state.round), 100.0))
        else:
            self.restart(kills_before_booking=True)

    def check_answer(self, agent: str, asked: Submit, actions: tuple[Action, ...]) -> None:
        if asked.run == RUN and self.booked(agent)[-1:] == [(asked.round, asked.update.digest)]:
            assert sent_to(agent, actions, Accepted), "the book was not believed"

    def perform(self, action: Action) -> None:
        match action:
            case Send(agent, Accepted(update=taken)):
                booked = [digest[:UPDATE_TAG_BYTES] for _, digest in self.booked(agent)]
                assert taken in booked, "accepted what is not in the book"
            case Send(agent, Assignment(round=round_, left_out=left_out, accepted=taken)):
                booked = [digest[:UPDATE_TAG_BYTES] for _, digest in self.booked(agent)]
                assert taken is None or taken in booked, "accepted what is not in the book"
                assert agent in self.cohorts[round_], "assigned before it was written down"
                assert left_out == self.left_out.get(agent), "not told what the book says"
            case BookCohort(round_, examples, cap):
                self.cohorts.setdefault(round_, {}).update(examples)
                assert self.caps.setdefault(round_, cap) == cap, "the cap depends on who comes when"
            case StoreUpdate(agent, submitted, blob, weight):
                assert 1 <= weight <= min(submitted.examples, self.cohorts[submitted.round][agent])
                assert content_of(blob) == submitted.update
                assert agent not in self.storing, "stored twice"
                self.storing[agent] = submitted
            case Merge(round_):
                assert not self.storing, "merged without what is on its way"
                assert round_ == len(self.merged)
                assert sum(place[0] == round_ for place in self.book) >= PLAN.quorum
                self.is_merging = True

    @initialize(is_below=st.booleans())
    def place(self, is_below: bool) -> None:
        self.is_below = is_below

    @rule(agents=st.permutations(AGENTS))
    def all_fail(self, agents: list[str]) -> None:
        for agent in agents:
            self.take(said(agent, CHECK_IN))
        for agent in agents:
            self.take(said(agent, Failed(run=RUN, round=self.state.round, why="why")))

    @rule(kind=st.sampled_from(sorted(UPLINK)), agent=_AGENTS, data=st.data())
    def message(self, kind: str, agent: str, data: st.DataObject) -> None:
        self.take(said(agent, data.draw(_SAID[kind])))

    @rule(agents=st.sets(_AGENTS, min_size=2))
    def check_ins(self, agents: set[str]) -> None:
        for agent in sorted(agents):
            self.take(said(agent, CHECK_IN))

    @rule(agent=_AGENTS)
    def whole_update(self, agent: str) -> None:
        for message in (submission(agent, self.state.round), *chunks(update_of(agent, self.state.round))):
            self.take(Said(agent, message))

    @rule(seconds=st.floats(0.0, 200.0))
    def time(self, seconds: float) -> None:
        self.gateway.now += seconds
        self.take(LinkDrained())
        self.take(Ticked())
        if not self.storing:
            assert (wake_at(self.state) or math.inf) > self.gateway.now, "the shell would spin"

    @precondition(lambda self: self.storing)
    @rule(malformed=st.booleans())
    def disk(self, malformed: bool) -> None:
        agent, submitted = self.storing.popitem()
        if malformed:
            self.take(UpdateRefused(agent, "why"))
        else:
            assert (submitted.round, agent) not in self.book, "counted twice"
            self.book[submitted.round, agent] = submitted.update.digest
            self.take(UpdateStored(agent))

    @precondition(lambda self: self.is_merging)
    @rule(outlier=_AGENTS)
    def merge(self, outlier: str) -> None:
        left_out = self.finish_round(outlier)
        self.take(Merged(model_of(self.state.round + 1), left_out))

    def finish_round(self, outlier: str) -> dict[str, str]:
        """The reason for the update that the merge does without, by agent."""
        self.is_merging = False
        round_ = self.state.round
        self.merged.append(round_)
        if (round_, outlier) not in self.book:
            return {}
        self.left_out[outlier] = LeftOut(round=round_, why="it is huge")
        return {outlier: "it is huge"}

    @rule(kills_before_booking=st.booleans())
    def restart(self, kills_before_booking: bool) -> None:
        if self.is_merging and not kills_before_booking:
            self.finish_round(AGENTS[0])
        self.storing.clear()
        self.is_merging = False
        round_ = len(self.merged)
        self.gateway.state = resume(
            replace(self.state.plan, incarnation=self.state.plan.incarnation + 1),
            model_of(round_),
            round_,
            assigned=self.cohorts.get(round_, {}),
            cap=self.caps.get(round_, 0),
            accepted={agent: taken for (booked, agent), taken in self.book.items() if booked == round_},
            last_accepted={agent: taken for (booked, agent), taken in sorted(self.book.items()) if booked < round_},
            refused={},
            left_out=self.left_out,
        )
        self.take(Connected())

    @invariant()
    def accepted_is_what_the_book_says(self) -> None:
        booked = {agent: taken for (round_, agent), taken in self.book.items() if round_ == self.state.round}
        members = self.state.cohort.members
        accepted = self.state.cohort.agents(Standing.ACCEPTED)
        assert {agent: members[agent].digest for agent in accepted} == booked

    @invariant()
    def an_open_round_always_has_an_alarm(self) -> None:
        if self.state.phase in (Phase.GATHERING, Phase.TRAINING):
            assert wake_at(self.state) is not None

    @invariant()
    def memory_is_bounded_by_the_cohort(self) -> None:
        uploads, cohort = self.state.uploads, self.state.cohort
        assert set(uploads) <= set(cohort.members)
        assert set(cohort.agents(Standing.STORING)) <= set(uploads)
        assert self.state.uploads_bytes == sum(upload.submit.update.size for upload in uploads.values())
        for standing in Standing:
            assert cohort.count(standing) == len(list(cohort.agents(standing)))

    @precondition(lambda self: self.moves > 30)
    @rule()
    def goodwill(self) -> None:
        """Whatever happened before, with enough goodwill the federation ends."""
        for _ in range(20):
            while self.storing:
                self.disk(malformed=False)
            if self.is_merging:
                self.merge(AGENTS[0])
            for agent in AGENTS:
                self.take(said(agent, CHECK_IN))
                for message in (submission(agent, self.state.round), *chunks(update_of(agent, self.state.round))) * 2:
                    self.take(Said(agent, message))
            self.time(200.0)
        assert self.state.phase is Phase.DONE


AnyOrder.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
test_any_order = AnyOrder.TestCase
