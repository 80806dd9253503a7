"""An agent that is not answered says so: where it asked, what may be wrong, and ever more seldom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from edge_agent.agent_state import (
    Connected,
    Disconnected,
    Phase,
    Send,
    SendUpdate,
    Ticked,
    TrainingDone,
    Warn,
    WarnUnanswered,
)
from edge_agent.silence import describe
from fedprune.wire.messages import Failed, Need
from fedprune.wire.silence import FIRST_SAID
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import CHUNK_SIZES, ENVELOPE_BYTES, content_of, need_of
from tests.agents import agent_in, no_work
from tests.drivers import Agent, started
from tests.samples import TASK, assignment, chunks, manifest, submit

FULL, SMALL, SMALLEST = CHUNK_SIZES
BLOB = bytes(40 * FULL)
LARGE = content_of(BLOB)


def words(actions: tuple[Any, ...]) -> list[WarnUnanswered]:
    return [action for action in actions if isinstance(action, WarnUnanswered)]


def fetching_large(seconds_left: float = 1e6) -> Agent:
    agent = Agent(started(limits=replace(started().limits, max_model_bytes=10**9), tasks=frozenset({TASK.digest})))
    agent.gets(Connected(), manifest())
    agent.gets(msgspec.structs.replace(assignment(model=LARGE), seconds_left=seconds_left))
    assert agent.state.phase is Phase.FETCHING
    return agent


@pytest.mark.parametrize("is_seen", [False, True])
def test_a_few_check_ins_without_an_answer_are_said(is_seen: bool) -> None:
    agent = agent_in(Phase.IDLE)
    if is_seen:
        agent.state = replace(agent.state, seen=agent_in(Phase.IDLE, seen_state()).state.seen)
    for _ in range(FIRST_SAID - 1):
        assert words(agent.waits()) == []

    assert words(agent.waits()) == [WarnUnanswered("check-in", FIRST_SAID, is_seen)]


def seen_state() -> Any:
    agent = Agent()
    agent.gets(Connected(), manifest())
    return agent.state


def test_an_agent_that_is_answered_has_nothing_to_say_however_long_it_waits_for_work() -> None:
    agent = agent_in(Phase.IDLE)
    for _ in range(100):
        assert words(agent.waits()) == []
        agent.gets(no_work())


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.FETCHING, Phase.SUBMITTING])
def test_a_day_of_silence_is_some_lines(phase: Phase) -> None:
    agent = agent_in(phase)
    said = 0
    while agent.now < 86_400:
        said += len(words(agent.waits()))

    assert 1 <= said <= 48


def test_submits_that_stay_unanswered_are_said() -> None:
    agent = agent_in(Phase.SUBMITTING)
    said: list[WarnUnanswered] = []
    while not said:
        said = words(agent.waits())

    assert said[0].kind == "submit"
    assert 60.0 <= agent.now <= 600.0


def test_a_model_that_does_not_come_though_the_gateway_answers_is_asked_for_in_smaller_chunks_and_that_is_said() -> (
    None
):
    agent, lines, sizes = fetching_large(), [], list[int]()
    said: list[WarnUnanswered] = []
    while not said:
        actions = agent.waits()
        agent.gets(assignment(model=LARGE))  # the answer to the check-in that comes along
        lines += [action.text for action in actions if isinstance(action, Warn)]
        needs = [action.message for action in actions if isinstance(action, Send)]
        sizes += [need.chunk_bytes for need in needs if isinstance(need, Need)]
        said = words(actions)

    assert sizes[:2] == [SMALL, SMALLEST]
    assert [f"no chunk of {size} bytes" in line for size, line in zip((FULL, SMALL), lines, strict=True)] == [
        True,
        True,
    ]
    assert said == [WarnUnanswered("need", FIRST_SAID, True, SMALLEST)]


def test_what_was_learned_of_the_broker_holds_for_the_next_model_and_for_the_update() -> None:
    agent = fetching_large()
    agent.waits()
    agent.gets(*chunks(BLOB, SMALL))
    assert agent.state.phase is Phase.TRAINING

    _, pushed = agent.gets(TrainingDone(1, submit(update=LARGE)))

    assert isinstance(pushed, SendUpdate)
    assert pushed.chunk_bytes == SMALL


def test_an_update_that_the_gateway_asks_for_in_smaller_chunks_is_sent_so_and_so_is_the_next() -> None:
    agent = agent_in(Phase.TRAINING)
    agent.gets(TrainingDone(1, submit(update=LARGE)), Disconnected(), Connected())

    (sent,) = agent.gets(need_of(LARGE, (3, 4), SMALL))

    assert sent == SendUpdate((3, 4), SMALL)
    assert agent.state.link.chunk_bytes == SMALL


def test_a_broker_that_hangs_up_on_an_update_is_sent_smaller_chunks() -> None:
    agent = agent_in(Phase.TRAINING)
    agent.gets(TrainingDone(1, submit(update=LARGE)), Disconnected(), Connected())
    agent.gets(need_of(LARGE, (0,), FULL), Disconnected())

    said = [action.text for action in agent.gets(Connected()) if isinstance(action, Warn)]

    assert len(said) == 1
    assert f"hung up 2 times in a row on chunks of {FULL} bytes" in said[0]
    (sent,) = agent.gets(need_of(LARGE, (0,), FULL))
    assert sent == SendUpdate(tuple(range(8)), SMALL)


def test_a_fetch_that_cannot_end_in_time_is_given_up_long_before_the_deadline() -> None:
    agent = fetching_large(seconds_left=200.0)
    failed: list[Failed] = []
    for chunk in chunks(BLOB):
        agent.now += 15.0
        actions = agent.gets(chunk)
        failed = [
            action.message for action in actions if isinstance(action, Send) and isinstance(action.message, Failed)
        ]
        if failed or agent.state.phase is not Phase.FETCHING:
            break

    assert agent.state.phase is Phase.IDLE
    assert agent.now < 100.0


def test_a_fetch_that_is_only_a_little_slow_goes_on() -> None:
    agent = fetching_large(seconds_left=500.0)
    for chunk in chunks(BLOB)[:-1]:
        agent.now += 15.0
        agent.gets(chunk, Ticked())

    assert agent.state.phase is Phase.FETCHING


@pytest.mark.parametrize(
    ("silence", "named"),
    [
        (
            WarnUnanswered("check-in", 3, False),
            ("fp/field/u/", "/pi-1/c", "fp/field/r", "name"),
        ),
        (WarnUnanswered("check-in", 3, True), ("/pi-1/c", "fp/field/d/pi-1/#", "aggregator run")),
        (WarnUnanswered("submit", 6, True), ("6 messages", "/pi-1/s", "fp/field/d/pi-1/#")),
        (
            WarnUnanswered("need", 3, True, SMALLEST),
            ("/pi-1/n", f"messages of {SMALLEST + ENVELOPE_BYTES} bytes", "fp/field/c/#"),
        ),
    ],
)
def test_the_line_names_federation_broker_topics_and_the_likely_reason(
    silence: WarnUnanswered, named: tuple[str, ...]
) -> None:
    line = describe(silence, Topics("field"), "pi-1", "mqtt://gateway.local:1883", runs=None)

    assert "'field' at mqtt://gateway.local:1883" in line
    assert "\n" not in line
    assert [name for name in named if name not in line] == []
