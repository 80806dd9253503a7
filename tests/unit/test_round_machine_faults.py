"""The aggregator's state machine against what goes wrong: refusals, silence, liars, invented names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aggregator.cohort import MOST_REFUSALS, Standing
from aggregator.round_answers import TICKETS_PER_S, ticket
from aggregator.round_machine import wake_at
from aggregator.round_places import ANSWER_S
from aggregator.round_state import (
    BookCohort,
    Connected,
    GiveUp,
    LinkDrained,
    Merge,
    Merged,
    Phase,
    Said,
    StoreUpdate,
    UpdateRefused,
    UpdateStored,
    Warn,
)
from fedprune.wire.messages import Assignment, CheckIn, Content, Failed, Reason, Rejected, Submit
from tests.drivers import (
    CHECK_IN,
    PLAN,
    Gateway,
    gathering,
    model_of,
    need,
    sent_to,
    submission,
    training,
    update_of,
)
from tests.samples import MODEL, RUN, chunks, digest, submit

PAIR = replace(PLAN, cohort=2, quorum=2)


def pair_training() -> Gateway:
    """Two agents train, and both are needed."""
    gateway = Gateway(PAIR)
    gateway.gets(Connected())
    for agent in ("pi-0", "pi-1"):
        gateway.hears(agent, CHECK_IN)
    assert gateway.state.phase is Phase.TRAINING
    return gateway


def refused(gateway: Gateway, agent: str) -> tuple[object, ...]:
    gateway.hears(agent, submission(agent), *chunks(update_of(agent)))
    return gateway.gets(UpdateRefused(agent, "a variance is negative"))


def sits_out(gateway: Gateway, agent: str) -> None:
    """The same update comes twice, as training is keyed, and is refused twice."""
    refused(gateway, agent)
    for _ in range(MOST_REFUSALS - 1):
        gateway.hears(agent, CHECK_IN)
        gateway.passes_deadline()
        gateway.hears(agent, submission(agent))
    assert gateway.standing(Standing.OUT) == {agent}


def warnings(actions: tuple[object, ...]) -> list[str]:
    return [action.text for action in actions if isinstance(action, Warn)]


# Refusals


def test_an_agent_that_was_refused_once_gets_one_second_try() -> None:
    gateway = pair_training()
    gateway.takes_update_of("pi-0")
    refused(gateway, "pi-1")
    assert not sent_to("pi-1", gateway.hears("pi-1", CHECK_IN), Assignment), "not before the deadline"

    assert sent_to("pi-1", gateway.passes_deadline(), Assignment)
    again = gateway.hears("pi-1", submit(update=Content(digest=digest("better"), size=5)))
    assert not sent_to("pi-1", again, Rejected)


def test_a_refused_submit_that_comes_twice_is_no_second_try() -> None:
    gateway = pair_training()
    refused(gateway, "pi-1")

    (answer,) = gateway.hears("pi-1", submission("pi-1"))

    assert (answer.message.reason, answer.message.detail) == (Reason.INVALID, "refused before")
    assert gateway.standing(Standing.FAILED) == {"pi-1"}
    gateway.hears("pi-1", CHECK_IN)
    assert sent_to("pi-1", gateway.passes_deadline(), Assignment), "that is still to come"


def test_an_agent_that_was_refused_twice_sits_the_round_out_and_the_reason_is_said() -> None:
    gateway = pair_training()
    gateway.takes_update_of("pi-0")
    refused(gateway, "pi-1")
    gateway.hears("pi-1", CHECK_IN)
    gateway.passes_deadline()

    said = gateway.hears("pi-1", submission("pi-1"))  # training is keyed: the same update comes again

    assert gateway.standing(Standing.OUT) == {"pi-1"}
    assert any("pi-1 sits round 1 out: 2 updates refused" in text for text in warnings(said))
    for _ in range(20):
        gateway.hears("pi-1", CHECK_IN)
        actions = gateway.passes_deadline()
        assert not sent_to("pi-1", actions, Assignment), "drafted for ever"
        (told,) = warnings(actions)
        assert "the quorum is out of reach: it needs 2 updates, has 1; agents known that could give one: 1" in told
        assert "sitting it out: pi-1 (it is the update that was refused before: a variance is negative" in told


def test_somebody_else_can_take_the_place_of_an_agent_that_sits_out() -> None:
    gateway = pair_training()
    gateway.takes_update_of("pi-0")
    sits_out(gateway, "pi-1")

    assert sent_to("pi-2", gateway.hears("pi-2", CHECK_IN), Assignment)
    assert gateway.takes_update_of("pi-2")[-1] == Merge(0)
    gateway.gets(Merged(model_of(1)))
    assert gateway.hears("pi-1", CHECK_IN), "in the next round nothing is held against it"


def test_an_agent_that_sits_out_is_told_so_whatever_it_submits() -> None:
    gateway = pair_training()
    sits_out(gateway, "pi-1")

    third = submit(update=Content(digest=digest("third"), size=5))
    (answer,) = sent_to("pi-1", gateway.hears("pi-1", third), Rejected)
    assert answer.reason is Reason.INVALID
    assert answer.detail.startswith("it sits this round out: ")


# Silence


def test_places_of_silent_agents_stay_open_after_the_deadline_until_they_are_filled() -> None:
    gateway = pair_training()
    for agent in ("pi-0", "pi-1"):
        gateway.hears(agent, CHECK_IN)  # heard, and then never again
    gateway.passes_deadline()

    for late in ("pi-2", "pi-3"):
        gateway.now += 1.0
        assert sent_to(late, gateway.hears(late, CHECK_IN), Assignment), "it has to wait for the next deadline"
    assert not sent_to("pi-4", gateway.hears("pi-4", CHECK_IN), Assignment)


def test_members_that_never_say_a_word_lose_their_places_within_seconds() -> None:
    gateway = training()
    gateway.hears("pi-0", need(MODEL))
    for waiting in ("pi-3", "pi-4"):
        gateway.hears(waiting, CHECK_IN)
    gateway.gets(LinkDrained())

    while wake_at(gateway.state) is not None and gateway.now < ANSWER_S:
        actions = gateway.waits()

    assert gateway.now == ANSWER_S
    assert gateway.standing(Standing.SILENT) == {"pi-1", "pi-2"}
    assert {agent for agent in ("pi-3", "pi-4") if sent_to(agent, actions, Assignment)} == {"pi-3", "pi-4"}


def test_an_agent_that_lost_its_place_is_still_welcome_and_waited_for() -> None:
    gateway = training()
    for agent in ("pi-0", "pi-1"):
        gateway.hears(agent, need(MODEL))
    while gateway.now < ANSWER_S:
        gateway.gets(LinkDrained())
        gateway.waits()
    assert gateway.standing(Standing.SILENT) == {"pi-2"}

    gateway.takes_update_of("pi-0")
    assert Merge(0) not in gateway.takes_update_of("pi-1"), "nobody else has its place"
    assert gateway.takes_update_of("pi-2")[-1] == Merge(0)


def test_a_check_in_is_no_answer_to_an_assignment() -> None:
    """An intruder that listens can show tickets, and would hold its place by checking in again and again."""
    gateway = training()
    for agent in ("pi-0", "pi-1"):
        gateway.hears(agent, need(MODEL))
    gateway.gets(LinkDrained())
    while gateway.now < ANSWER_S:
        assert sent_to("pi-2", gateway.hears("pi-2", CHECK_IN), Assignment)
        gateway.waits()

    assert gateway.standing(Standing.SILENT) == {"pi-2"}
    gateway.hears("pi-2", need(MODEL))
    assert gateway.standing(Standing.ASSIGNED) == {"pi-0", "pi-1", "pi-2"}, "it may have its place back"


def test_who_was_just_assigned_has_as_long_to_answer_as_the_others_had() -> None:
    gateway = training("pi-0", "pi-1")
    for agent in ("pi-0", "pi-1"):
        gateway.hears(agent, need(MODEL))
    gateway.gets(LinkDrained())
    gateway.now = gateway.state.answer_by - 1.0 if gateway.state.answer_by is not None else 0.0
    gateway.hears("pi-2", CHECK_IN)

    gateway.now += 2.0
    gateway.waits()

    assert gateway.standing(Standing.ASSIGNED) == {"pi-0", "pi-1", "pi-2"}


# Liars and invented names


def test_an_update_weighs_no_more_than_its_agent_said_when_it_checked_in() -> None:
    gateway = gathering()
    for agent in ("pi-0", "pi-1", "pi-2"):
        gateway.hears(agent, CheckIn(examples=100))

    claimed = submit(update=submission("pi-0").update, examples=2**31 - 1)
    (stored,) = gateway.hears("pi-0", claimed, *chunks(update_of("pi-0")))
    assert isinstance(stored, StoreUpdate)
    assert stored.weight == 100


def test_one_agent_that_claims_everything_is_capped_by_what_the_others_hold() -> None:
    weights = set()
    for order in (("pi-0", "pi-1", "pi-2"), ("pi-2", "pi-0", "pi-1"), ("pi-1", "pi-2", "pi-0")):
        gateway = gathering()
        for agent in order:
            gateway.hears(agent, CheckIn(examples=2**31 - 1 if agent == "pi-0" else 1500))
        claimed = submit(update=submission("pi-0").update, examples=2**31 - 1)
        (stored,) = gateway.hears("pi-0", claimed, *chunks(update_of("pi-0")))
        weights.add(stored.weight)

    assert weights == {15_000}, "ten medians of the cohort, whoever came first"


def test_in_a_cohort_of_two_the_one_that_claims_everything_does_not_set_the_cap() -> None:
    gateway = Gateway(PAIR)
    gateway.gets(Connected())
    gateway.hears("pi-0", CheckIn(examples=2**31 - 1))
    gateway.hears("pi-1", CheckIn(examples=1500))

    assert gateway.state.cap == 15_000


def test_the_cap_is_fixed_when_the_round_opens() -> None:
    gateway = training("pi-0", "pi-1")
    cap = gateway.state.cap

    actions = gateway.hears("pi-2", CheckIn(examples=10**6))

    assert BookCohort(0, {"pi-2": 10**6}, cap) in actions


def test_invented_names_are_given_a_ticket_and_forgotten() -> None:
    gateway = gathering()
    before = gateway.state

    for index in range(TICKETS_PER_S):
        (answer,) = gateway.gets(Said(f"invented-{index}", CHECK_IN))
        assert answer.message.ticket == ticket(PLAN.ticket_key, f"invented-{index}")

    given = {"strangers": TICKETS_PER_S, "tickets_since": gateway.now, "tickets_given": TICKETS_PER_S}
    assert gateway.state == replace(before, **given)
    for agent in ("pi-0", "pi-1", "pi-2"):
        gateway.hears(agent, CHECK_IN)
    assert gateway.standing() == {"pi-0", "pi-1", "pi-2"}


def test_a_flood_of_invented_names_is_answered_at_a_bounded_rate_and_agents_with_tickets_always() -> None:
    gateway = gathering()
    answers = [gateway.gets(Said(f"invented-{index}", CHECK_IN)) for index in range(3 * TICKETS_PER_S)]

    assert sum(map(bool, answers)) == TICKETS_PER_S
    assert gateway.hears("pi-0", CHECK_IN), "it has its ticket"
    gateway.now += 1.0
    assert gateway.gets(Said("pi-1", CHECK_IN)), "in the next second there are tickets again"


def test_a_ticket_is_good_for_one_name_only() -> None:
    gateway = gathering()
    stolen = CheckIn(examples=10, ticket=ticket(PLAN.ticket_key, "pi-0"))

    (answer,) = gateway.gets(Said("pi-1", stolen))

    assert answer.message.ticket != stolen.ticket
    assert "pi-1" not in gateway.state.presence


def test_an_agent_without_examples_waits_for_nothing() -> None:
    gateway = gathering()

    (answer,) = gateway.hears("pi-0", CheckIn(examples=0))

    assert answer.message.detail == "it holds no examples"
    assert "pi-0" not in gateway.state.presence


def test_places_of_silent_agents_go_first_to_agents_whose_updates_were_accepted_before() -> None:
    honest = {"pi-0", "pi-1", "pi-2"}
    gateway = training(*honest)
    for index in range(500):
        gateway.hears(f"invented-{index}", CHECK_IN)
    for agent in sorted(honest):
        gateway.takes_update_of(agent)
    gateway.gets(Merged(model_of(1)))
    selected = gateway.standing(Standing.ASSIGNED)
    assert not selected & honest, "by chance, keyed"

    gateway.waits_until(gateway.now + ANSWER_S)

    assert gateway.standing(Standing.SILENT) == selected
    assert gateway.standing(Standing.ASSIGNED) == honest


# Runs that are to be repeated


FLEET = frozenset({"pi-0", "pi-1", "pi-2", "pi-3"})


@pytest.mark.parametrize("order", [sorted(FLEET), sorted(FLEET, reverse=True)])
def test_a_named_fleet_is_waited_for_so_that_the_cohort_does_not_depend_on_who_is_quick(order: list[str]) -> None:
    gateway = Gateway(replace(PLAN, fleet=FLEET))
    gateway.gets(Connected())
    for agent in order[:-1]:
        assert not sent_to(agent, gateway.hears(agent, CHECK_IN), Assignment)

    gateway.hears(order[-1], CHECK_IN)

    assert len(gateway.standing()) == PLAN.cohort
    quick = Gateway(replace(PLAN, fleet=FLEET))
    quick.gets(Connected())
    for agent in sorted(FLEET):
        quick.hears(agent, CHECK_IN)
    assert gateway.standing() == quick.standing()


def test_who_is_not_of_the_fleet_is_told_so() -> None:
    gateway = Gateway(replace(PLAN, fleet=FLEET))
    gateway.gets(Connected())

    (answer,) = gateway.hears("stranger", CHECK_IN)

    assert answer.message.detail == "rounds.fleet does not name this agent"
    assert "stranger" not in gateway.state.presence


def test_a_round_that_opens_without_part_of_the_fleet_says_so() -> None:
    gateway = Gateway(replace(PLAN, fleet=FLEET))
    gateway.gets(Connected())
    for agent in ("pi-0", "pi-2"):
        gateway.hears(agent, CHECK_IN)

    actions = gateway.passes_deadline()

    assert warnings(actions) == ["round 1 opened without pi-1, pi-3: another run may differ"]


# Answers


def test_whoever_asks_for_content_out_of_turn_is_answered() -> None:
    gateway = gathering()

    (answer,) = sent_to("pi-0", gateway.hears("pi-0", need(MODEL)), Rejected)
    assert answer.reason is Reason.NOT_SELECTED


def test_a_submit_of_a_round_that_is_over_is_answered_while_the_gateway_merges() -> None:
    gateway = training()
    for agent in ("pi-0", "pi-1", "pi-2"):
        gateway.takes_update_of(agent)
    assert gateway.state.phase is Phase.MERGING

    late: Submit = submission("pi-4")
    (answer,) = sent_to("pi-4", gateway.hears("pi-4", late), Rejected)
    assert answer.reason is Reason.LATE


def test_a_round_is_not_given_up_while_an_update_is_on_its_way_to_the_disk() -> None:
    gateway = training()
    for agent in ("pi-0", "pi-1"):
        gateway.hears(agent, Failed(run=RUN, round=0, why="out of memory"))
    gateway.hears("pi-3", CHECK_IN, submission("pi-3"), *chunks(update_of("pi-3")))
    gateway.hears("pi-2", Failed(run=RUN, round=0, why="out of memory"))

    assert not [action for action in gateway.passes_deadline() if isinstance(action, GiveUp)]
    gateway.gets(UpdateStored("pi-3"))
    assert gateway.standing(Standing.ACCEPTED) == {"pi-3"}
