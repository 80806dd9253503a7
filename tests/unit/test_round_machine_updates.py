"""The aggregator's state machine: what it takes, what it refuses, and what it answers."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from aggregator.cohort import Standing
from aggregator.round_places import ANSWER_S
from aggregator.round_state import (
    BookCohort,
    HistoryDiffers,
    Merge,
    Merged,
    Phase,
    Send,
    StoreUpdate,
    UpdateRefused,
    UpdateStored,
    Warn,
    resume,
)
from aggregator.round_uploads import ACKNOWLEDGE_S
from fedprune.wire.messages import (
    Accepted,
    Assignment,
    Begun,
    Chunk,
    Content,
    Failed,
    LeftOut,
    Reason,
    Rejected,
    Submit,
    tag_of,
)
from fedprune.wire.transfer import CHUNK_BYTES, content_of, need_of
from tests.drivers import CHECK_IN, PLAN, gateway_in, merging, model_of, need, sent_to, submission, training, update_of
from tests.samples import RUN, UPDATE, UPDATE_BLOB, accepted, chunks, digest, submit


def test_an_update_is_accepted_once_it_is_stored() -> None:
    gateway = training()

    assert gateway.hears("pi-0", submission("pi-0")) == ()
    assert gateway.hears("pi-0", *chunks(update_of("pi-0"))) == (
        StoreUpdate("pi-0", submission("pi-0"), update_of("pi-0"), 1500),
    )
    assert not gateway.standing(Standing.ACCEPTED)
    assert gateway.gets(UpdateStored("pi-0")) == ()
    assert gateway.standing(Standing.ASSIGNED) == {"pi-1", "pi-2"}


def test_an_acceptance_is_said_with_the_next_work() -> None:
    gateway = training()
    for agent in ("pi-0", "pi-1", "pi-2"):
        assert not sent_to(agent, gateway.takes_update_of(agent), Accepted)

    actions = gateway.gets(Merged(model_of(1)))

    assert not sent_to("pi-0", actions, Accepted)
    (work,) = sent_to("pi-0", actions, Assignment)
    assert work.accepted == tag_of(content_of(update_of("pi-0")).digest)
    assert not gateway.state.owed


def test_an_acceptance_is_said_by_itself_where_the_round_goes_on_for_long() -> None:
    gateway = training()
    gateway.takes_update_of("pi-0")

    assert gateway.waits_until(ACKNOWLEDGE_S) == (Send("pi-0", accepted(0, content_of(update_of("pi-0")))),)
    gateway.takes_update_of("pi-1")
    gateway.takes_update_of("pi-2")
    actions = gateway.gets(Merged(model_of(1)))
    assert [sent_to(agent, actions, Assignment)[0].accepted for agent in ("pi-0", "pi-1")] == [
        None,
        tag_of(content_of(update_of("pi-1")).digest),
    ]


def test_who_has_no_work_in_the_next_round_is_told_when_it_begins() -> None:
    gateway = merging()
    gateway.state = replace(gateway.state, presence=gateway.state.presence.without("pi-0"))

    actions = gateway.gets(Merged(model_of(1)))

    assert sent_to("pi-0", actions, Accepted) == [accepted(0, content_of(update_of("pi-0")))]
    assert gateway.state.acknowledge_at is None


def test_an_update_that_comes_with_its_submit_is_stored_at_once() -> None:
    gateway, blob = training(), update_of("pi-0")
    whole = msgspec.structs.replace(submission("pi-0"), update=blob)

    assert gateway.hears("pi-0", whole) == (StoreUpdate("pi-0", submission("pi-0"), blob, 1500),)
    assert gateway.hears("pi-0", whole) == ()


def test_a_member_that_has_begun_keeps_its_place() -> None:
    gateway = training()
    gateway.hears("pi-0", Begun(round=0))
    gateway.hears("pi-1", Begun(round=1))
    gateway.waits_until(ANSWER_S)

    assert gateway.standing(Standing.SILENT) == {"pi-1", "pi-2"}
    assert sent_to("pi-4", gateway.hears("pi-4", Begun(round=0)), Rejected)


def test_a_duplicate_is_accepted_again_and_not_stored_again() -> None:
    gateway = training()
    gateway.takes_update_of("pi-0")

    for round_goes_on in (False, True):
        if round_goes_on:
            gateway.takes_update_of("pi-1")
            gateway.takes_update_of("pi-2")
            gateway.gets(Merged(model_of(1)))
        (answer,) = sent_to("pi-0", gateway.hears("pi-0", submission("pi-0")), Accepted)
        assert answer == accepted(0, content_of(update_of("pi-0")))
        assert gateway.hears("pi-0", *chunks(update_of("pi-0"))) == ()


def test_chunks_that_did_not_arrive_are_asked_for() -> None:
    gateway = training()
    parts = chunks(UPDATE_BLOB)

    gateway.hears("pi-0", submit(), parts[0], parts[2], parts[0])
    assert gateway.hears("pi-0", submit()) == (Send("pi-0", need_of(UPDATE, [1], CHUNK_BYTES, even_if_sent=True)),)
    assert gateway.hears("pi-0", parts[1]) == (StoreUpdate("pi-0", submit(), UPDATE_BLOB, 1500),)


def test_a_foreign_chunk_costs_an_update_nothing_but_another_transfer() -> None:
    gateway = training()
    foreign = Chunk(digest=UPDATE.digest, index=1, data=b"X" * CHUNK_BYTES)
    parts = chunks(UPDATE_BLOB)

    again = gateway.hears("pi-0", submit(), foreign, parts[0], parts[1], parts[2])
    assert again[0] == Send("pi-0", need(UPDATE))
    assert isinstance(again[1], Warn)
    assert "the update of pi-0: content" in again[1].text
    assert gateway.standing(Standing.ASSIGNED) == {"pi-0", "pi-1", "pi-2"}
    assert gateway.hears("pi-0", *parts) == (StoreUpdate("pi-0", submit(), UPDATE_BLOB, 1500),)


def test_what_comes_while_an_update_is_being_stored_changes_nothing() -> None:
    gateway = training()
    gateway.hears("pi-0", submission("pi-0"), *chunks(update_of("pi-0")))
    before = gateway.state

    for message in (*chunks(update_of("pi-0")), submission("pi-0"), Failed(run=RUN, round=0, why="changed my mind")):
        assert gateway.hears("pi-0", message) == ()
        assert gateway.state == before
    gateway.gets(UpdateStored("pi-0"))


def test_a_malformed_update_is_refused_and_its_agent_not_waited_for() -> None:
    gateway = training()
    gateway.hears("pi-0", submission("pi-0"), *chunks(update_of("pi-0")))

    (answer,) = sent_to("pi-0", gateway.gets(UpdateRefused("pi-0", "the int8 scale is nan")), Rejected)

    assert (answer.reason, answer.detail) == (Reason.INVALID, "the int8 scale is nan")
    assert answer.digest == content_of(update_of("pi-0")).digest
    assert gateway.standing(Standing.FAILED) == {"pi-0"}
    assert not sent_to("pi-0", gateway.hears("pi-0", CHECK_IN), Assignment)
    gateway.takes_update_of("pi-1")
    assert gateway.takes_update_of("pi-2")[-1] == Merge(0)


def test_what_was_refused_once_is_refused_for_good() -> None:
    """Called late instead, the agent would fold it into its residual."""
    gateway = training()
    gateway.hears("pi-0", submission("pi-0"), *chunks(update_of("pi-0")))
    gateway.gets(UpdateRefused("pi-0", "the int8 scale is nan"))

    for _ in range(2):
        (answer,) = sent_to("pi-0", gateway.hears("pi-0", submission("pi-0")), Rejected)
        assert answer.reason is Reason.INVALID
        for agent in gateway.standing(Standing.ASSIGNED):
            gateway.takes_update_of(agent)  # and once more when the round is over


def test_nobody_waits_for_an_agent_whose_update_is_too_large() -> None:
    gateway = training()
    gateway.hears("pi-0", submit(update=Content(digest=digest("huge"), size=PLAN.max_update_bytes + 1)))

    gateway.takes_update_of("pi-1")
    assert gateway.takes_update_of("pi-2")[-1] == Merge(0)


@pytest.mark.parametrize(
    ("agent", "wrong", "reason"),
    [
        ("pi-4", submission("pi-4"), Reason.LATE),
        ("pi-0", submit(update=Content(digest=digest("huge"), size=PLAN.max_update_bytes + 1)), Reason.INVALID),
        ("pi-0", submit(run="another-run"), Reason.INVALID),
        ("pi-0", submit(round_=1), Reason.INVALID),
    ],
)
def test_updates_that_are_not_to_be_taken_are_refused_with_the_reason(
    agent: str, wrong: Submit, reason: Reason
) -> None:
    gateway = training()

    (answer,) = sent_to(agent, gateway.hears(agent, wrong), Rejected)
    assert (answer.reason, answer.digest) == (reason, wrong.update.digest)
    assert not len(gateway.state.uploads)


def test_a_second_different_update_of_an_agent_is_refused() -> None:
    gateway = training()
    gateway.takes_update_of("pi-0")

    (answer,) = sent_to("pi-0", gateway.hears("pi-0", submit()), Rejected)
    assert answer.reason is Reason.INVALID


@pytest.mark.parametrize("phase", [Phase.GATHERING, Phase.TRAINING, Phase.MERGING, Phase.DONE])
def test_an_update_that_missed_its_round_is_late_in_every_phase(phase: Phase) -> None:
    gateway = gateway_in(phase)
    gateway.state = replace(gateway.state, round=2)

    (answer,) = sent_to("pi-4", gateway.hears("pi-4", submission("pi-4", 1)), Rejected)
    assert answer.reason is Reason.LATE


def test_an_agent_that_asks_about_an_earlier_round_is_given_its_work_in_this_one() -> None:
    """It took no assignment while its update was pending, and might wait long before it offers itself again."""
    gateway = merging()
    gateway.gets(Merged(model_of(1)))
    assert "pi-0" in gateway.standing(Standing.ASSIGNED)

    for asked in (submission("pi-0"), submit(0, update=content_of(b"lost"))):
        answer, work = gateway.hears("pi-0", asked)
        assert isinstance(answer, Send)
        assert isinstance(answer.message, Accepted | Rejected)
        assert isinstance(work, Send)
        assert isinstance(work.message, Assignment)


def test_who_was_left_out_is_told_with_every_assignment_from_then_on() -> None:
    gateway = merging()
    why = "the norm of its delta is 1e+04; up to 10 is usual here"

    opened = gateway.gets(Merged(model_of(1), {"pi-1": why}))
    said = {agent: sent_to(agent, opened, Assignment) for agent in ("pi-0", "pi-1", "pi-2")}
    assert {agent: assigned.left_out for agent, (assigned,) in said.items()} == {
        "pi-0": None,
        "pi-1": LeftOut(round=0, why=why),
        "pi-2": None,
    }
    (again,) = sent_to("pi-1", gateway.hears("pi-1", CHECK_IN), Assignment)
    assert again.left_out == LeftOut(round=0, why=why)


def test_an_update_that_was_left_out_is_accepted_all_the_same() -> None:
    """It is durable, and counted where it is judged: an agent that asks again must not send it again."""
    gateway = merging()
    gateway.gets(Merged(model_of(1), {"pi-1": "it is huge"}))

    (answer,) = sent_to("pi-1", gateway.hears("pi-1", submission("pi-1")), Accepted)
    assert answer == accepted(0, content_of(update_of("pi-1")))


def test_a_restarted_aggregator_still_tells_who_was_left_out() -> None:
    gateway = training()
    gateway.state = resume(
        replace(PLAN, incarnation=2),
        model_of(1),
        1,
        assigned=dict.fromkeys(("pi-0", "pi-1"), 10),
        cap=100,
        accepted={},
        last_accepted={},
        refused={},
        left_out={"pi-1": LeftOut(round=0, why="it is huge")},
    )

    assert [sent_to(agent, gateway.hears(agent, CHECK_IN), Assignment)[0].left_out for agent in ("pi-0", "pi-1")] == [
        None,
        LeftOut(round=0, why="it is huge"),
    ]


def test_who_has_learned_how_many_examples_it_has_is_assigned_the_next_round_with_these() -> None:
    """Before its first training an agent checks in with the most that its files can make: lines, where it learns from
    windows."""
    gateway = training()
    for agent in ("pi-0", "pi-1", "pi-2"):
        brief = msgspec.structs.replace(submission(agent), examples=30)
        gateway.hears(agent, brief, *chunks(update_of(agent)))
        gateway.gets(UpdateStored(agent))
    actions = gateway.gets(Merged(model_of(1), {}))

    (booked,) = (action for action in actions if isinstance(action, BookCohort))
    assert booked == BookCohort(1, {"pi-0": 30, "pi-1": 30, "pi-2": 30}, cap=300)


def test_an_update_by_another_history_is_asked_for_without_and_its_agent_keeps_its_place() -> None:
    gateway = training()
    gateway.hears("pi-0", submission("pi-0"), *chunks(update_of("pi-0")))

    (answer,) = sent_to("pi-0", gateway.gets(HistoryDiffers("pi-0")), Rejected)

    assert (answer.reason, answer.digest) == (Reason.OTHER_HISTORY, submission("pi-0").content.digest)
    assert "pi-0" in gateway.standing(Standing.ASSIGNED)
    shared = msgspec.structs.replace(submission("pi-0"), update=b"shared")
    named = msgspec.structs.replace(shared, update=content_of(b"shared"))
    assert gateway.hears("pi-0", shared) == (StoreUpdate("pi-0", named, b"shared", 1500),)
    gateway.gets(UpdateStored("pi-0"))
    assert gateway.standing(Standing.ACCEPTED) == {"pi-0"}


def test_a_round_that_has_its_updates_does_not_wait_for_a_spare_agents_to_come_without_a_history() -> None:
    gateway = training()
    gateway.state = replace(gateway.state, spares=1)
    gateway.hears("pi-3", CHECK_IN)
    gateway.hears("pi-3", submission("pi-3"), *chunks(update_of("pi-3")))
    for agent in ("pi-0", "pi-1", "pi-2"):
        gateway.takes_update_of(agent)
    assert gateway.state.phase is Phase.TRAINING, "one is on its way to the disk"

    *_, merge = gateway.gets(HistoryDiffers("pi-3"))

    assert merge == Merge(0)
