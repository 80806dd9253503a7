"""Drivers of the two state machines, and the small federation that their tests play."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from aggregator.cohort import Standing
from aggregator.round_answers import ticket
from aggregator.round_machine import step, wake_at
from aggregator.round_state import (
    Connected,
    Merged,
    Model,
    Phase,
    Plan,
    RoundState,
    Said,
    Send,
    StoreUpdate,
    Ticked,
    UpdateStored,
    resume,
)
from edge_agent import agent_machine, agent_state
from edge_agent.agent_state import AgentState, Limits
from edge_agent.history import Durations, RoundsDone
from fedprune.wire.messages import CheckIn, Content, Message, Need, Submit
from fedprune.wire.transfer import Receiving, content_of
from tests.samples import MODEL, RUN, TASK, chunks, digest, submit

CHECK_IN = CheckIn(examples=1500, trainer="keras")
LIMITS = Limits(max_task_bytes=10_000_000, max_model_bytes=10_000_000)
NOTHING_DONE, NO_DURATIONS = RoundsDone(), Durations()
PLAN = Plan(
    run=RUN,
    incarnation=1,
    rounds=3,
    cohort=3,
    quorum=2,
    deadline_s=100.0,
    gather_s=10.0,
    seed=1,
    task=TASK,
    clock_steps_per_round=50,
    codec="mask | feedback(2) | int8",
    max_update_bytes=1_000_000,
    ticket_key=b"the key of the tests",
    examples_cap=10.0,
)
FIRST = Model(MODEL, digest("weights"))
AGENTS = tuple(f"pi-{index}" for index in range(5))


class Agent:
    """A state and a clock; each event answers with its actions."""

    def __init__(self, state: AgentState | None = None) -> None:
        self.state = state or started()
        self.now = 0.0

    def gets(self, *events: Any) -> tuple[Any, ...]:
        """The actions of the last of `events`."""
        for event in events:
            self.state, actions = agent_machine.step(self.state, event, self.now)
        return actions

    def waits(self) -> tuple[Any, ...]:
        """Let time pass until the alarm rings."""
        assert self.state.wake_at is not None
        self.now = self.state.wake_at
        return self.gets(agent_state.Ticked())


def started(
    *,
    limits: Limits = LIMITS,
    done: RoundsDone = NOTHING_DONE,
    durations: Durations = NO_DURATIONS,
    tasks: frozenset[bytes] = frozenset(),
    pending: Submit | None = None,
) -> AgentState:
    """The state of an agent that has just been started."""
    return agent_state.start("pi-1", CHECK_IN, limits, done=done, durations=durations, tasks=tasks, pending=pending)


def model_of(round_: int) -> Model:
    return Model(content_of(b"model of round %d" % round_), digest(f"weights {round_}"))


def update_of(agent: str, round_: int = 0) -> bytes:
    return f"update of {agent} in round {round_}".encode()


def submission(agent: str, round_: int = 0) -> Submit:
    return submit(round_, update=content_of(update_of(agent, round_)))


def said(agent: str, message: Message) -> Said:
    """What an agent says; a check-in shows its ticket, as it does from the second one on."""
    if isinstance(message, CheckIn) and not message.ticket:
        message = msgspec.structs.replace(message, ticket=ticket(PLAN.ticket_key, agent))
    return Said(agent, message)


class Gateway:
    """A state and a clock; each event answers with its actions."""

    def __init__(self, plan: Plan = PLAN) -> None:
        self.now = 0.0
        self.state = fresh(plan)

    def gets(self, *events: Any) -> tuple[Any, ...]:
        """The actions of the last of `events`."""
        for event in events:
            self.state, actions = step(self.state, event, self.now)
        return actions

    def hears(self, agent: str, *messages: Message) -> tuple[Any, ...]:
        return self.gets(*(said(agent, message) for message in messages))

    def standing(self, *standings: Standing) -> set[str]:
        """The members of the cohort that stand so; all of them where none is given."""
        return set(self.state.cohort.agents(*(standings or Standing)))

    def waits(self) -> tuple[Any, ...]:
        """Let time pass until the alarm rings."""
        alarm = wake_at(self.state)
        assert alarm is not None
        self.now = alarm
        return self.gets(Ticked())

    def waits_until(self, now: float) -> tuple[Any, ...]:
        self.now = now
        return self.gets(Ticked())

    def passes_deadline(self) -> tuple[Any, ...]:
        assert self.state.deadline is not None
        self.now = self.state.deadline
        return self.gets(Ticked())

    def takes_update_of(self, agent: str, round_: int = 0) -> tuple[Any, ...]:
        blob = update_of(agent, round_)
        (stored,) = self.hears(agent, submission(agent, round_), *chunks(blob))
        assert isinstance(stored, StoreUpdate)
        assert (stored.agent, stored.submit, stored.blob) == (agent, submission(agent, round_), blob)
        return self.gets(UpdateStored(agent))


def fresh(plan: Plan) -> RoundState:
    return resume(plan, FIRST, 0, assigned={}, cap=0, accepted={}, last_accepted={}, refused={}, left_out={})


def need(content: Content) -> Need:
    """The first that an agent asks for."""
    return Receiving.begin(content, 0.0)[1]


def gathering() -> Gateway:
    gateway = Gateway()
    gateway.gets(Connected())
    return gateway


def training(*agents: str) -> Gateway:
    gateway = gathering()
    for agent in agents or ("pi-0", "pi-1", "pi-2"):
        gateway.hears(agent, CHECK_IN)
    if gateway.state.phase is Phase.GATHERING:
        gateway.waits()
    assert gateway.state.phase is Phase.TRAINING
    return gateway


def merging() -> Gateway:
    gateway = training()
    for agent in ("pi-0", "pi-1", "pi-2"):
        gateway.takes_update_of(agent)
    assert gateway.state.phase is Phase.MERGING
    return gateway


def done() -> Gateway:
    gateway = Gateway(replace(PLAN, rounds=1))
    gateway.gets(Connected(), *(said(agent, CHECK_IN) for agent in ("pi-0", "pi-1", "pi-2")))
    for agent in ("pi-0", "pi-1", "pi-2"):
        gateway.takes_update_of(agent)
    gateway.gets(Merged(model_of(1)))
    assert gateway.state.phase is Phase.DONE
    return gateway


def gateway_in(phase: Phase) -> Gateway:
    makers = {Phase.GATHERING: gathering, Phase.TRAINING: training, Phase.MERGING: merging, Phase.DONE: done}
    return makers[phase]()


def sent_to(agent: str, actions: tuple[Any, ...], kind: type) -> list[Any]:
    """The messages of one kind that `actions` send to one agent."""
    return [
        action.message
        for action in actions
        if isinstance(action, Send) and action.agent == agent and isinstance(action.message, kind)
    ]
