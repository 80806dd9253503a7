"""The course of a round: how it is opened, when it is complete, and what becomes of it once it is merged."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import reduce

from rpds import HashTrieMap

from aggregator.cohort import Cohort, Standing
from aggregator.round_answers import manifest
from aggregator.round_places import assign, draft, is_hopeless, nobody_left, select
from aggregator.round_state import Action, GiveUp, Merge, Merged, Model, Phase, Publish, RoundGiven, RoundState, Step
from aggregator.round_uploads import acknowledge, drop_upload
from fedprune.system.values import replace
from fedprune.wire.messages import LeftOut
from fedprune.wire.serving import Serving

SERVED_MODELS = 2
"""Versions of the model that are offered, the newest ones; members of the cohort may ask for each."""


def open_round(state: RoundState, now: float) -> Step:
    """Select the cohort and assign it. Its example counts set the cap on what one update may weigh: the lower median,
    since of two agents one that lies would set any other."""
    spares = 0 if state.plan.fleet else state.response_times.spares(state.plan.cohort)
    arrivals = state.arrivals.ended()
    state = replace(state, phase=Phase.TRAINING, deadline=None, nobody=0, strangers=0, spares=spares, arrivals=arrivals)
    selected = select(state, state.presence)
    single = [agent for agent in selected if agent not in state.plan.sub_gateways]
    median = statistics.median_low(state.presence[agent].examples for agent in single or selected)
    state = replace(state, cap=max(1, int(state.plan.examples_cap * median)))
    return assign(state, selected, now)


def go_on(state: RoundState, now: float) -> Step:
    """A member fell out. Once nobody is left whose update could come, others take the places, or the round is given
    up, or people are told how long nothing will happen."""
    state, actions = merge_if_complete(state)
    cohort = state.cohort
    if state.phase is not Phase.TRAINING or cohort.awaited or cohort.count(Standing.OVERDUE):
        return state, actions
    state = replace(state, presence=state.presence.at(now))
    state, drafted = draft(state, state.presence, now)
    if drafted:
        return state, actions + drafted
    if is_hopeless(state):
        state, given_up = give_up(state)
        return state, (*actions, *given_up)
    return state, (*actions, nobody_left(state, now))


def merge_if_complete(state: RoundState) -> Step:
    """Merge once the cohort is full, or nobody is awaited and the quorum is reached."""
    plan, cohort = state.plan, state.cohort
    is_complete = cohort.accepted >= plan.cohort or (cohort.accepted >= plan.quorum and not cohort.awaited)
    return close(state) if is_complete else (state, ())


def close(state: RoundState) -> Step:
    """Take no more updates; merge as soon as none is on its way to the disk."""
    if state.cohort.count(Standing.STORING):
        return state, ()
    return _closed(state), (Merge(state.round),)


def give_up(state: RoundState) -> Step:
    """Take no more updates, of which there are none: that of a sub-gateway waits then for the parent."""
    return _closed(state), (GiveUp(state.cohort.failures),)


def next_round(state: RoundState, merged: Merged, now: float) -> Step:
    """Go on with the round after one that is merged."""
    is_last = state.round + 1 >= state.plan.rounds or merged.is_last
    return _begin_round(state, state.round + 1, merged.model, merged.left_out, now, is_last=is_last)


def begin_given(state: RoundState, given: RoundGiven, now: float) -> Step:
    """Go on with the round that the parent gives."""
    for agent in list(state.uploads):
        state = drop_upload(state, agent)
    is_last, model = given.model is None, given.model or state.model
    state = replace(state, most_seconds=given.seconds, answer_by=None)
    return _begin_round(state, given.round, model, given.left_out, now, is_last=is_last)


def _begin_round(
    state: RoundState, round_: int, model: Model, without: Mapping[str, str], now: float, *, is_last: bool
) -> Step:
    """Announce the next round, and open it at once with those who wait; who has no work in it is told at least that its
    update was accepted. The merge of the round before does `without` some."""
    last_accepted = state.last_accepted
    for agent in state.cohort.agents(Standing.ACCEPTED):
        last_accepted = last_accepted.insert(agent, state.cohort.members[agent].digest)
    left_out = state.left_out
    for agent, why in without.items():
        left_out = left_out.insert(agent, LeftOut(round=state.round, why=why))
    served = state.served if model == state.served[-1] else (*state.served, model)[-SERVED_MODELS:]
    serving = reduce(Serving.offer, model.contents, state.serving)
    still = {content for model in served for content in model.contents}
    for content in {content for model in state.served for content in model.contents} - still:
        serving = serving.withdraw(content.digest)
    state = replace(
        state,
        round=round_,
        model=model,
        phase=Phase.GATHERING,
        cohort=Cohort(),
        cap=0,
        spares=0,
        came=HashTrieMap(),
        last_accepted=last_accepted,
        left_out=left_out,
        presence=state.presence.at(now),
        serving=serving,
        served=served,
        arrivals=state.arrivals.begun(now),
    )
    state = replace(state, deadline=now + state.gather_seconds)
    opened: tuple[Action, ...] = ()
    if is_last:
        state = replace(state, phase=Phase.DONE, deadline=None)
    elif len(state.presence) >= (len(state.plan.fleet) or state.plan.cohort):
        state, opened = open_round(state, now)
    state, answers = acknowledge(state)
    return state, (Publish(manifest(state)), *opened, *answers)


def _closed(state: RoundState) -> RoundState:
    for agent in list(state.uploads):
        state = drop_upload(state, agent)
    return replace(state, phase=Phase.MERGING, answer_by=None, deadline=None)


def serve(state: RoundState, now: float) -> Step:
    serving, chunks = state.serving.serve(now)
    return replace(state, serving=serving), chunks
