"""Which version of the model each agent can go on from, as it says itself, and what it may fetch therefore."""

from __future__ import annotations

import msgspec

from aggregator.cohort import Member
from aggregator.round_state import LedAstray, RoundState, Said, Step
from fedprune.system.values import replace
from fedprune.wire.messages import CheckIn

MOST_BASES = 2
"""Earlier versions that a member may name in a round: what it held when it was assigned, and what it decoded since for
the round before. Who names more is sent the whole model: else one agent could fetch all replays there are."""


def base_of(state: RoundState, check_in: CheckIn) -> int:
    """The version of the model that an agent can go on from, -1 for none: a random start everybody has who has the
    task. It said so itself, and only once a digest was right; one that lies trains another model, or none."""
    if check_in.wants_whole:
        return -1
    if check_in.run == state.plan.run and 0 <= check_in.version <= state.round:
        return check_in.version
    return 0 if state.plan.seeded else -1


def with_base(member: Member, base: int, round_: int) -> Member:
    """A member that says what it can go on from."""
    if not 0 <= base < round_:  # nothing leads from there
        return msgspec.structs.replace(member, base=base)
    bases = member.bases if base in member.bases else (*member.bases, base)
    if len(bases) > MOST_BASES:
        return msgspec.structs.replace(member, base=-1)
    return msgspec.structs.replace(member, base=base, bases=bases)


def note_base(state: RoundState, said: Said) -> Step:
    """Note what a member can go on from by now, and whether it knows the terms; after a restart nobody knows, since the
    book does not say it.

    A member whose model led elsewhere says so until it holds the whole one, and it happened once: when it turns from
    something to go on from to nothing.
    """
    agent, check_in = said.agent, said.message
    assert isinstance(check_in, CheckIn)
    member, base = state.cohort.get(agent), base_of(state, check_in)
    if member is None:
        return state, ()
    member = msgspec.structs.replace(member, knows_terms=check_in.terms == state.plan.incarnation)
    if base == member.base:
        return replace(state, cohort=state.cohort.put(agent, member)), ()
    state = replace(state, cohort=state.cohort.put(agent, with_base(member, base, state.round)))
    return state, (LedAstray(agent),) if check_in.wants_whole else ()


def may_fetch(state: RoundState, member: Member, digest: bytes) -> bool:
    """True for the task and the models that are served, and for replays from what the member said that it holds."""
    if digest not in state.serving.contents:
        return False
    replays = (model.replays.get(base) for model in state.served for base in member.bases)
    contents = (state.plan.task, *(model.content for model in state.served), *replays)
    return any(content is not None and content.digest == digest for content in contents)
