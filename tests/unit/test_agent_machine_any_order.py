"""The agent's state machine under anything, in any order."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent.agent_state import (
    Connected,
    Disconnected,
    Event,
    HeldChanged,
    LinkDrained,
    Outcome,
    PermissionChanged,
    Phase,
    SendUpdate,
    Settle,
    StopTraining,
    Ticked,
    Train,
    TrainingDone,
    TrainingFailed,
)
from edge_agent.consent_events import ConsentChanged, ConsentRefused
from edge_agent.held_model import NONE_HELD
from fedprune.errors import ProtocolError
from fedprune.wire.messages import Accepted, Chunk, Message, Need, Reason, Rejected, Submit
from fedprune.wire.transfer import content_of
from tests.drivers import Agent
from tests.samples import (
    MODEL,
    MODEL_BLOB,
    RUN,
    TASK,
    TASK_BLOB,
    TERMS,
    UPDATE,
    assignment,
    chunks,
    digest,
    manifest,
    submit,
)

_CONTENTS = [(MODEL, MODEL_BLOB), (TASK, TASK_BLOB), (content_of(b"next model"), b"next model")]
_DIGESTS = st.sampled_from([content.digest for content, _ in _CONTENTS] + [UPDATE.digest, digest("foreign")])
_RUNS, _ROUNDS = st.sampled_from([RUN, "another-run"]), st.integers(0, 3)
_RIGHT_CHUNKS = [chunk for _, blob in _CONTENTS for chunk in chunks(blob)]
_CHUNKS = st.sampled_from(_RIGHT_CHUNKS) | st.builds(
    Chunk, digest=_DIGESTS, index=st.integers(0, 3), data=st.sampled_from([MODEL_BLOB, b"X" * len(MODEL_BLOB), b""])
)
_ASSIGNMENTS = st.builds(
    assignment,
    _ROUNDS,
    run=_RUNS,
    model=st.sampled_from([content for content, _ in _CONTENTS]),
    terms=st.just(TERMS) | st.none(),
)
_MESSAGES: st.SearchStrategy[Any] = st.one_of(
    _ASSIGNMENTS,
    _CHUNKS,
    st.builds(manifest, _ROUNDS, run=_RUNS, incarnation=st.integers(1, 3), done=st.booleans()),
    st.builds(Need, digest=_DIGESTS, missing=st.binary(max_size=3)),
    st.builds(Accepted, round=_ROUNDS, update=_DIGESTS.map(lambda digest: digest[:4])),
    st.builds(
        Rejected,
        reason=st.sampled_from(Reason),
        digest=st.none() | _DIGESTS,
        retry_after=st.floats(0.0, 1e9),
        ticket=st.sampled_from([b"", b"1", b"2"]),
    ),
)


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes, the state stays sound, and an agent with a link never waits for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.agent = Agent()
        self.settled: list[Submit] = []
        self.under_way: list[int] = []
        """Trainings that were begun, and neither ended nor were stopped."""

    def take(self, event: Event) -> None:
        pending = self.agent.state.pending
        try:
            actions = self.agent.gets(event)
        except ProtocolError:
            return
        for action in actions:
            if isinstance(action, Settle) and action.outcome is not Outcome.INVALID:
                assert pending is not None
                self.settled.append(pending)
            if isinstance(action, StopTraining):
                self.under_way.clear()
            if isinstance(action, Train):
                assert not self.under_way, "two trainings at once"
                self.under_way.append(action.number)
            if isinstance(action, SendUpdate):
                assert all(0 <= index < 3 for index in action.indexes)

    @rule(message=_MESSAGES)
    def message(self, message: Message) -> None:
        self.take(message)  # type: ignore[arg-type]

    @rule(right=st.sampled_from(_RIGHT_CHUNKS))
    def right_chunk(self, right: Chunk) -> None:
        self.take(right)

    @rule(event=st.sampled_from([Connected(), Disconnected(), LinkDrained()]))
    def link(self, event: Event) -> None:
        self.take(event)

    @rule(seconds=st.floats(0.0, 200.0))
    def time(self, seconds: float) -> None:
        self.agent.now += seconds
        self.take(Ticked())
        assert self.agent.state.wake_at is None or self.agent.state.wake_at > self.agent.now

    @precondition(lambda self: self.agent.state.phase is Phase.TRAINING)
    @rule(fails=st.booleans())
    def training_ends(self, fails: bool) -> None:
        work, number = self.agent.state.assignment, self.agent.state.training
        assert work is not None
        self.under_way.remove(number)
        done = TrainingDone(number, submit(work.round, run=work.run))
        self.take(TrainingFailed(number, "why", frozenset({TASK.digest})) if fails else done)

    @precondition(lambda self: self.agent.state.training)
    @rule(fails=st.booleans())
    def a_training_that_was_stopped_ends(self, fails: bool) -> None:
        before, number = self.agent.state, self.agent.state.training - 1
        self.take(TrainingFailed(number, "why", frozenset({TASK.digest})) if fails else TrainingDone(number, submit()))
        assert self.agent.state == before

    @precondition(lambda self: self.agent.state.phase is Phase.TRAINING)
    @rule(of_task=st.booleans())
    def the_owner_refuses(self, of_task: bool) -> None:
        number = self.agent.state.training
        self.under_way.remove(number)
        self.take(ConsentRefused(number, "too many steps", of_task))

    @rule(withdrawn=st.frozensets(_DIGESTS.map(bytes.hex), max_size=2))
    def the_owner_thinks_again(self, withdrawn: frozenset[str]) -> None:
        self.take(ConsentChanged(withdrawn))
        assert not self.agent.state.is_refusing

    @rule(held=st.sampled_from([(RUN, 0), (RUN, 1), NONE_HELD]))
    def the_disk_holds(self, held: tuple[str, int]) -> None:
        self.take(HeldChanged(held))
        assert (self.agent.state.offer.run, self.agent.state.offer.version) == held

    @rule(why=st.sampled_from(["", "hot", "busy"]))
    def the_device_permits(self, why: str) -> None:
        self.take(PermissionChanged(why))
        assert self.agent.state.waits_for == why

    @invariant()
    def each_phase_has_what_it_needs(self) -> None:
        state = self.agent.state
        assert (state.assignment is not None) == (state.phase in (Phase.FETCHING, Phase.TRAINING))
        assert (state.pending is not None) == (state.phase is Phase.SUBMITTING)
        assert bool(state.receiving) == (state.phase is Phase.FETCHING)
        assert bool(state.serving.contents) == (state.phase is Phase.SUBMITTING)
        assert self.under_way == ([state.training] if state.phase is Phase.TRAINING else [])

    @invariant()
    def it_never_waits_for_ever(self) -> None:
        state = self.agent.state
        if state.connected and not ((state.waits_for or state.is_refusing) and state.phase is Phase.IDLE):
            assert state.wake_at is not None

    @invariant()
    def each_round_is_settled_once(self) -> None:
        for run in (RUN, "another-run"):
            rounds = [settled.round for settled in self.settled if settled.run == run]
            assert rounds == sorted(set(rounds))


AnyOrder.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
test_any_order = AnyOrder.TestCase
