"""Agents in a phase, and what the gateway may answer them."""

from __future__ import annotations

from edge_agent.agent_state import AgentState, Connected, Phase, TrainingDone
from fedprune.wire.messages import Reason, Rejected
from tests.drivers import Agent
from tests.samples import MODEL_BLOB, TASK_BLOB, UPDATE, assignment, chunks, submit


def agent_in(phase: Phase, state: AgentState | None = None) -> Agent:
    """A connected agent, of its first training if it got so far."""
    agent = Agent(state)
    agent.gets(Connected())
    if phase is not Phase.IDLE:
        agent.gets(assignment())
    if phase in (Phase.TRAINING, Phase.SUBMITTING):
        agent.gets(*chunks(TASK_BLOB), *chunks(MODEL_BLOB))
    if phase is Phase.SUBMITTING:
        agent.gets(TrainingDone(1, submit()))
    assert agent.state.phase is phase
    return agent


def refused(reason: Reason) -> Rejected:
    return Rejected(reason=reason, digest=UPDATE.digest, retry_after=50.0, detail="not finite")


def no_work() -> Rejected:
    return Rejected(reason=Reason.NOT_SELECTED, retry_after=30.0)
