"""How the agent fetches and sends contents: nothing twice, no more than it has room for, as fast as the link is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from edge_agent.agent_state import (
    Connected,
    Disconnected,
    Follow,
    Limits,
    LinkDrained,
    Phase,
    Send,
    SendUpdate,
    SubmitWhole,
    Ticked,
    Train,
    TrainingDone,
    TrainingFailed,
    Unfollow,
    Warn,
)
from fedprune.errors import ProtocolError
from fedprune.wire.messages import (
    CHUNK_BYTES,
    MAX_CONTENT_BYTES,
    MAX_INLINE_BYTES,
    Assignment,
    Chunk,
    Content,
    Failed,
    Need,
)
from fedprune.wire.serving import BURST_CHUNKS, STALLED_S
from fedprune.wire.transfer import CHUNK_SIZES, FIRST_WINDOW, content_of, unpack_bitmap
from tests.agents import agent_in
from tests.drivers import Agent, need, started
from tests.samples import (
    MODEL,
    MODEL_BLOB,
    TASK,
    TASK_BLOB,
    UPDATE,
    accepted,
    assignment,
    changed,
    chunks,
    digest,
    manifest,
    submit,
)

COUNT = 40
BLOB = bytes(COUNT * CHUNK_BYTES)
LARGE = content_of(BLOB)
ROOM = Limits(max_task_bytes=TASK.size, max_model_bytes=MODEL.size)


def asked(actions: tuple[Any, ...], content: Content = LARGE) -> list[int]:
    """The chunks of a content that `actions` ask for."""
    needs = [action.message for action in actions if isinstance(action, Send) and isinstance(action.message, Need)]
    return [index for need in needs if need.digest == content.digest for index in unpack_bitmap(need.missing, COUNT)]


def sent(actions: tuple[Any, ...]) -> list[int]:
    return [index for action in actions if isinstance(action, SendUpdate) for index in action.indexes]


def large_assignment() -> Assignment:
    return msgspec.structs.replace(assignment(model=LARGE), seconds_left=10_000.0)


def fetching_large() -> Agent:
    agent = Agent(started(limits=Limits(10**9, 10**9), tasks=frozenset({TASK.digest})))
    agent.gets(Connected(), manifest())
    assert asked(agent.gets(large_assignment())) == list(range(FIRST_WINDOW))
    return agent


def submitting_large() -> Agent:
    agent = agent_in(Phase.TRAINING)
    agent.gets(TrainingDone(1, submit(update=LARGE)))
    return agent


# Fetching


@pytest.mark.parametrize("phase", Phase)
def test_a_manifest_that_is_repeated_asks_nothing(phase: Phase) -> None:
    agent = agent_in(phase)
    agent.gets(manifest())

    assert [agent.gets(manifest()) for _ in range(3)] == [(), (), ()]


def test_a_large_model_is_fetched_in_windows_and_no_chunk_is_asked_for_twice() -> None:
    agent = fetching_large()
    wanted = list(range(FIRST_WINDOW))
    for chunk in chunks(BLOB):
        agent.now += 0.1
        wanted += asked(agent.gets(chunk))
        agent.gets(manifest(), large_assignment(), Ticked())

    assert wanted == list(range(COUNT))
    assert agent.state.phase is Phase.TRAINING


def test_after_a_reconnection_what_is_missing_is_asked_for_once() -> None:
    agent = fetching_large()
    agent.gets(*chunks(BLOB)[:3], Disconnected())

    actions = agent.gets(Connected())

    assert Follow(LARGE.digest) in actions
    assert asked(actions) == list(range(3, 3 + FIRST_WINDOW))
    assert agent.gets(manifest()) == ()


def test_a_gateway_that_was_started_again_is_told_again_what_is_missing() -> None:
    agent = fetching_large()
    agent.gets(*chunks(BLOB)[:3])

    actions = agent.gets(manifest(incarnation=2))

    assert asked(actions) == list(range(3, 3 + FIRST_WINDOW))
    assert Send(agent.state.offer) in actions
    assert agent.gets(manifest(incarnation=2)) == ()


def test_a_slow_link_is_waited_for_whatever_the_agents_name() -> None:
    for name in ("pi-1", "pi-2", "another", "x" * 64):
        agent = fetching_large()
        agent.state = replace(agent.state, name=name)
        for chunk in chunks(BLOB)[:-1]:
            agent.now += 15.0  # 64 kbit/s
            actions = agent.gets(Ticked(), chunk)
            assert len(asked(actions)) == len(set(asked(actions)))
        assert agent.state.link.pace == 15.0
        assert agent.state.wake_at is not None
        assert agent.state.wake_at - agent.now >= 60.0


def test_the_next_content_is_waited_for_as_long_as_the_last_ones_pace_says() -> None:
    slow = fetching_large()
    slow.now += 100.0
    slow.gets(chunks(BLOB)[0], manifest(1))
    slow.gets(assignment(1))

    assert slow.state.wake_at is not None
    assert slow.state.wake_at - slow.now >= 400.0


@pytest.mark.parametrize("size", [MODEL.size + 1, MAX_CONTENT_BYTES])
def test_a_content_that_the_device_has_no_room_for_is_refused_before_anything_is_asked_for(size: int) -> None:
    huge = Content(digest=digest("huge"), size=size)
    for work, what in (
        (assignment(model=huge), "model"),
        (changed(assignment(), task=Content(huge.digest, size + 24)), "task"),
    ):
        agent = agent_in(Phase.IDLE, started(limits=ROOM))

        said, warned = agent.gets(work)

        assert isinstance(said, Send)
        assert isinstance(said.message, Failed)
        assert said.message.why.startswith(f"the {what} is ")
        assert "this device has room for" in said.message.why
        assert isinstance(warned, Warn)
        assert agent.state.phase is Phase.IDLE
        assert not agent.state.receiving


def test_a_task_that_is_already_here_needs_no_room() -> None:
    agent = agent_in(Phase.IDLE, started(limits=Limits(0, MODEL.size), tasks=frozenset({TASK.digest})))
    agent.gets(assignment())
    assert agent.state.phase is Phase.FETCHING


def test_an_assignment_without_room_replaces_the_one_that_is_fetched() -> None:
    agent = agent_in(Phase.FETCHING, started(limits=ROOM))

    actions = agent.gets(assignment(1, model=Content(digest=digest("huge"), size=10**9)))

    assert {Unfollow(MODEL.digest), Unfollow(TASK.digest)} <= set(actions)
    assert agent.state.phase is Phase.IDLE


def test_the_task_is_fetched_once() -> None:
    agent = agent_in(Phase.SUBMITTING)

    actions = agent.gets(accepted(), assignment(1, model=content_of(b"model of round 1")))

    assert [type(action) for action in actions] == [Follow, Send]
    assert agent.gets(*chunks(b"model of round 1"))[-1] == Train(
        2, assignment(1, model=content_of(b"model of round 1")), b"model of round 1"
    )


def test_wrong_bytes_make_the_whole_content_come_again() -> None:
    agent = agent_in(Phase.FETCHING)
    agent.gets(*chunks(TASK_BLOB))

    poisoned = Chunk(digest=MODEL.digest, index=0, data=b"X" * len(MODEL_BLOB))
    told, asked = agent.gets(poisoned)
    assert isinstance(told, Warn)
    assert "arrived with another digest: somebody between sends other chunks than the gateway" in told.text
    assert asked == Send(need(MODEL))
    assert agent.gets(*chunks(MODEL_BLOB))[-1] == Train(1, assignment(), MODEL_BLOB)


def test_what_cannot_be_a_chunk_of_the_content_raises_and_changes_nothing() -> None:
    agent = agent_in(Phase.FETCHING)
    before = agent.state
    for chunk in (
        Chunk(digest=MODEL.digest, index=1, data=MODEL_BLOB),
        Chunk(digest=MODEL.digest, index=0, data=MODEL_BLOB[:-1]),
    ):
        with pytest.raises(ProtocolError):
            agent.gets(chunk)
        assert agent.state == before


def test_only_what_is_missing_is_asked_for_again() -> None:
    agent = agent_in(Phase.FETCHING)
    agent.gets(*chunks(TASK_BLOB))

    assert agent.waits() == (Send(need(MODEL)), Send(agent.state.offer))


def test_a_task_that_is_not_kept_any_more_is_fetched_again() -> None:
    """The training found it damaged on the disk."""
    agent = Agent()
    agent.gets(Connected(), assignment(), *chunks(TASK_BLOB), *chunks(MODEL_BLOB))
    assert agent.state.phase is Phase.TRAINING

    agent.gets(TrainingFailed(agent.state.training, "the task bundle is damaged", frozenset()))
    agent.gets(assignment(1, model=content_of(b"next")))

    assert set(agent.state.receiving) == {TASK.digest, content_of(b"next").digest}


# Sending


def test_chunks_are_sent_as_often_as_they_are_asked_for() -> None:
    agent = agent_in(Phase.SUBMITTING)

    for missing, indexes in ((b"\x05", (0, 2)), (b"\x02", (1,)), (b"\xff", (0, 1, 2))):
        agent.gets(LinkDrained())
        assert agent.gets(Need(digest=UPDATE.digest, missing=missing)) == (SendUpdate(indexes, CHUNK_BYTES),)
    with pytest.raises(ProtocolError, match="bitmap of 2 bytes for 3 chunks"):
        agent.gets(Need(digest=UPDATE.digest, missing=b"\1\1"))


def test_the_first_window_of_an_update_follows_its_submit_unasked() -> None:
    agent = agent_in(Phase.TRAINING)

    said, pushed = agent.gets(TrainingDone(1, submit(update=LARGE)))

    assert said == Send(submit(update=LARGE))
    assert pushed == SendUpdate(tuple(range(FIRST_WINDOW)), CHUNK_BYTES)


def test_bursts_wait_for_the_link() -> None:
    agent = submitting_large()

    assert agent.gets(Need(digest=LARGE.digest, missing=b"\xff" * 5)) == ()
    assert sent(agent.gets(LinkDrained())) == list(range(BURST_CHUNKS))
    assert sent(agent.gets(LinkDrained())) == list(range(BURST_CHUNKS, 2 * BURST_CHUNKS))
    assert sent(agent.gets(LinkDrained())) == list(range(2 * BURST_CHUNKS, COUNT))
    assert agent.gets(LinkDrained()) == ()


def test_while_chunks_are_on_their_way_the_submit_is_not_said_again() -> None:
    agent = submitting_large()
    agent.now += STALLED_S / 2
    assert agent.gets(Ticked()) == ()

    agent.gets(LinkDrained())
    assert agent.waits() == (Send(submit(update=LARGE)),)


def test_a_link_that_never_reports_is_not_waited_for_for_ever() -> None:
    agent = submitting_large()
    agent.gets(Need(digest=LARGE.digest, missing=b"\xff" * 5))

    assert sent(agent.waits()) == list(range(BURST_CHUNKS))


def test_on_a_new_connection_nothing_is_left_of_the_last_burst() -> None:
    agent = submitting_large()
    agent.gets(Disconnected())

    assert agent.gets(Connected())[-1] == Send(submit(update=LARGE))
    assert sent(agent.gets(Need(digest=LARGE.digest, missing=b"\x01" + bytes(4)))) == [0]


def test_without_a_link_nothing_is_pushed() -> None:
    agent = agent_in(Phase.TRAINING)
    agent.gets(Disconnected())
    assert agent.gets(TrainingDone(1, submit(update=LARGE))) == (Send(submit(update=LARGE)),)


def test_a_small_update_is_in_the_first_submit_and_named_in_those_that_follow() -> None:
    small = content_of(b"x" * MAX_INLINE_BYTES)
    agent = agent_in(Phase.TRAINING)

    assert agent.gets(TrainingDone(1, submit(update=small))) == (SubmitWhole(),)
    assert agent.waits() == (Send(submit(update=small)),)
    assert agent.gets(Need(digest=small.digest, missing=b"\1")) == (SendUpdate((0,), CHUNK_SIZES[0]),)


def test_what_is_settled_is_served_no_longer() -> None:
    agent = submitting_large()
    agent.gets(accepted(update=LARGE))

    assert agent.gets(Need(digest=LARGE.digest, missing=b"\xff" * 5)) == ()
    assert agent.gets(LinkDrained()) == ()
    assert not agent.state.serving.contents


def test_a_task_that_came_before_a_reconnection_is_not_asked_for_again() -> None:
    agent = agent_in(Phase.FETCHING)
    agent.gets(*chunks(TASK_BLOB), Disconnected())

    needs = [action for action in agent.gets(Connected()) if isinstance(action, Send)]
    assert needs == [Send(agent.state.offer), Send(need(MODEL))]
