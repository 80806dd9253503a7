"""The agent's shell: durable before it is said, and deaf to what was not said to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_agent.agent_machine import Phase, Train
from edge_agent.local_round import LocalResult
from edge_agent.runner import AgentRunner
from edge_agent.store import AgentStore
from edge_agent.updates import PreparedUpdate
from fedprune.system.disk import Directory
from fedprune.wire.link import Delivery
from fedprune.wire.messages import DOWNLINK, Accepted, CheckIn, Chunk, Message, Need, Submit, decode, encode, kind_of
from fedprune.wire.topics import Topics
from tests.drivers import CHECK_IN
from tests.recorder import Recorder
from tests.samples import (
    MODEL,
    MODEL_BLOB,
    RUN,
    TASK,
    TASK_BLOB,
    UPDATE,
    UPDATE_BLOB,
    assignment,
    chunks,
    manifest,
    submit,
)

TOPICS = Topics("tests")


class Device:
    """An agent with a real store on a recorded link."""

    def __init__(self, path: Path) -> None:
        self.store = AgentStore(Directory(path))
        self.link = Recorder()
        self.trains: list[Train] = []
        self.runner = AgentRunner("pi-1", CHECK_IN, TOPICS, self.link, self.store, self.trains.append)
        self.runner.connect(0.0)

    def hears(self, *messages: Message) -> None:
        for message in messages:
            self.runner.deliver(Delivery(TOPICS.down("pi-1", kind_of(message)), encode(message)), 0.0)

    def said(self, kind: type[Message]) -> list[Message]:
        names = {CheckIn: "check-in", Need: "need", Submit: "submit", Chunk: "chunk"}
        return [decode(kind, payload) for payload in self.link.on(TOPICS.up("pi-1", names[kind]))]

    def trained(self) -> LocalResult:
        owed = {"kernel": np.zeros(3, np.float32)}
        return LocalResult(submit(), PreparedUpdate(UPDATE_BLOB, owed, owed), None)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path / "state")


def training(device: Device) -> Device:
    device.hears(assignment(), *chunks(TASK_BLOB), *chunks(MODEL_BLOB))
    assert device.runner.state.phase is Phase.TRAINING
    return device


def test_it_listens_to_what_is_said_to_it_and_to_all_and_to_nothing_else(device: Device) -> None:
    own = {TOPICS.down("pi-1", kind) for kind in DOWNLINK} | {TOPICS.round}
    assert set(device.link.filters) == own

    device.hears(assignment())
    assert set(device.link.filters) == own | {TOPICS.content(TASK.digest), TOPICS.content(MODEL.digest)}
    device.hears(*chunks(TASK_BLOB), *chunks(MODEL_BLOB))
    assert set(device.link.filters) == own


def test_a_task_is_on_the_disk_before_it_is_trained(device: Device) -> None:
    training(device)

    assert device.store.task(TASK.digest) == TASK_BLOB
    assert device.trains == [Train(assignment(), MODEL_BLOB)]


def test_an_update_is_on_the_disk_before_it_is_submitted(device: Device) -> None:
    training(device)
    remembered = []
    device.link.on_publish = lambda _: remembered.append(device.store.pending)

    device.runner.finish(device.trained(), 0.0)

    assert remembered
    assert set(remembered) == {submit()}
    assert device.said(Submit) == [submit()]
    assert device.said(Chunk) == chunks(UPDATE_BLOB)


def test_an_update_is_settled_before_anything_else_is_said(device: Device) -> None:
    training(device).runner.finish(device.trained(), 0.0)
    pending = []
    device.link.on_publish = lambda _: pending.append(device.store.pending)

    device.hears(Accepted(run=RUN, round=0, digest=UPDATE.digest))
    device.runner.deliver(Delivery(TOPICS.round, encode(manifest(incarnation=7))), 0.0)

    assert pending == [None]
    assert device.store.settled == 0


def test_a_restart_submits_what_was_not_answered(device: Device, tmp_path: Path) -> None:
    training(device).runner.finish(device.trained(), 0.0)

    again = Device(tmp_path / "state")
    again.hears(Need(digest=UPDATE.digest, missing=b"\x06"))

    assert again.said(Submit) == [submit()]
    assert again.said(Chunk) == chunks(UPDATE_BLOB)[1:]


@pytest.mark.parametrize(
    "delivery",
    [
        Delivery(TOPICS.round, b"noise"),
        Delivery(TOPICS.round, encode(CHECK_IN)),
        Delivery(TOPICS.down("pi-2", "assignment"), encode(assignment())),
        Delivery(TOPICS.down("pi-1", "check-in"), encode(CHECK_IN)),
        Delivery(TOPICS.down("pi-1", "assignment"), b""),
        Delivery(TOPICS.down("pi-1", "assignment"), b"\0" * 5_000_000),
        Delivery(TOPICS.up("pi-1", "submit"), encode(submit())),
        Delivery(TOPICS.content(TASK.digest), encode(chunks(MODEL_BLOB)[0])),
        Delivery("another/topic", encode(chunks(MODEL_BLOB)[0])),
        Delivery("", b""),
    ],
)
def test_what_was_not_said_to_it_is_counted_and_ignored(device: Device, delivery: Delivery) -> None:
    before = device.runner.state

    device.runner.deliver(delivery, 0.0)

    assert device.runner.ignored == 1
    assert device.runner.state == before


def test_a_manifest_that_was_cleared_is_no_message(device: Device) -> None:
    device.runner.deliver(Delivery(TOPICS.round, b""), 0.0)

    assert device.runner.ignored == 0
