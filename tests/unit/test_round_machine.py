"""The aggregator's state machine: how rounds open, fill, end and resume, and that no message can upset them."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from aggregator.cohort import Standing
from aggregator.presence import GENERATION_S, Presence, Waiting
from aggregator.round_machine import step, wake_at
from aggregator.round_state import (
    BookCohort,
    Connected,
    Event,
    GiveUp,
    HistoryDiffers,
    LinkDrained,
    Merge,
    Merged,
    Model,
    Phase,
    Publish,
    RoundGiven,
    Said,
    Send,
    Ticked,
    UpdateRefused,
    UpdateStored,
    Warn,
    resume,
)
from fedprune.errors import ProtocolError
from fedprune.wire.messages import (
    CHUNK_BYTES,
    MAX_INLINE_BYTES,
    WEIGHTS_DIGEST_BYTES,
    Accepted,
    Assignment,
    CheckIn,
    Content,
    Failed,
    Need,
    Reason,
    Rejected,
    encode,
)
from fedprune.wire.outbox import MAX_QUEUED_BYTES
from fedprune.wire.serving import SendChunk
from fedprune.wire.transfer import content_of
from fedprune.wire.transitions import UnlistedEventError
from tests.drivers import (
    AGENTS,
    FIRST,
    PLAN,
    Gateway,
    done,
    gateway_in,
    gathering,
    merging,
    model_of,
    need,
    said,
    sent_to,
    submission,
    training,
    update_of,
)
from tests.samples import MODEL, RUN, TASK, UPDATE, chunks, digest, submit

CHECK_IN = CheckIn(examples=10)


EVENTS: dict[type, Event] = {
    Connected: Connected(),
    Said: said("pi-0", CHECK_IN),
    LinkDrained: LinkDrained(),
    UpdateStored: UpdateStored("pi-0"),
    UpdateRefused: UpdateRefused("pi-0", "malformed"),
    HistoryDiffers: HistoryDiffers("pi-0"),
    Merged: Merged(model_of(1)),
    RoundGiven: RoundGiven(3, model_of(3), 60.0),
    Ticked: Ticked(),
}
OF_THE_SHELL = {
    UpdateStored: (Phase.TRAINING,),
    UpdateRefused: (Phase.TRAINING,),
    HistoryDiffers: (Phase.TRAINING,),
    Merged: (Phase.MERGING,),
    RoundGiven: (Phase.GATHERING, Phase.TRAINING, Phase.MERGING),
}
"""What the shell reports, and the phases in which it may."""


@pytest.mark.parametrize("kind", get_args(Event), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("phase", Phase)
def test_every_event_is_listed_where_it_can_happen_and_only_there(phase: Phase, kind: type) -> None:
    gateway = gateway_in(phase)
    if phase not in OF_THE_SHELL.get(kind, (phase,)):
        with pytest.raises(UnlistedEventError, match=f"{kind.__name__} in phase {phase}"):
            gateway.gets(EVENTS[kind])
    else:
        if kind in (UpdateStored, UpdateRefused, HistoryDiffers):
            gateway.hears("pi-0", submission("pi-0"), *chunks(update_of("pi-0")))
        gateway.gets(EVENTS[kind])


@pytest.mark.parametrize("phase", Phase)
def test_whoever_starts_or_reconnects_is_told_of_the_round(phase: Phase) -> None:
    (published, *_) = gateway_in(phase).gets(Connected())

    assert isinstance(published, Publish)
    assert published.manifest.done == (phase is Phase.DONE)
    assert published.manifest.incarnation == 1


# Opening a round


def test_a_round_opens_when_the_cohort_is_there() -> None:
    gateway = gathering()

    for agent in ("pi-0", "pi-1"):
        (answer,) = sent_to(agent, gateway.hears(agent, CHECK_IN), Rejected)
        assert answer.reason is Reason.NOT_SELECTED
    actions = gateway.hears("pi-2", CHECK_IN)

    cohort = {"pi-0", "pi-1", "pi-2"}
    assert [type(action) for action in actions] == [BookCohort, Send, Send, Send]
    assert BookCohort(0, dict.fromkeys(sorted(cohort), 10), cap=100) in actions
    assert gateway.standing() == cohort
    (assignment,) = sent_to("pi-1", actions, Assignment)
    assert (assignment.model, assignment.weights_digest, assignment.seconds_left) == (
        MODEL,
        digest("weights")[:WEIGHTS_DIGEST_BYTES],
        100,
    )


def test_a_round_opens_with_a_quorum_after_the_wait() -> None:
    gateway = gathering()

    gateway.hears("pi-0", CHECK_IN)
    gateway.waits()
    assert gateway.state.phase is Phase.GATHERING
    gateway.hears("pi-1", CHECK_IN)
    gateway.waits()

    assert gateway.standing() == {"pi-0", "pi-1"}


def test_the_cohort_is_chosen_by_the_seed_and_no_larger_than_asked_for() -> None:
    cohorts = set()
    for seed in range(20):
        merged = merging().state
        presence = Presence()
        for agent in AGENTS:
            presence = presence.heard(agent, Waiting(10))
        state = replace(merged, plan=replace(PLAN, seed=seed), presence=presence)
        after, _ = step(state, Merged(model_of(1)), 0.0)
        assert len(after.cohort) == PLAN.cohort
        assert step(state, Merged(model_of(1)), 0.0)[0] == after
        cohorts.add(frozenset(after.cohort.members))

    assert len(cohorts) > 3


def test_who_comes_late_fills_a_place_that_is_free() -> None:
    gateway = training("pi-0", "pi-1")

    assert sent_to("pi-2", gateway.hears("pi-2", CHECK_IN), Assignment)
    assert sent_to("pi-3", gateway.hears("pi-3", CHECK_IN), Rejected)
    assert gateway.standing() == {"pi-0", "pi-1", "pi-2"}


def test_an_assigned_agent_that_checks_in_again_is_assigned_again() -> None:
    gateway = training()

    gateway.now = 30.0
    (again,) = sent_to("pi-0", gateway.hears("pi-0", CHECK_IN), Assignment)
    assert (again.round, again.seconds_left) == (0, 70.0)


# Serving content


def test_what_one_agent_lacks_is_sent_to_it_and_what_several_lack_is_broadcast_once() -> None:
    gateway = training()
    gateway.hears("pi-0", need(MODEL), need(TASK))
    gateway.hears("pi-1", need(MODEL))

    assert set(gateway.waits()) == {SendChunk(MODEL, 0, CHUNK_BYTES, None), SendChunk(TASK, 0, CHUNK_BYTES, "pi-0")}
    assert gateway.gets(LinkDrained()) == ()


def test_only_the_cohort_is_served_and_only_with_what_the_round_needs() -> None:
    gateway = training()

    for agent, content in (("pi-4", MODEL), ("pi-0", UPDATE)):
        actions = gateway.hears(agent, need(content))
        assert sent_to(agent, actions, Rejected)
    with pytest.raises(ProtocolError, match="bitmap"):
        gateway.hears("pi-0", Need(digest=MODEL.digest, missing=b"\1" * 1000))
    assert not gateway.state.serving.requests


# Ending a round


def test_a_round_ends_when_all_have_submitted() -> None:
    gateway = training()

    assert Merge(0) not in gateway.takes_update_of("pi-0")
    assert Merge(0) not in gateway.takes_update_of("pi-1")
    assert gateway.takes_update_of("pi-2")[-1] == Merge(0)
    assert gateway.state.phase is Phase.MERGING


def test_at_the_deadline_a_quorum_is_enough() -> None:
    gateway = training()
    gateway.takes_update_of("pi-0")
    gateway.takes_update_of("pi-1")

    assert gateway.passes_deadline()[-1] == Merge(0)


def test_without_a_quorum_the_round_stays_open_and_is_topped_up() -> None:
    gateway = training()
    gateway.takes_update_of("pi-0")
    gateway.hears("pi-3", CHECK_IN)
    gateway.hears("pi-4", CHECK_IN)

    actions = gateway.passes_deadline()

    assert gateway.state.phase is Phase.TRAINING
    assert BookCohort(0, {"pi-3": 10, "pi-4": 10}, cap=15_000) in actions
    assert sent_to("pi-3", actions, Assignment)
    assert sent_to("pi-4", actions, Assignment)
    gateway.takes_update_of("pi-1")
    assert gateway.takes_update_of("pi-3")[-1] == Merge(0), "who is slow is still welcome until the round is merged"


def test_agents_that_fail_are_not_waited_for() -> None:
    gateway = training()
    gateway.takes_update_of("pi-0")
    gateway.takes_update_of("pi-1")

    assert gateway.hears("pi-2", Failed(run=RUN, round=0, why="labels out of range")) == (Merge(0),)


@pytest.mark.parametrize(
    "failed", [Failed(run="another-run", round=0, why=""), Failed(run=RUN, round=1, why="")], ids=["run", "round"]
)
def test_failures_of_other_rounds_are_ignored(failed: Failed) -> None:
    gateway = training()

    assert gateway.hears("pi-2", failed) == ()
    assert "pi-2" in gateway.standing(Standing.ASSIGNED)


def test_where_all_fail_others_who_wait_get_their_places() -> None:
    gateway = training()
    for agent in ("pi-3", "pi-4"):
        assert not sent_to(agent, gateway.hears(agent, CHECK_IN), Assignment)
    for agent in ("pi-0", "pi-1", "pi-2"):
        actions = gateway.hears(agent, Failed(run=RUN, round=0, why="labels out of range"))
        assert not sent_to(agent, gateway.hears(agent, CHECK_IN), Assignment)

    assert all(sent_to(agent, actions, Assignment) for agent in ("pi-3", "pi-4"))
    gateway.takes_update_of("pi-3")
    assert gateway.takes_update_of("pi-4")[-1] == Merge(0)


def test_a_round_that_is_given_up_takes_nobody_more() -> None:
    gateway = training()
    for agent in ("pi-0", "pi-1", "pi-2"):
        gateway.hears(agent, Failed(run=RUN, round=0, why="labels out of range"))

    assert not sent_to("pi-3", gateway.hears("pi-3", CHECK_IN), Assignment)
    assert gateway.state.deadline is None


def test_at_the_deadline_those_who_failed_may_try_again() -> None:
    gateway = training()
    gateway.takes_update_of("pi-0")
    for agent in ("pi-1", "pi-2"):
        gateway.hears(agent, Failed(run=RUN, round=0, why="out of memory"))
        gateway.now = 60.0
        assert not sent_to(agent, gateway.hears(agent, CHECK_IN), Assignment)

    actions = gateway.passes_deadline()

    assert sent_to("pi-1", actions, Assignment)
    assert sent_to("pi-2", actions, Assignment)
    assert Merge(0) not in gateway.takes_update_of("pi-1")
    assert gateway.takes_update_of("pi-2")[-1] == Merge(0)


def test_an_agent_that_failed_and_then_can_after_all_is_taken() -> None:
    gateway = training()
    gateway.hears("pi-0", Failed(run=RUN, round=0, why="out of memory"))

    gateway.takes_update_of("pi-0")
    assert gateway.standing(Standing.ACCEPTED) == {"pi-0"}


def test_a_round_in_which_a_whole_cohort_failed_is_given_up_at_once() -> None:
    gateway = training()
    for agent in ("pi-0", "pi-1"):
        assert gateway.hears(agent, Failed(run=RUN, round=0, why="labels out of range")) == ()

    assert gateway.hears("pi-2", Failed(run=RUN, round=0, why="labels out of range")) == (GiveUp(3),)


def test_a_whole_cohort_whose_devices_rest_ends_no_federation_and_comes_back_after_the_deadline() -> None:
    gateway = training()
    for agent in ("pi-0", "pi-1", "pi-2"):
        actions = gateway.hears(agent, Failed(run=RUN, round=0, why="it is 81 °C", rests=True))
        assert not [action for action in actions if isinstance(action, GiveUp)]

    assert not [action for action in gateway.passes_deadline() if isinstance(action, GiveUp)]
    for agent in ("pi-0", "pi-1"):
        assert sent_to(agent, gateway.hears(agent, CHECK_IN), Assignment)
        gateway.takes_update_of(agent)
    assert gateway.standing(Standing.ACCEPTED) == {"pi-0", "pi-1"}


def test_people_are_told_when_nothing_can_come_any_more_and_how_long_that_stays_so() -> None:
    gateway = training()
    gateway.takes_update_of("pi-0")
    gateway.now = 40.0
    gateway.hears("pi-1", Failed(run=RUN, round=0, why="out of memory"))

    (told,) = gateway.hears("pi-2", Failed(run=RUN, round=0, why="out of memory"))
    assert told == Warn(
        "round 1: nobody is left whose update could come; it has 1 of the 2 that it needs. Others may join; those who "
        "failed may try again in 60 s"
    )


def test_when_all_have_failed_those_who_wait_take_their_places_at_once() -> None:
    gateway = training()
    gateway.hears("pi-3", CHECK_IN)
    for agent in ("pi-0", "pi-1"):
        gateway.hears(agent, Failed(run=RUN, round=0, why="out of memory"))

    assert sent_to("pi-3", gateway.hears("pi-2", Failed(run=RUN, round=0, why="out of memory")), Assignment)


@pytest.mark.parametrize(("cohort", "is_inside"), [(400, True), (600, False)])
def test_a_cohort_whose_models_would_overflow_the_link_asks_for_them(cohort: int, is_inside: bool) -> None:
    """What does not fit into the link's 16 MiB is dropped: assignments of 5,000 agents with 16 kB each would be."""
    gateway = Gateway(replace(PLAN, cohort=cohort))
    blob = b"x" * MAX_INLINE_BYTES
    model = Model(content_of(blob), digest("weights"), small={content_of(blob).digest: blob})
    gateway.state = replace(gateway.state, model=model)
    gateway.gets(Connected())
    for number in range(cohort):
        actions = gateway.hears(f"pi-{number}", CHECK_IN)

    assigned = [action.message for action in actions if isinstance(action, Send)]
    assert len(assigned) == cohort
    assert {message.model for message in assigned} == {blob if is_inside else model.content}
    assert sum(len(encode(message)) for message in assigned) < MAX_QUEUED_BYTES / 2 + cohort * 512


def test_agents_that_went_silent_are_not_selected() -> None:
    gateway = gathering()
    gateway.hears("pi-0", CHECK_IN)
    gateway.hears("pi-1", CHECK_IN)
    gateway.now = 2 * GENERATION_S + 1.0

    gateway.hears("pi-2", CHECK_IN)
    assert gateway.state.phase is Phase.GATHERING
    gateway.hears("pi-3", CHECK_IN)
    gateway.hears("pi-4", CHECK_IN)

    assert gateway.standing() == {"pi-2", "pi-3", "pi-4"}


def test_nothing_merges_while_an_update_is_on_its_way_to_the_disk() -> None:
    gateway = training()
    gateway.takes_update_of("pi-0")
    gateway.takes_update_of("pi-1")
    gateway.hears("pi-2", submission("pi-2"), *chunks(update_of("pi-2")))

    assert Merge(0) not in gateway.passes_deadline()
    assert gateway.gets(UpdateStored("pi-2"))[-1] == Merge(0)


def test_the_next_round_opens_at_once_with_those_who_were_accepted() -> None:
    gateway = merging()

    actions = gateway.gets(Merged(model_of(1)))

    assert gateway.state.phase is Phase.TRAINING
    (assignment,) = sent_to("pi-0", actions, Assignment)
    assert (assignment.round, assignment.model, assignment.terms) == (1, model_of(1).content, None)


def test_after_the_last_round_the_federation_is_done() -> None:
    gateway = done()

    assert wake_at(gateway.state) is None
    (answer,) = sent_to("pi-0", gateway.hears("pi-0", CHECK_IN), Rejected)
    assert answer.reason is Reason.FINISHED
    assert sent_to("pi-0", gateway.hears("pi-0", submission("pi-0")), Accepted)


# Resuming


def test_a_restarted_aggregator_goes_on_with_the_round_it_was_in() -> None:
    state = resume(
        replace(PLAN, incarnation=2),
        model_of(1),
        1,
        assigned={"pi-0": 10, "pi-1": 10, "pi-2": 10},
        cap=100,
        accepted={"pi-0": content_of(update_of("pi-0", 1)).digest},
        last_accepted={"pi-1": digest("of round 0")},
        refused={},
        left_out={},
    )
    gateway = Gateway()
    gateway.state = state

    gateway.gets(Connected())
    assert gateway.standing(Standing.ASSIGNED) == {"pi-1", "pi-2"}
    assert sent_to("pi-0", gateway.hears("pi-0", submission("pi-0", 1)), Accepted)
    assert sent_to("pi-1", gateway.hears("pi-1", CHECK_IN), Assignment)
    old = submit(0, update=Content(digest=digest("of round 0"), size=3))
    assert sent_to("pi-1", gateway.hears("pi-1", old), Accepted)


def test_a_restarted_aggregator_merges_a_round_that_was_complete() -> None:
    accepted = {agent: content_of(update_of(agent)).digest for agent in ("pi-0", "pi-1", "pi-2")}
    gateway = Gateway()
    gateway.state = resume(
        PLAN,
        FIRST,
        0,
        assigned=dict.fromkeys(accepted, 10),
        cap=100,
        accepted=accepted,
        last_accepted={},
        refused={},
        left_out={},
    )

    assert gateway.gets(Connected())[-1] == Merge(0)


def test_a_federation_that_is_done_stays_done() -> None:
    state = resume(PLAN, FIRST, PLAN.rounds, assigned={}, cap=0, accepted={}, last_accepted={}, refused={}, left_out={})

    assert state.phase is Phase.DONE
