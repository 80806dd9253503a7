"""Deadlines and spare agents that follow from what was seen: everybody who can is waited for, and nobody for ever."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from aggregator.cohort import Standing
from aggregator.response_times import (
    FEWEST_OUTCOMES,
    FIRST_S,
    LONGEST_S,
    MOST_MISSED,
    MOST_SPARES,
    REMEMBERED,
    SHORTEST_S,
    SLACK,
    STRAGGLER,
    ResponseTimes,
    first_deadline_s,
)
from aggregator.round_machine import wake_at
from aggregator.round_places import ANSWER_S
from aggregator.round_state import GiveUp, Merge, Phase, Send, UpdateStored
from edge_agent import agent_state
from edge_agent.history import Durations
from fedprune.wire.messages import Assignment, Failed
from tests.agents import agent_in
from tests.drivers import AGENTS, CHECK_IN, PLAN, RUN, Gateway, fresh, started, submission, update_of
from tests.samples import MODEL_BLOB, TASK, assignment, chunks, manifest

seconds = st.floats(0.0, 1e7)
fleets = st.dictionaries(st.text(min_size=1, max_size=3), st.lists(seconds, min_size=1, max_size=12), max_size=12)
LEARNED = replace(PLAN, deadline_s=None)


def seen(fleet: dict[str, list[float]]) -> ResponseTimes:
    times = ResponseTimes()
    for agent, responses in fleet.items():
        for response in responses:
            times = times.with_response(agent, response)
    return times


@given(fleets, st.integers(0, 5), st.integers(1, 12))
@example({"fast": [0.0], "slow": [31.0]}, 1, 2)
def test_a_deadline_leaves_time_for_all_but_stragglers_and_for_a_quorum(
    fleet: dict[str, list[float]], unknown: int, quorum: int
) -> None:
    times, members = seen(fleet), [*fleet, *(f"stranger {index}" for index in range(unknown))]
    found = times.deadline_s(members, quorum, 123.0)

    expected = sorted(times.expected(agent) or 0.0 for agent in fleet)
    if not expected:
        assert found == 123.0
        return
    assert SHORTEST_S <= found <= LONGEST_S
    median = expected[(len(expected) + 1) // 2 - 1]
    for response in expected:
        assert response > STRAGGLER * median or found >= min(SLACK * response, LONGEST_S)
    if quorum <= len(expected):
        assert found >= min(SLACK * expected[quorum - 1], LONGEST_S)
    assert found <= max(SHORTEST_S, SLACK * max(expected[-1], STRAGGLER * median))


@given(fleets, st.integers(1, 12), st.randoms())
def test_a_deadline_does_not_depend_on_the_order_of_members(
    fleet: dict[str, list[float]], quorum: int, any_: object
) -> None:
    members = sorted(fleet)
    shuffled = list(members)
    any_.shuffle(shuffled)  # type: ignore[attr-defined]
    assert seen(fleet).deadline_s(members, quorum, 1.0) == seen(fleet).deadline_s(shuffled, quorum, 1.0)


def test_one_slow_round_makes_no_slow_device_and_a_device_that_became_slow_is_soon_known() -> None:
    times = seen({"a": [10.0] * 7 + [1000.0]})
    assert times.expected("a") == 10.0
    assert seen({"a": [10.0] * 8 + [1000.0] * 3}).expected("a") == 1000.0


def test_what_is_remembered_is_bounded() -> None:
    times = seen({"a": [float(number) for number in range(100)]})
    assert times.of("a") == [float(number) for number in range(100 - REMEMBERED, 100)]


def test_who_misses_deadlines_is_given_more_time_each_time() -> None:
    times, deadline = ResponseTimes(), FIRST_S
    for _ in range(3):
        times = times.with_miss("a", deadline)
        longer = times.deadline_s(["a"], 1, FIRST_S)
        assert longer > deadline
        deadline = longer


def test_a_device_that_is_often_away_does_not_make_deadlines_grow_without_bound() -> None:
    times = seen({"steady": [20.0] * 8, "away": [10.0, 20.0, 15.0]})
    usual = times.deadline_s(["steady", "away"], 2, FIRST_S)
    for _ in range(50):
        times = times.with_miss("away", times.deadline_s(["steady", "away"], 2, FIRST_S))
        assert times.deadline_s(["steady", "away"], 2, FIRST_S) <= SLACK * MOST_MISSED * 20.0

    assert times.with_response("away", 12.0).deadline_s(["steady", "away"], 2, FIRST_S) == usual, "it was not slow"


def test_who_got_a_place_shortly_before_a_deadline_does_not_count_as_fast() -> None:
    times = seen({"slow": [600.0]}).with_miss("slow", 100.0).with_miss("new", 5.0)
    assert (times.expected("slow"), times.expected("new")) == (600.0, None)
    assert times.deadline_s(["slow", "new"], 1, FIRST_S) >= SLACK * 600.0


def test_the_first_deadline_leaves_time_for_the_model_on_a_slow_link() -> None:
    assert first_deadline_s(50_000_000) >= FIRST_S + 2 * 50_000_000 / 8000


@given(st.lists(st.booleans(), max_size=400), st.integers(1, 1000))
def test_spares_follow_from_how_many_updates_do_not_come(misses: list[bool], cohort: int) -> None:
    times = ResponseTimes()
    for is_miss in misses:
        times = times.with_failure() if is_miss else times.with_response("a", 1.0)
    found = times.spares(cohort)

    assert 0 <= found <= MOST_SPARES * cohort
    if not any(misses) or len(misses) < FEWEST_OUTCOMES:
        assert found == 0


def test_a_fifth_that_fails_is_made_up_for() -> None:
    times = ResponseTimes(outcomes=100.0, misses=20.0)
    assert [times.spares(cohort) for cohort in (1, 4, 100)] == [0, 1, 25]


# In rounds


def opened(gateway: Gateway, *agents: str) -> Gateway:
    for agent in agents:
        gateway.hears(agent, CHECK_IN)
    assert gateway.state.phase is Phase.TRAINING
    return gateway


def learned(times: ResponseTimes, quorum: int = 2) -> Gateway:
    plan = replace(LEARNED, quorum=quorum)
    gateway = Gateway(plan)
    gateway.state = replace(fresh(plan), response_times=times)
    return gateway


def test_a_round_of_unknown_devices_has_the_first_deadline_and_later_ones_follow_what_was_seen() -> None:
    gateway = opened(learned(ResponseTimes()), *AGENTS[:3])
    assert gateway.state.deadline == first_deadline_s(gateway.state.model.content.size)

    gateway.now = 50.0
    for agent in AGENTS[:2]:
        gateway.takes_update_of(agent)
    assert gateway.state.response_times.expected(AGENTS[0]) == 50.0

    known = opened(learned(gateway.state.response_times), *AGENTS[:3])
    assert known.state.deadline == SLACK * STRAGGLER * 50.0  # the third may take as long


def test_a_straggler_is_not_waited_for_once_it_is_known() -> None:
    times = seen({AGENTS[0]: [20.0], AGENTS[1]: [30.0], AGENTS[2]: [5000.0]})
    gateway = opened(learned(times), *AGENTS[:3])
    assert gateway.state.deadline == SLACK * 30.0

    for agent in AGENTS[:2]:
        gateway.takes_update_of(agent)
    gateway.passes_deadline()
    assert gateway.state.phase is Phase.MERGING
    assert gateway.state.response_times.misses > 0


def test_a_deadline_passes_once_while_an_update_is_on_its_way_to_the_disk() -> None:
    gateway = opened(learned(ResponseTimes()), *AGENTS[:3])
    gateway.state = replace(gateway.state, plan=replace(gateway.state.plan, cohort=4))
    gateway.hears(AGENTS[3], CHECK_IN)
    for agent in AGENTS[:2]:
        gateway.takes_update_of(agent)
    gateway.hears(AGENTS[2], submission(AGENTS[2]), *chunks(update_of(AGENTS[2])))
    missed = gateway.state.deadline
    assert missed is not None

    gateway.passes_deadline()
    assert gateway.state.response_times.misses == 1.0, "that of the fourth"
    assert wake_at(gateway.state) == missed + ANSWER_S, "the process has nothing to do until a worker has checked it"
    gateway.waits()

    assert gateway.gets(UpdateStored(AGENTS[2])) == (Merge(0),)
    assert gateway.state.response_times.missed[AGENTS[3]] == 2.0 * missed
    assert gateway.state.response_times.misses < 1.01


def test_who_gets_a_place_at_a_deadline_is_given_the_time_that_it_is_known_to_take() -> None:
    slow = seen({agent: [5000.0] for agent in AGENTS[:3]})
    gateway = opened(learned(slow), *AGENTS[:3])
    for agent in AGENTS[:3]:
        gateway.hears(agent, Failed(run=RUN, round=0, why="it is 81 °C", rests=True))
        gateway.hears(agent, CHECK_IN)
    gateway.now = (gateway.state.deadline or 0.0) - 1.0
    for agent in AGENTS[:3]:
        gateway.hears(agent, CHECK_IN)  # they wait

    actions = gateway.passes_deadline()
    assert {each.agent for each in actions if isinstance(each, Send) and isinstance(each.message, Assignment)} == set(
        AGENTS[:3]
    )
    assert gateway.state.deadline == gateway.now + SLACK * 5000.0


def test_a_straggler_that_the_quorum_needs_is_waited_for() -> None:
    times = seen({AGENTS[0]: [20.0], AGENTS[1]: [30.0], AGENTS[2]: [5000.0]})
    assert opened(learned(times, quorum=3), *AGENTS[:3]).state.deadline == SLACK * 5000.0


def test_where_updates_do_not_come_an_agent_is_assigned_beside_the_cohort() -> None:
    gateway = opened(learned(ResponseTimes(outcomes=100.0, misses=40.0)), *AGENTS)
    assert gateway.standing(Standing.ASSIGNED) == set(AGENTS[:4]), "a cohort of three, and one more"

    gateway.hears(AGENTS[3], Failed(run=RUN, round=0, why="no memory"))
    for agent in AGENTS[:3]:
        gateway.takes_update_of(agent)
    assert gateway.state.phase is Phase.MERGING


def test_a_fleet_that_knows_to_be_slow_ends_no_federation_that_does_not_know_it_yet() -> None:
    """As in the second federation of a task: devices remember how long trainings took, the gateway knows nothing."""
    gateway = opened(learned(ResponseTimes()), *AGENTS[:3])
    durations = Durations(TASK.digest, (2.0 * FIRST_S,))
    for agent in AGENTS[:3]:
        device = agent_in(agent_state.Phase.IDLE, started(tasks=frozenset({TASK.digest}), durations=durations))
        device.gets(manifest())
        work = msgspec.structs.replace(assignment(), seconds_left=round(FIRST_S))
        (said,) = (
            each.message for each in device.gets(work, *chunks(MODEL_BLOB)) if isinstance(each, agent_state.Send)
        )
        assert isinstance(said, Failed)
        assert not [each for each in gateway.hears(agent, said) if isinstance(each, GiveUp)]

    assert not [each for each in gateway.passes_deadline() if isinstance(each, GiveUp)]
    for agent in AGENTS[:2]:
        gateway.hears(agent, CHECK_IN)
        gateway.takes_update_of(agent)
    assert gateway.standing(Standing.ACCEPTED) == set(AGENTS[:2])


def test_a_deadline_that_is_set_stays_as_it_is_set() -> None:
    gateway = Gateway()
    gateway.state = replace(fresh(PLAN), response_times=seen({agent: [1e6] for agent in AGENTS}))
    assert opened(gateway, *AGENTS[:3]).state.deadline == PLAN.deadline_s
