"""Which bytes lead to the round's model: what the gateway offers to whom, and what the agent makes of it."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from aggregator import round_state
from aggregator.cohort import Standing
from aggregator.round_places import ANSWER_S
from aggregator.round_state import Connected, LedAstray, Merged, Model, Said, UpdateStored, resume
from edge_agent import agent_state
from edge_agent.agent_state import (
    BEGUN_S,
    HeldChanged,
    Phase,
    Send,
    StopTraining,
    Train,
    TrainingDone,
    TrainingFailed,
    Warn,
)
from edge_agent.held_model import NONE_HELD
from fedprune.wire.messages import Assignment, Begun, CheckIn, Content, Failed, Rejected
from fedprune.wire.transfer import CHUNK_SIZES, content_of, need_of
from tests.drivers import (
    CHECK_IN,
    LIMITS,
    NO_DURATIONS,
    NOTHING_DONE,
    PLAN,
    Agent,
    Gateway,
    need,
    sent_to,
    started,
    submission,
)
from tests.samples import MODEL, MODEL_BLOB, RUN, TASK, assignment, chunks, digest, manifest, submit

WHOLE, FROM_3, FROM_4 = content_of(b"all of it" * 9), content_of(b"from 3 to 5"), content_of(b"from 4")
FIFTH = Model(WHOLE, digest("fifth"), {3: FROM_3, 4: FROM_4})
HERE = {"model": None, "base": 0}
"""The model follows from what the agent has."""


def gateway(*, seeded: bool = False) -> Gateway:
    found = Gateway()
    plan = replace(PLAN, rounds=9, seeded=seeded, model_codec="fp16 + mask | int8")
    found.state = resume(plan, FIFTH, 5, assigned={}, cap=0, accepted={}, last_accepted={}, refused={}, left_out={})
    found.gets(Connected())
    return found


def assigned(gateway: Gateway, *check_ins: CheckIn) -> list[Assignment]:
    """The assignments of agents that check in so, in a round of theirs alone."""
    for index, check_in in enumerate(check_ins):
        gateway.hears(f"pi-{index}", check_in)
    actions = gateway.waits()
    return [found for index in range(len(check_ins)) for found in sent_to(f"pi-{index}", actions, Assignment)]


def holding(version: int, *, run: str = RUN, wants_whole: bool = False) -> CheckIn:
    return msgspec.structs.replace(CHECK_IN, run=run, version=version, wants_whole=wants_whole)


def test_everybody_is_sent_what_leads_to_the_model_from_what_it_holds() -> None:
    nothing, near, far = (assigned(gateway(), holding(v), holding(v))[0] for v in (5, 4, 3))

    assert (nothing.model, nothing.base) == (None, 5)
    assert (near.model, near.base) == (FROM_4, 4)
    assert (far.model, far.base) == (FROM_3, 3)
    assert near.known.model_codec == "fp16 + mask | int8"


def test_who_is_too_far_behind_or_holds_another_runs_model_is_sent_the_whole_one() -> None:
    for check_in in (holding(2), holding(-1), holding(6), holding(4, run="another"), holding(4, wants_whole=True)):
        found = assigned(gateway(), check_in, check_in)[0]

        assert (found.model, found.base) == (WHOLE, -1)


def test_of_a_random_start_everybody_holds_version_0() -> None:
    seeded = gateway(seeded=True)
    seeded.state = replace(seeded.state, model=replace(FIFTH, replays={0: FROM_3}))

    found = assigned(seeded, holding(-1), holding(4, wants_whole=True))

    assert [(each.model, each.base) for each in found] == [(FROM_3, 0), (WHOLE, -1)]


def test_a_member_that_checks_in_again_is_answered_by_what_it_holds_now() -> None:
    found = gateway()
    assigned(found, holding(-1), holding(-1))

    (again,) = sent_to("pi-0", found.hears("pi-0", holding(4)), Assignment)

    assert (again.model, again.base) == (FROM_4, 4)


def test_a_need_of_nothing_keeps_the_place() -> None:
    found = gateway()
    assigned(found, holding(5), holding(5), holding(5))
    found.hears("pi-0", need_of(TASK, (), CHUNK_SIZES[0]))

    found.waits_until(found.now + ANSWER_S)

    assert found.standing(Standing.ASSIGNED) == {"pi-0"}
    assert found.standing(Standing.SILENT) == {"pi-1", "pi-2"}


def test_replays_are_served_as_long_as_their_model_is() -> None:
    found = gateway()
    assigned(found, holding(4), holding(3))
    for content in (FROM_3, FROM_4, WHOLE):
        assert content.digest in found.state.serving.contents
    for round_ in (5, 6):
        for agent in ("pi-0", "pi-1"):
            if round_ == 6:
                found.hears(agent, holding(6))
        if round_ == 6:
            found.waits()
        for agent in ("pi-0", "pi-1"):
            blob = f"update of {agent} in round {round_}".encode()
            found.hears(agent, submission(agent, round_), *chunks(blob))
            found.gets(UpdateStored(agent))
        content = content_of(b"model %d" % round_)
        found.gets(Merged(Model(content, digest(f"{round_}"), {5: content_of(b"replay %d" % round_)})))

    assert set(found.state.serving.contents) == {
        TASK.digest,
        *(content_of(blob).digest for blob in (b"model 5", b"replay 5", b"model 6", b"replay 6")),
    }


def is_served(gateway: Gateway, agent: str, content: Content) -> bool:
    """The agent asks for the content, and is not sent away."""
    return not sent_to(agent, gateway.hears(agent, need(content)), Rejected)


def test_a_member_fetches_the_task_the_whole_model_and_the_replay_from_what_it_holds() -> None:
    found = gateway()
    assigned(found, holding(4), holding(3))

    assert [is_served(found, "pi-0", content) for content in (TASK, WHOLE, FROM_4, FROM_3)] == [True, True, True, False]
    assert [is_served(found, "pi-1", content) for content in (TASK, WHOLE, FROM_4, FROM_3)] == [True, True, False, True]


def test_who_comes_to_hold_more_while_it_fetches_may_go_on_fetching() -> None:
    """A training that was stopped can have decoded the version in between."""
    found = gateway()
    assigned(found, holding(3), holding(3))

    found.hears("pi-0", holding(4))

    assert is_served(found, "pi-0", FROM_3)
    assert is_served(found, "pi-0", FROM_4)


def test_who_says_ever_other_versions_is_sent_the_whole_model() -> None:
    found, from_2 = gateway(), content_of(b"from 2 to 5")
    model = replace(FIFTH, replays={2: from_2, 3: FROM_3, 4: FROM_4})
    found.state = replace(found.state, model=model, served=(model,), serving=found.state.serving.offer(from_2))
    assigned(found, holding(4), holding(4))

    said = [sent_to("pi-0", found.hears("pi-0", holding(version)), Assignment)[0] for version in (5, 3, 2, 2, 4, 5)]

    assert [each.base for each in said] == [5, 3, -1, -1, 4, 5]
    assert said[2].model == WHOLE
    assert not is_served(found, "pi-0", from_2)


def test_a_replay_to_the_version_before_is_served_to_who_holds_its_base() -> None:
    found = gateway()
    assigned(found, holding(4), holding(4))
    for agent in ("pi-0", "pi-1"):
        found.hears(agent, submission(agent, 5), *chunks(f"update of {agent} in round 5".encode()))
        found.gets(UpdateStored(agent))
    found.gets(Merged(Model(content_of(b"model 6"), digest("6"), {4: content_of(b"from 4 to 6")})))
    assigned(found, holding(4), holding(3))

    assert is_served(found, "pi-0", FROM_4)
    assert is_served(found, "pi-0", content_of(b"from 4 to 6"))
    assert not is_served(found, "pi-1", FROM_4)


def test_who_is_led_astray_is_told_of_once_however_often_it_says_so() -> None:
    found, astray = gateway(), holding(-1, wants_whole=True)
    assigned(found, holding(4), holding(-1))

    said = [found.hears("pi-0", astray) for _ in range(3)]

    assert [LedAstray("pi-0") in actions for actions in said] == [True, False, False]
    assert [sent_to("pi-0", actions, Assignment)[0].model for actions in said] == [WHOLE] * 3


def test_who_was_not_sent_what_leads_on_from_its_model_was_not_led_astray() -> None:
    found, astray = gateway(), holding(-1, wants_whole=True)
    unknown = found.gets(Said("pi-0", astray))  # it shows no ticket
    waiting = found.hears("pi-0", astray)
    assigned(found, astray, holding(-1))

    assert not any(isinstance(action, LedAstray) for action in (*unknown, *waiting, *found.hears("pi-0", astray)))


def test_who_is_led_astray_while_its_round_is_merged_is_told_of_too() -> None:
    found, astray = gateway(), holding(-1, wants_whole=True)
    assigned(found, holding(4), holding(4), holding(4))
    for agent in ("pi-1", "pi-2"):
        found.hears(agent, submission(agent, 5), *chunks(f"update of {agent} in round 5".encode()))
        found.gets(UpdateStored(agent))
    found.passes_deadline()

    assert found.state.phase is round_state.Phase.MERGING
    assert LedAstray("pi-0") in found.hears("pi-0", astray)
    assert LedAstray("pi-0") not in found.hears("pi-0", astray)


def agent_with_task() -> Agent:
    agent = Agent(started(tasks=frozenset({TASK.digest})))
    agent.gets(agent_state.Connected())
    return agent


def test_an_agent_that_lacks_nothing_trains_at_once_and_says_after_a_while_that_it_is_there() -> None:
    agent, work = agent_with_task(), msgspec.structs.replace(assignment(), **HERE)

    assert agent.gets(work) == (Train(1, work, b""),)
    assert agent.state.phase is Phase.TRAINING

    assert agent.waits() == (Send(Begun(round=0)),)
    assert BEGUN_S <= agent.now < ANSWER_S
    assert agent.state.begun_at is None


def test_an_agent_that_is_done_soon_need_not_say_that_it_has_begun() -> None:
    agent, work = agent_with_task(), msgspec.structs.replace(assignment(), **HERE)
    agent.gets(work, TrainingDone(1, submit()))

    assert agent.state.begun_at is None


def test_a_small_model_is_in_the_assignment_and_named_in_those_that_follow() -> None:
    found = gateway()
    found.state = replace(found.state, model=replace(FIFTH, small={FROM_4.digest: b"from 4"}))
    near, far = assigned(found, holding(4), holding(3))

    assert (near.model, near.base) == (b"from 4", 4)
    assert (far.model, far.base) == (FROM_3, 3)
    (again,) = sent_to("pi-0", found.hears("pi-0", holding(4)), Assignment)
    assert (again.model, again.base) == (FROM_4, 4)


def test_a_model_that_came_with_the_assignment_is_not_asked_for() -> None:
    agent, work = agent_with_task(), msgspec.structs.replace(assignment(), model=b"from 4", base=0)

    assert agent.gets(work) == (Train(1, work, b"from 4"),)


def test_an_agent_that_holds_the_model_fetches_the_task_alone() -> None:
    agent = Agent()
    agent.gets(agent_state.Connected(), msgspec.structs.replace(assignment(), **HERE))

    assert set(agent.state.receiving) == {TASK.digest}
    assert agent.gets(*chunks(b"task" * 10))[-1] == Train(1, msgspec.structs.replace(assignment(), **HERE), b"")


def test_an_agent_says_what_it_holds_as_soon_as_its_disk_holds_it() -> None:
    agent = agent_with_task()
    agent.gets(assignment(), *chunks(MODEL_BLOB))
    assert (agent.state.offer.run, agent.state.offer.version) == NONE_HELD

    agent.gets(HeldChanged((RUN, 0)))

    assert (agent.state.offer.run, agent.state.offer.version) == (RUN, 0)


def test_an_agent_whose_trainings_are_always_recalled_says_each_version_that_it_reached() -> None:
    """Else replays to it became ever longer, and then whole models."""
    agent = agent_with_task()
    for round_ in range(3):
        agent.gets(assignment(round_), *chunks(MODEL_BLOB), HeldChanged((RUN, round_)))

        stop, offer = agent.gets(manifest(round_ + 1))

        assert stop == StopTraining()
        assert (offer.message.run, offer.message.version) == (RUN, round_)


def test_a_model_that_is_decoded_after_its_training_was_stopped_is_held_all_the_same() -> None:
    agent = agent_with_task()
    agent.gets(assignment(), *chunks(MODEL_BLOB), manifest(1))

    agent.gets(HeldChanged((RUN, 0)))

    assert agent.state.phase is Phase.IDLE
    assert (agent.state.offer.run, agent.state.offer.version) == (RUN, 0)


def test_the_whole_model_is_wanted_until_it_is_held_though_its_training_is_stopped() -> None:
    agent = agent_with_task()
    agent.gets(msgspec.structs.replace(assignment(), **HERE), HeldChanged(NONE_HELD))
    agent.gets(TrainingFailed(1, "it leads elsewhere", frozenset({TASK.digest}), wants_whole=True))
    agent.gets(assignment(), *chunks(MODEL_BLOB))
    agent.gets(TrainingFailed(2, "the data are gone", frozenset({TASK.digest})))
    assert agent.state.offer.wants_whole

    agent.gets(assignment(), *chunks(MODEL_BLOB), HeldChanged((RUN, 0)))
    _, offer = agent.gets(manifest(1))

    assert (offer.message.version, offer.message.wants_whole) == (0, False)


def test_an_agent_that_is_started_again_says_what_it_holds() -> None:
    state = agent_state.start(
        "pi-1", CHECK_IN, LIMITS, done=NOTHING_DONE, durations=NO_DURATIONS, tasks=frozenset(), pending=None,
        held=(RUN, 7),
    )  # fmt: skip

    (offer,) = Agent(state).gets(agent_state.Connected())

    assert (offer.message.run, offer.message.version, offer.message.wants_whole) == (RUN, 7, False)


def test_what_is_held_and_leads_elsewhere_is_fetched_whole_in_the_same_round() -> None:
    agent = agent_with_task()
    agent.gets(msgspec.structs.replace(assignment(), **HERE))

    actions = agent.gets(TrainingFailed(1, "it leads elsewhere", frozenset({TASK.digest}), wants_whole=True))

    assert agent.state.phase is Phase.IDLE
    (warning,) = (action for action in actions if isinstance(action, Warn))
    assert warning.text == "round 1: it leads elsewhere; it is fetched whole"
    (said,) = (action.message for action in actions if isinstance(action, agent_state.Send))
    assert isinstance(said, CheckIn)
    assert said.wants_whole
    agent.gets(assignment(), *chunks(MODEL_BLOB), HeldChanged((RUN, 0)), TrainingDone(2, submit()))
    assert not agent.state.offer.wants_whole


def test_other_trouble_is_no_reason_to_fetch_the_model_again() -> None:
    agent = agent_with_task()
    agent.gets(assignment(), *chunks(MODEL_BLOB), HeldChanged((RUN, 0)))

    (said,) = agent.gets(TrainingFailed(1, "out of memory", frozenset({TASK.digest})))

    assert isinstance(said.message, Failed)
    assert (agent.state.offer.version, agent.state.offer.wants_whole) == (0, False)


def test_the_same_work_by_other_bytes_changes_nothing() -> None:
    agent = agent_with_task()
    agent.gets(assignment())
    before = agent.state.receiving

    assert agent.gets(msgspec.structs.replace(assignment(), model=FROM_3, base=2)) == ()

    assert agent.state.receiving is before
    assert MODEL.digest in agent.state.receiving
