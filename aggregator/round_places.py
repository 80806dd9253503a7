"""The places in a round's cohort: selecting, drafting, and giving the places of silent agents to others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

import msgspec
from rpds import HashTrieMap

from aggregator.cohort import Member, Standing
from aggregator.round_answers import assignment
from aggregator.round_bases import with_base
from aggregator.round_state import Action, BookCohort, RoundState, Send, Step, Warn
from fedprune.model.randomness import Keyed
from fedprune.system.values import replace

ANSWER_S = 15.0
"""Seconds in which an agent has to ask for its work once it is assigned, or others may have its place."""

MOST_INLINE_TOGETHER = 8 * 2**20
"""Bytes of contents inside the assignments of one step: a link holds twice as many for a broker, and drops the rest.
Members of a larger cohort ask for theirs, and one broadcast serves all."""

MOST_NAMED = 5
"""Agents that a line for people names; the rest are counted."""


def draft(state: RoundState, candidates: Iterable[str], now: float) -> Step:
    """Fill the places that nobody holds. The cohort grows then, but silent agents' updates are still welcome.

    Agents whose update was accepted in an earlier round come first: names that somebody invents send none, and else
    thousands of them would take each open place in turn, and be waited for.
    """
    if state.room <= 0:
        return state, ()
    proven, others = list[str](), list[str]()
    for agent in candidates:
        (proven if agent in state.last_accepted else others).append(agent)
    state, first = assign(state, select(state, proven), now)
    state, rest = assign(state, select(state, others), now) if state.room > 0 else (state, ())
    return state, first + rest


def select(state: RoundState, candidates: Iterable[str]) -> list[str]:
    """As many of the candidates as there is room for, chosen at random, keyed, in order of their names."""
    eligible = sorted(agent for agent in candidates if _may_join(state, agent))
    keyed = Keyed(state.plan.seed, "cohort", state.round, len(state.cohort))
    return sorted(keyed.sample(eligible, min(len(eligible), max(0, state.room))))


def assign(state: RoundState, selected: list[str], now: float) -> Step:
    if not selected:
        return state, ()
    examples = {agent: state.presence[agent].examples for agent in selected}
    cohort, presence = state.cohort, state.presence
    for agent in selected:
        former, waiting = cohort.get(agent), presence[agent]
        member = Member(Standing.ASSIGNED, waiting.examples, now, knows_terms=waiting.knows_terms)
        if former is not None:
            member = msgspec.structs.replace(member, refusals=former.refusals, why=former.why, bases=former.bases)
        cohort = cohort.put(agent, with_base(member, waiting.base, state.round))
        presence = presence.without(agent)
    answer_by = now + ANSWER_S if state.answer_by is None else state.answer_by
    state = replace(state, cohort=cohort, presence=presence, answer_by=answer_by)
    if state.deadline is None:
        state = replace(state, deadline=now + state.seconds)
    inline = len(selected) * max(map(len, state.model.small.values()), default=0) <= MOST_INLINE_TOGETHER
    sent = [Send(agent, assignment(state, agent, now, inline=inline)) for agent in selected]
    state = replace(state, owed=reduce(HashTrieMap.discard, selected, state.owed))
    return state, (BookCohort(state.round, examples, state.cap), *sent)


def replace_silent(state: RoundState, now: float) -> Step:
    """Open the places of those who have not asked for their work. A named fleet is waited for: cohorts must not vary.

    It walks over the cohort, so it is called once in `ANSWER_S`: who was assigned since has until the next time.
    """
    cohort, is_due_again = state.cohort, False
    if state.plan.fleet:
        return replace(state, answer_by=None), ()
    for agent in state.cohort.agents(Standing.ASSIGNED):
        member = cohort.members[agent]
        if member.answered:
            continue
        if member.assigned_at <= now - ANSWER_S:
            cohort = cohort.put(agent, msgspec.structs.replace(member, standing=Standing.SILENT))
        else:
            is_due_again = True
    answer_by = now + ANSWER_S if is_due_again else None
    return draft(replace(state, cohort=cohort, answer_by=answer_by), state.presence, now)


def quorum_out_of_reach(state: RoundState) -> tuple[Action, ...]:
    """Say so if the agents that are known cannot make a quorum, and why not."""
    cohort, plan = state.cohort, state.plan
    out = list(cohort.agents(Standing.OUT))
    newcomers = sum(agent not in cohort for agent in state.presence)
    possible = len(cohort) - len(out) + newcomers
    if possible >= plan.quorum:
        return ()
    reasons = f"; sitting it out: {named(out)} ({cohort.members[out[0]].why})" if out else ""
    return (
        Warn(
            f"round {state.round + 1}: the quorum is out of reach: it needs {plan.quorum} updates, has "
            f"{cohort.accepted}; agents known that could give one: {possible}{reasons}; start more agents, or "
            "mend those and start the aggregator again"
        ),
    )


def deadline_missed(state: RoundState) -> tuple[Action, ...]:
    """Name those of whom no update came, if anybody: without a quorum the round stays open."""
    cohort, plan = state.cohort, state.plan
    missing = list(cohort.agents(Standing.ASSIGNED, Standing.SILENT, Standing.OVERDUE))
    if not missing:
        return ()
    return (
        Warn(
            f"round {state.round + 1}: at the deadline it has {cohort.accepted} of the {plan.quorum} updates that it "
            f"needs, and stays open; nothing came from {named(missing)}"
        ),
    )


def is_hopeless(state: RoundState) -> bool:
    """As many agents as a cohort has have failed, and none has succeeded, nor may as soon as its update is stored.
    Those whose devices rest will come back."""
    cohort, most = state.cohort, state.plan.cohort
    may_succeed = cohort.count(Standing.ACCEPTED, Standing.STORING)
    may_be = not may_succeed and cohort.count(Standing.FAILED, Standing.OUT) >= most
    return may_be and cohort.failures >= most


def nobody_left(state: RoundState, now: float) -> Warn:
    """The line for people when no member is left whose update could come, and how long that stays so."""
    wait = 0.0 if state.deadline is None else max(0.0, state.deadline - now)
    return Warn(
        f"round {state.round + 1}: nobody is left whose update could come; it has {state.cohort.accepted} of the "
        f"{state.plan.quorum} that it needs. Others may join; those who failed may try again in {wait:.0f} s"
    )


def named(agents: Sequence[str], count: int | None = None) -> str:
    """Some names for people, and how many more there are of the `count` (all of `agents` if not said)."""
    others = (len(agents) if count is None else count) - MOST_NAMED
    more = f" and {others} more" if others > 0 else ""
    return ", ".join(agents[:MOST_NAMED]) + more


def _may_join(state: RoundState, agent: str) -> bool:
    member = state.cohort.get(agent)
    return member is None or member.standing is Standing.FORGIVEN
