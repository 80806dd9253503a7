"""The federation's rounds as a pure state machine: (state, event, now) -> (state, actions).

The ways between phases, and the events that take them (drawn from the table, see `fedprune.wire.transitions.chart`)::

    GATHERING -> TRAINING  Ticked, CheckIn, RoundGiven
    GATHERING -> DONE      RoundGiven
    TRAINING -> MERGING    Connected, Ticked, Submit, Failed, UpdateStored, UpdateRefused, HistoryDiffers
    TRAINING -> GATHERING  RoundGiven
    TRAINING -> DONE       RoundGiven
    MERGING -> GATHERING   Merged, RoundGiven
    MERGING -> TRAINING    Merged, RoundGiven
    MERGING -> DONE        Merged, RoundGiven

An update is accepted once the shell has made it durable (`UpdateStored`). Nothing merges while an update is on its
way to the disk, so what was accepted is merged. Every message may come twice, late and in any order. Messages
from agents that make no sense raise `ProtocolError` and change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from typing import Any

import msgspec

from aggregator.cohort import Member, Standing
from aggregator.presence import Waiting
from aggregator.round_answers import TICKETS_PER_S, assignment, cannot_wait, finished, manifest, no_work
from aggregator.round_bases import base_of, may_fetch, note_base
from aggregator.round_course import begin_given, close, give_up, go_on, merge_if_complete, next_round, open_round, serve
from aggregator.round_places import (
    ANSWER_S,
    deadline_missed,
    draft,
    is_hopeless,
    named,
    quorum_out_of_reach,
    replace_silent,
)
from aggregator.round_state import (
    Action,
    Connected,
    Event,
    HistoryDiffers,
    LinkDrained,
    Merged,
    Phase,
    Publish,
    RoundGiven,
    RoundState,
    Said,
    Send,
    Step,
    Ticked,
    UpdateRefused,
    UpdateStored,
    Warn,
    WarnNobody,
)
from aggregator.round_uploads import (
    accept,
    acknowledge,
    answer_outside_round,
    ask_for_shared,
    drop_upload,
    excuse_upload,
    refuse,
    take_chunk,
    take_submit,
)
from fedprune.system.values import replace
from fedprune.wire.messages import UPLINK, Begun, CheckIn, Chunk, Failed, Need, Submit
from fedprune.wire.silence import is_worth_saying
from fedprune.wire.transitions import Row, check_complete, row, transition


def step(state: RoundState, event: Event, now: float) -> Step:
    """One transition. `now` is monotonic seconds."""
    kind = type(event.message) if isinstance(event, Said) else type(event)
    return transition(TABLE, state, kind, event, now)


def wake_at(state: RoundState) -> float | None:
    """The time at which a `Ticked` is due; None if never."""
    alarms = (state.deadline, state.answer_by, state.acknowledge_at, state.serving.due_at)
    return min((alarm for alarm in alarms if alarm is not None), default=None)


# The link, and time


def _connect_gathering(state: RoundState, _: Connected, now: float) -> Step:
    if state.deadline is None:
        state = replace(state, deadline=now + state.gather_seconds, arrivals=state.arrivals.begun(now))
    state, trouble = _reconnect(state)
    return state, (Publish(manifest(state)), *trouble)


def _connect_training(state: RoundState, _: Connected, now: float) -> Step:
    deadline = now + state.seconds if state.deadline is None else state.deadline
    answer_by = now + ANSWER_S if state.answer_by is None else state.answer_by
    state, trouble = _reconnect(replace(state, deadline=deadline, answer_by=answer_by))
    state, actions = merge_if_complete(state)
    return state, (Publish(manifest(state)), *trouble, *actions)


def _announce(state: RoundState, _: Connected, __: float) -> Step:
    state, trouble = _reconnect(state)
    return state, (Publish(manifest(state)), *trouble)


def _reconnect(state: RoundState) -> Step:
    state = reduce(excuse_upload, list(state.uploads), state)
    serving, trouble = state.serving.reconnected()
    return replace(state, serving=serving), (Warn(trouble),) if trouble else ()


def _drain(state: RoundState, _: LinkDrained, now: float) -> Step:
    return serve(replace(state, serving=state.serving.drained()), now)


def _tick_gathering(state: RoundState, _: Ticked, now: float) -> Step:
    state, served = _keep_up(state, now)
    if state.deadline is None or now < state.deadline:
        return state, served
    if len(state.presence) < state.plan.quorum:
        state, warnings = _wait_on(state, now)
        return state, served + warnings
    state, opened = open_round(state, now)
    absent = sorted(state.plan.fleet - set(state.presence) - set(state.cohort.members))
    if absent:
        opened += (Warn(f"round {state.round + 1} opened without {named(absent)}: another run may differ"),)
    return state, served + opened


def _wait_on(state: RoundState, now: float) -> Step:
    """Wait for agents once more. Where nobody comes at all people are told, ever more seldom."""
    state = replace(state, deadline=now + state.gather_seconds)
    if len(state.presence):
        return replace(state, nobody=0, strangers=0), ()
    state = replace(state, nobody=state.nobody + 1)
    warning = WarnNobody(state.nobody * state.gather_seconds, state.strangers)
    return state, (warning,) if is_worth_saying(state.nobody) else ()


def _tick_training(state: RoundState, _: Ticked, now: float) -> Step:
    state, served = _keep_up(state, now)
    if state.deadline is not None and now >= state.deadline:
        state, actions = _pass_deadline(state, now)
        return state, served + actions
    if state.answer_by is not None and now >= state.answer_by:
        state, actions = replace_silent(state, now)
        return state, served + actions
    return state, served


def _tick(state: RoundState, _: Ticked, now: float) -> Step:
    return _keep_up(state, now)


def _keep_up(state: RoundState, now: float) -> Step:
    """Send the chunks that are due, and the acceptances that have waited for the next round long enough."""
    state, served = serve(replace(state, presence=state.presence.at(now)), now)
    if state.acknowledge_at is None or now < state.acknowledge_at:
        return state, served
    state, answers = acknowledge(state)
    return state, served + answers


def _pass_deadline(state: RoundState, now: float) -> Step:
    """Merge with a quorum. Without one the round stays open: silent agents' places go to others, and stay open until
    they are filled; who failed may try again."""
    cohort, plan = state.cohort, state.plan
    if cohort.accepted >= plan.quorum:
        return _stop_waiting(_note_misses(state, now), now)
    if is_hopeless(state):
        return give_up(state)
    warnings = quorum_out_of_reach(state) or deadline_missed(state)
    state = _note_misses(state, now)
    cohort = cohort.move(Standing.OVERDUE, Standing.ASSIGNED, Standing.SILENT)
    cohort = cohort.move(Standing.FORGIVEN, Standing.FAILED)
    for agent in cohort.agents(Standing.OVERDUE):
        state = drop_upload(state, agent)
    # The new deadline is for those too who get places now.
    state, actions = draft(replace(state, cohort=cohort, answer_by=None, deadline=None), state.presence, now)
    if state.deadline is None:
        state = replace(state, deadline=now + state.seconds)
    return state, (*warnings, *actions)


def _stop_waiting(state: RoundState, now: float) -> Step:
    """Merge; or, while an update is on its way to the disk, as soon as it is there: a worker may take a while, and the
    deadline must not pass again and again meanwhile."""
    if not state.cohort.count(Standing.STORING):
        return close(state)
    cohort = state.cohort.move(Standing.OVERDUE, Standing.ASSIGNED, Standing.SILENT)
    return replace(state, cohort=cohort, answer_by=None, deadline=now + ANSWER_S), ()


def _note_misses(state: RoundState, now: float) -> RoundState:
    """A deadline passed: remember who did not make it, unless it was assigned by a process before this one."""
    times = state.response_times
    for agent in state.cohort.agents(Standing.ASSIGNED, Standing.SILENT):
        assigned_at = state.cohort.members[agent].assigned_at
        times = times.with_miss(agent, now - assigned_at) if math.isfinite(assigned_at) else times
    return replace(state, response_times=times)


# Messages from agents


def _greet_gathering(state: RoundState, said: Said, now: float) -> Step:
    is_new = said.agent not in state.presence.at(now)
    state, refusal = _welcome(state, said, now)
    if refusal is not None:
        return state, refusal
    if is_new:
        state = replace(state, arrivals=state.arrivals.came(now))
    if len(state.presence) >= (len(state.plan.fleet) or state.plan.cohort):
        return open_round(state, now)
    return state, (Send(said.agent, no_work()),)


def _greet_training(state: RoundState, said: Said, now: float) -> Step:
    agent, member = said.agent, state.cohort.get(said.agent)
    if member is not None and member.has_work:
        state, astray = note_base(excuse_upload(state, agent), said)
        return state, (*astray, Send(agent, assignment(state, agent, now)))  # it keeps its place by asking for its work
    if member is not None and member.standing is Standing.STORING:
        return state, ()
    state, refusal = _welcome(state, said, now)
    if refusal is not None:
        return state, refusal
    state, actions = draft(state, (agent,), now)
    return state, actions or (Send(agent, no_work()),)


def _greet_merging(state: RoundState, said: Said, now: float) -> Step:
    state, refusal = _welcome(state, said, now)
    if refusal is not None:
        return state, refusal
    state, astray = note_base(state, said)
    return state, (*astray, Send(said.agent, no_work()))


def _greet_done(state: RoundState, said: Said, _: float) -> Step:
    return state, (Send(said.agent, finished()),)


def _welcome(state: RoundState, said: Said, now: float) -> tuple[RoundState, tuple[Send, ...] | None]:
    """Remember that an agent waits, or refuse it: with an answer, unless too many strangers are given tickets."""
    check_in = said.message
    assert isinstance(check_in, CheckIn)
    refusal = cannot_wait(state, said.agent, check_in)
    if refusal is None:
        knows_terms = check_in.terms == state.plan.incarnation
        waiting = Waiting(check_in.examples, base_of(state, check_in), knows_terms)
        return replace(state, presence=state.presence.at(now).heard(said.agent, waiting)), None
    if refusal.ticket:
        if now - state.tickets_since >= 1.0:
            state = replace(state, tickets_since=now, tickets_given=0)
        if state.tickets_given >= TICKETS_PER_S:
            return state, ()
        state = replace(state, tickets_given=state.tickets_given + 1, strangers=state.strangers + 1)
    return state, (Send(said.agent, refusal),)


def _request(state: RoundState, said: Said, now: float) -> Step:
    """Note which chunks an assigned agent lacks of what it may fetch. Nobody else is served."""
    agent, need, member = said.agent, said.message, state.cohort.get(said.agent)
    assert isinstance(need, Need)
    if member is None or not member.has_work or not may_fetch(state, member, need.digest):
        return state, (Send(agent, no_work()),)
    waiting = state.cohort.count(Standing.ASSIGNED, Standing.SILENT)
    serving = state.serving.ask(agent, need, now, expected=waiting)
    return serve(_keep_place(replace(state, serving=serving), agent, member), now)


def _note_begun(state: RoundState, said: Said, _: float) -> Step:
    agent, begun, member = said.agent, said.message, state.cohort.get(said.agent)
    assert isinstance(begun, Begun)
    if begun.round != state.round:  # it was overtaken
        return state, ()
    if member is None or not member.has_work:
        return state, (Send(agent, no_work()),)
    return _keep_place(state, agent, member), ()


def _keep_place(state: RoundState, agent: str, member: Member) -> RoundState:
    """A member that was heard keeps its place, or gets it back if it is still free."""
    standing = Standing.ASSIGNED if state.room > 0 else member.standing
    member = msgspec.structs.replace(member, standing=standing, answered=True)
    return replace(state, cohort=state.cohort.put(agent, member))


def _send_away(state: RoundState, said: Said, _: float) -> Step:
    return state, (Send(said.agent, no_work()),)


def _submit(state: RoundState, said: Said, now: float) -> Step:
    refused = state.refused
    state, actions = take_submit(state, said, now)
    if state.refused is refused:
        return state, actions
    state, more = go_on(state, now)  # an agent that was refused is waited for no longer
    return state, actions + more


def _excuse(state: RoundState, said: Said, now: float) -> Step:
    """An agent cannot do the round: do not wait for it."""
    agent, failed, member = said.agent, said.message, state.cohort.get(said.agent)
    assert isinstance(failed, Failed)
    if failed.run != state.plan.run or failed.round != state.round or member is None or not member.has_work:
        return state, ()
    member = msgspec.structs.replace(member, standing=Standing.FAILED, why=failed.why, rests=failed.rests)
    state = replace(drop_upload(state, agent), response_times=state.response_times.with_failure())
    presence = state.presence.without(agent)
    return go_on(replace(state, cohort=state.cohort.put(agent, member), presence=presence), now)


def _ignore(state: RoundState, _: Any, __: float) -> Step:
    return state, ()


# Updates on their way to the disk


def _accept(state: RoundState, event: UpdateStored, now: float) -> Step:
    return merge_if_complete(accept(state, event, now))


def _refuse(state: RoundState, event: UpdateRefused, now: float) -> Step:
    state, actions = refuse(state, event)
    state, more = go_on(state, now)
    return state, actions + more


def _ask_for_shared(state: RoundState, event: HistoryDiffers, _: float) -> Step:
    state, asked = ask_for_shared(state, event)
    state, more = merge_if_complete(state)
    return state, asked + more


TABLE: Mapping[tuple[Phase, type], Row[RoundState, Action]] = {
    (Phase.GATHERING, Connected): row(_connect_gathering),
    (Phase.GATHERING, Ticked): row(_tick_gathering, Phase.TRAINING),
    (Phase.GATHERING, LinkDrained): row(_drain),
    (Phase.GATHERING, CheckIn): row(_greet_gathering, Phase.TRAINING),
    (Phase.GATHERING, Need): row(_send_away),
    (Phase.GATHERING, Begun): row(_send_away),
    (Phase.GATHERING, Submit): row(answer_outside_round),
    (Phase.GATHERING, Chunk): row(_ignore),
    (Phase.GATHERING, Failed): row(_ignore),
    (Phase.GATHERING, RoundGiven): row(begin_given, Phase.TRAINING, Phase.DONE),
    (Phase.TRAINING, Connected): row(_connect_training, Phase.MERGING),
    (Phase.TRAINING, Ticked): row(_tick_training, Phase.MERGING),
    (Phase.TRAINING, LinkDrained): row(_drain),
    (Phase.TRAINING, CheckIn): row(_greet_training),
    (Phase.TRAINING, Need): row(_request),
    (Phase.TRAINING, Begun): row(_note_begun),
    (Phase.TRAINING, Submit): row(_submit, Phase.MERGING),
    (Phase.TRAINING, Chunk): row(take_chunk),
    (Phase.TRAINING, Failed): row(_excuse, Phase.MERGING),
    (Phase.TRAINING, UpdateStored): row(_accept, Phase.MERGING),
    (Phase.TRAINING, UpdateRefused): row(_refuse, Phase.MERGING),
    (Phase.TRAINING, RoundGiven): row(begin_given, Phase.GATHERING, Phase.DONE),
    (Phase.TRAINING, HistoryDiffers): row(_ask_for_shared, Phase.MERGING),
    (Phase.MERGING, Connected): row(_announce),
    (Phase.MERGING, Ticked): row(_tick),
    (Phase.MERGING, LinkDrained): row(_drain),
    (Phase.MERGING, CheckIn): row(_greet_merging),
    (Phase.MERGING, Need): row(_send_away),
    (Phase.MERGING, Begun): row(_send_away),
    (Phase.MERGING, Submit): row(answer_outside_round),
    (Phase.MERGING, Chunk): row(_ignore),
    (Phase.MERGING, Failed): row(_ignore),
    (Phase.MERGING, Merged): row(next_round, Phase.GATHERING, Phase.TRAINING, Phase.DONE),
    (Phase.MERGING, RoundGiven): row(begin_given, Phase.GATHERING, Phase.TRAINING, Phase.DONE),
    (Phase.DONE, Connected): row(_announce),
    (Phase.DONE, Ticked): row(_tick),
    (Phase.DONE, LinkDrained): row(_drain),
    (Phase.DONE, CheckIn): row(_greet_done),
    (Phase.DONE, Need): row(_send_away),
    (Phase.DONE, Begun): row(_send_away),
    (Phase.DONE, Submit): row(answer_outside_round),
    (Phase.DONE, Chunk): row(_ignore),
    (Phase.DONE, Failed): row(_ignore),
}

check_complete(TABLE, Phase, (*UPLINK.values(), Connected, Ticked, LinkDrained))
