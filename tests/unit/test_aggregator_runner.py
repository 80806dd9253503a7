"""The aggregator's shell: what it does with a damaged disk, what people read, and that a flood puts nothing off."""

from __future__ import annotations

import itertools
import queue
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from aggregator import process
from aggregator.exchange import LONGEST_WAIT_S
from aggregator.round_answers import ticket
from aggregator.round_state import Phase
from aggregator.run_store import RunStore
from aggregator.runner import AggregatorRunner
from fedprune.errors import StorageError
from fedprune.system.log import LINES_PER_MINUTE
from fedprune.wire.link import Delivery, LinkUp
from fedprune.wire.messages import (
    CheckIn,
    Failed,
    encode,
    kind_of,
)
from fedprune.wire.transfer import content_of
from tests.gateways import AGENTS, BUNDLE, TASK_PLAN, TOPICS, Site, begin, fetch, submit_update, tell, trained
from tests.samples import chunks


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "run")


def test_a_round_is_merged_recorded_and_tidied_up(site: Site) -> None:
    runner = begin(site)
    site.updates.write("000099-left-over.update", b"of a crash between the book and the disk")
    for agent in AGENTS:
        submit_update(site, runner, agent)

    (record,) = site.records
    assert (record.round, record.agents, record.train_loss, record.ignored, record.refused) == (0, 2, 1.0, 0, 0)
    assert site.updates.names() == []
    assert site.checkpoints.names() == ["000000.safetensors", "000001.safetensors"]


def test_a_restart_changes_nothing_about_the_result(site: Site, tmp_path: Path) -> None:
    runner = begin(site)
    for agent in AGENTS:
        submit_update(site, runner, agent)
    other = Site(tmp_path / "other")
    submit_update(other, begin(other), AGENTS[0])
    submit_update(other, begin_again(other), AGENTS[1])

    ours, theirs = (place.checkpoints.path / "000001.safetensors" for place in (site, other))
    assert ours.stat().st_size == theirs.stat().st_size
    assert runner.state.model == other.start().state.model


def test_a_restart_finds_each_of_the_updates_that_came_together_and_share_a_file(site: Site, tmp_path: Path) -> None:
    plan, late = replace(TASK_PLAN, cohort=3, quorum=3), "pi-2"
    alone = Site(tmp_path / "alone")
    expected = begin(alone, (*AGENTS, late), plan=plan)
    for agent in (*AGENTS, late):
        submit_update(alone, expected, agent)

    runner = begin(site, (*AGENTS, late), plan=plan)
    results = {agent: trained(site, runner, agent) for agent in AGENTS}
    for agent, result in results.items():
        for message in (result.submit, *chunks(result.update.blob)):
            runner.deliver(Delivery(TOPICS.up(agent, kind_of(message)), encode(message)))
    runner.settle()
    assert len(site.updates.names()) == 1
    runner = site.start(plan)
    runner.connect()
    tell(runner, late, CheckIn(examples=7))
    submit_update(site, runner, late)

    assert runner.state.round == 1
    assert runner.state.model == expected.state.model


def begin_again(site: Site) -> AggregatorRunner:
    runner = site.start()
    runner.connect()
    tell(runner, AGENTS[1], CheckIn(examples=7))
    return runner


@pytest.mark.parametrize("damage", [None, b"", b"noise"])
def test_an_accepted_update_that_is_damaged_is_named_and_stops_the_gateway(site: Site, damage: bytes | None) -> None:
    runner = begin(site)
    submit_update(site, runner, AGENTS[0])
    (name,) = site.updates.names()
    if damage is None:
        site.updates.delete(name)
    else:
        site.updates.write(name, damage)

    runner = begin_again(site)
    why = f"the accepted update of {AGENTS[0]} in {name} is missing or damaged; restore it"
    with pytest.raises(StorageError, match=why):
        submit_update(site, runner, AGENTS[1])
    assert site.start().state.phase is Phase.TRAINING


def test_a_checkpoint_of_another_task_is_said_to_be(site: Site) -> None:
    runner = begin(site)
    for agent in AGENTS:
        submit_update(site, runner, agent)
    other = safetensors.numpy.save(
        {"w": np.zeros(3, np.float32), "exact/w": np.zeros(3, np.float32)},
        {"run": TASK_PLAN.run, "version": "1", "tensors": '["w"]'},
    )
    site.checkpoints.write("000001.safetensors", other)

    with pytest.raises(StorageError, match="checkpoint 1 is of another task"):
        site.start()


def test_a_checkpoint_of_another_run_is_said_to_be(site: Site, tmp_path: Path) -> None:
    for place in (site, Site(tmp_path / "other")):
        runner = begin(place, plan=replace(TASK_PLAN, run=place.path.name))
        for agent in AGENTS:
            submit_update(place, runner, agent)
    site.checkpoints.write("000001.safetensors", (tmp_path / "other/checkpoints/000001.safetensors").read_bytes())

    with pytest.raises(StorageError, match="checkpoint 1 is of run other, the book of run run; restore the right one"):
        site.start(replace(TASK_PLAN, run="run"))


@pytest.mark.parametrize("damage", ["deleted", "emptied"])
def test_a_book_that_is_gone_is_no_new_run(site: Site, damage: str) -> None:
    """An SD card or a tool that synchronises may lose it: what it knew of must not be overwritten."""
    begin(site)
    site.book.close()
    before = {path: path.read_bytes() for path in site.path.rglob("*.safetensors")}
    for path in site.path.glob("book.sqlite*"):
        if damage == "deleted" or path.name != "book.sqlite":
            path.unlink()
        else:
            path.write_bytes(b"")

    for _ in range(2):
        with pytest.raises(
            StorageError, match=r"holds a run's checkpoints, but book\.sqlite knows of none: restore it"
        ):
            RunStore.open(site.path)
    assert {path: path.read_bytes() for path in site.path.rglob("*.safetensors")} == before


def test_the_last_checkpoints_and_the_best_stay(site: Site) -> None:
    accuracies = iter([0.5, 0.9, 0.6, 0.7, 0.8, 0.8, 0.8, 0.8])
    runner = begin(site, plan=replace(TASK_PLAN, rounds=8), keep=2, accuracy=lambda: next(accuracies))
    for round_ in range(8):
        assert runner.state.round == round_
        for agent in AGENTS:
            submit_update(site, runner, agent)

    assert site.checkpoints.names() == ["000002.safetensors", "000007.safetensors", "000008.safetensors"]
    assert site.start(replace(TASK_PLAN, rounds=8)).state.phase is Phase.DONE


def test_a_model_that_has_diverged_is_recorded_without_a_loss(site: Site) -> None:
    runner = begin(site, loss=float("nan"))
    for agent in AGENTS:
        submit_update(site, runner, agent)

    assert site.records[0].loss is None
    assert site.start().state.round == 1


def test_people_read_why_an_agent_failed_whatever_it_says(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    runner = begin(site)

    tell(runner, AGENTS[0], Failed(run=TASK_PLAN.run, round=0, why="data.npz:\n\x1b[2Jlabel 9 is out of range"))

    (line,) = [message for message in caplog.messages if "cannot do" in message]
    assert line == r"pi-0 cannot do round 1: 'data.npz:\n\x1b[2Jlabel 9 is out of range'"


def test_agents_that_say_much_withhold_no_warning_about_the_round(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    runner = begin(site, clock=lambda: now[0])
    for index in range(LINES_PER_MINUTE + 1):
        tell(runner, f"stranger-{index}", Failed(run=TASK_PLAN.run, round=0, why="so that nothing else is read"))

    now[0] = TASK_PLAN.deadline_s
    runner.tick()

    (line,) = [message for message in caplog.messages if message.startswith("round 1: at the deadline")]
    assert line.endswith("it has 0 of the 2 updates that it needs, and stays open; nothing came from pi-0, pi-1")


def test_foreign_topics_are_logged_without_their_control_characters(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.start().deliver(Delivery("fp/tests/u/\x1b[2J\n", b""))

    assert all(message.isprintable() for message in caplog.messages)


def test_contents_are_what_their_digests_say(site: Site) -> None:
    runner = begin(site)

    assert fetch(site, runner, TASK_PLAN.task) == BUNDLE.blob
    assert content_of(fetch(site, runner, runner.state.model.content)) == runner.state.model.content


def test_a_flood_of_messages_puts_no_alarm_off(site: Site) -> None:
    """The round opens when the wait is over, however many messages are still to be read."""
    now = itertools.count()
    runner = site.start(replace(TASK_PLAN, cohort=3, quorum=2, gather_s=1.0), clock=lambda: float(next(now)))
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    events.put(LinkUp())
    for agent in AGENTS:
        events.put(
            Delivery(
                TOPICS.up(agent, "check-in"), encode(CheckIn(examples=7, ticket=ticket(TASK_PLAN.ticket_key, agent)))
            )
        )
    events.put(Delivery("noise", b""))
    events.put(KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        process._loop(runner, events)

    assert runner.state.phase is Phase.TRAINING


def test_an_update_waits_for_others_no_longer_than_that_however_many_messages_come(site: Site) -> None:
    now = [0.0]
    runner = begin(site, clock=lambda: now[0])
    result = trained(site, runner, AGENTS[0])
    for message in (result.submit, *chunks(result.update.blob)):
        runner.deliver(Delivery(TOPICS.up(AGENTS[0], kind_of(message)), encode(message)))
    runner.tick()
    assert not runner.state.cohort.accepted

    now[0] += LONGEST_WAIT_S
    runner.deliver(Delivery(TOPICS.up("nobody", "chunk"), b""))
    runner.tick()

    assert runner.state.cohort.accepted == 1
