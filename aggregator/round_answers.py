"""The messages with which the rounds' state machine answers."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

from aggregator.round_state import Phase, Plan, RoundState
from fedprune.wire.messages import (
    WEIGHTS_DIGEST_BYTES,
    Accepted,
    Assignment,
    CheckIn,
    Manifest,
    Reason,
    Rejected,
    Submit,
    Terms,
    tag_of,
)

RETRY_AFTER_S = 30.0
"""Seconds after which an agent without work is to check in again. Work comes unasked; this is for lost messages."""

TICKETS_PER_S = 500
"""Tickets that are given in a second. More names are not answered, so that inventing them crowds nobody out of the
link; an honest agent checks in again."""

_TICKET_BYTES = 8


def manifest(state: RoundState) -> Manifest:
    plan = state.plan
    return Manifest(run=plan.run, incarnation=plan.incarnation, round=state.round, done=state.phase is Phase.DONE)


def assignment(state: RoundState, agent: str, now: float, *, inline: bool = False) -> Assignment:
    """The round's work for a member of the cohort, with the fewest bytes that lead to the model from what it holds;
    these are in it if they are few and `inline` says so: it may be lost since they are too many for the broker."""
    plan, member = state.plan, state.cohort.members[agent]
    base = member.base
    is_short = base == state.round or base in state.model.replays
    content = state.model.replays.get(base) if is_short else state.model.content
    blob = None if content is None or not inline else state.model.small.get(content.digest)
    owed = state.owed.get(agent)
    return Assignment(
        run=plan.run,
        incarnation=plan.incarnation,
        round=state.round,
        weights_digest=_beginning(state.model.weights_digest),
        seconds_left=0 if state.deadline is None else math.ceil(max(0.0, state.deadline - now)),
        base=base if is_short else -1,
        model=content if blob is None else blob,
        accepted=None if owed is None else tag_of(owed),
        left_out=state.left_out.get(agent),
        terms=None if member.knows_terms else terms(plan),
    )


@lru_cache(maxsize=1)
def _beginning(weights_digest: bytes) -> bytes:
    """One object for all assignments of a round, of which there may be thousands."""
    return weights_digest[:WEIGHTS_DIGEST_BYTES]


def terms(plan: Plan) -> Terms:
    return Terms(
        task=plan.task,
        seed=plan.seed,
        clock_steps=plan.clock_steps_per_round,
        codec=plan.codec,
        model_codec=plan.model_codec,
        hold_out=plan.hold_out,
        statement=plan.statement,
    )


def accepted(round_: int, digest: bytes) -> Accepted:
    return Accepted(round=round_, update=tag_of(digest))


def no_work() -> Rejected:
    return Rejected(reason=Reason.NOT_SELECTED, retry_after=RETRY_AFTER_S)


def finished() -> Rejected:
    return Rejected(reason=Reason.FINISHED, retry_after=RETRY_AFTER_S)


def reject(submit: Submit, reason: Reason, detail: str) -> Rejected:
    return Rejected(reason=reason, detail=detail[:1000], digest=submit.content.digest)


def of_another_run(submit: Submit) -> Rejected:
    """Nothing is wrong with the agent: it need not wait before it checks in for this run."""
    return Rejected(reason=Reason.INVALID, detail="of another run", digest=submit.content.digest, retry_after=0.0)


def cannot_wait(state: RoundState, agent: str, check_in: CheckIn) -> Rejected | None:
    """The reason why an agent that checks in may not wait for work, or None.

    One that shows no ticket, or an old one, is given its ticket and nothing is remembered of it: whoever invents names
    hears no answers. The ticket is a keyed hash of the name (BLAKE2b, RFC 7693), so that none has to be kept.
    """
    fleet = state.plan.fleet
    if fleet and agent not in fleet:
        return Rejected(reason=Reason.NOT_SELECTED, detail="rounds.fleet does not name this agent", retry_after=3600.0)
    if check_in.examples < 1:
        return Rejected(reason=Reason.NOT_SELECTED, detail="it holds no examples", retry_after=RETRY_AFTER_S)
    due = ticket(state.plan.ticket_key, agent)
    if check_in.ticket != due:
        return Rejected(reason=Reason.NOT_SELECTED, retry_after=RETRY_AFTER_S, ticket=due)
    return None


def ticket(key: bytes, agent: str) -> bytes:
    return hashlib.blake2b(agent.encode(), key=key, digest_size=_TICKET_BYTES).digest()


def is_current(state: RoundState, submit: Submit) -> bool:
    return submit.run == state.plan.run and submit.round == state.round
