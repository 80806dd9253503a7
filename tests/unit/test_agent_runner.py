"""The agent's shell: durable before it is said, and deaf to what was not said to it."""

from __future__ import annotations

import errno
import logging
import os
import queue
from pathlib import Path
from typing import Any

import pytest

from edge_agent import process, residual_files
from edge_agent.agent_state import Phase, Ticked, Train
from edge_agent.consent import Consent
from edge_agent.consent_gate import ConsentGate
from edge_agent.history import Durations
from edge_agent.training_thread import TrainingThread
from fedprune.data import Data, Dataset
from fedprune.errors import StorageError, TrainingError
from fedprune.system.disk import Directory
from fedprune.system.log import LINES_PER_MINUTE
from fedprune.wire.link import Delivery
from fedprune.wire.messages import (
    DOWNLINK,
    CheckIn,
    Chunk,
    Failed,
    Need,
    Reason,
    Rejected,
    Submit,
    encode,
)
from tests.devices import TOPICS, Device, trained
from tests.drivers import CHECK_IN
from tests.samples import (
    MESSAGES,
    MODEL,
    MODEL_BLOB,
    RUN,
    TASK,
    TASK_BLOB,
    UPDATE,
    UPDATE_BLOB,
    accepted,
    assignment,
    chunks,
    manifest,
    submit,
)


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


def test_whoever_examines_it_has_it_say_what_the_aggregator_answers_in_each_phase(device: Device) -> None:
    device.runner.say_again()
    assert device.said(CheckIn)[-1].ticket == b""
    device.hears(Rejected(reason=Reason.NOT_SELECTED, ticket=b"a ticket"))
    training(device).runner.say_again()
    assert device.said(CheckIn)[-1].ticket == b"a ticket"  # without it, its round would be another's
    status = device.runner.status(5.0)
    assert (status.phase, status.round, status.heard_s) == ("training", 1, 5.0)
    device.ends_training()
    before = len(device.said(Submit))
    device.runner.say_again()
    assert len(device.said(Submit)) == before + 1
    device.hears(accepted())
    assert device.runner.status(0.0).round_bytes_written is not None


def test_a_task_is_on_the_disk_before_it_is_trained(device: Device) -> None:
    training(device)

    assert device.store.task(TASK.digest) == TASK_BLOB
    assert device.trains == [Train(1, assignment(), MODEL_BLOB)]


def test_an_update_is_on_the_disk_before_it_is_submitted(device: Device) -> None:
    training(device)
    remembered = []
    device.link.on_publish = lambda _: remembered.append(device.store.pending)

    device.ends_training()

    assert remembered
    assert set(remembered) == {submit()}
    assert device.said(Submit) == [submit()]
    assert device.said(Chunk) == chunks(UPDATE_BLOB)


def test_an_update_is_settled_before_anything_else_is_said(device: Device) -> None:
    training(device).ends_training()
    pending = []
    device.link.on_publish = lambda _: pending.append(device.store.pending)

    device.hears(accepted())
    device.runner.deliver(Delivery(TOPICS.round, encode(manifest(incarnation=7))), 0.0)

    assert pending == [None]
    assert device.store.done.of(RUN) == 0


def test_a_restart_submits_what_was_not_answered(device: Device, tmp_path: Path) -> None:
    training(device).ends_training()

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
        Delivery(TOPICS.down("pi-1", "assignment"), encode(assignment()), retained=True),
        Delivery(TOPICS.down("pi-1", "rejected"), encode(MESSAGES["rejected check-in"]), retained=True),
        Delivery(TOPICS.content(TASK.digest), encode(chunks(TASK_BLOB)[0]), retained=True),
    ],
)
def test_what_was_not_said_to_it_is_counted_and_ignored(device: Device, delivery: Delivery) -> None:
    before = device.runner.state

    device.runner.deliver(delivery, 0.0)

    assert device.runner.ignored == 1
    assert device.runner.state == before


def test_only_of_the_manifest_a_retained_one_is_obeyed(device: Device) -> None:
    said = len(device.said(CheckIn))
    device.runner.deliver(Delivery(TOPICS.round, encode(manifest()), retained=True), 0.0)

    assert device.runner.ignored == 0
    assert len(device.said(CheckIn)) == said + 1


def test_a_flood_of_noise_fills_no_log(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    noise = Rejected(reason=Reason.UNREADABLE, detail="x" * 1000)
    for _ in range(1000):
        device.runner.deliver(Delivery(TOPICS.round, b"noise"), 0.0)
        device.hears(noise)

    assert device.runner.ignored == 1000
    assert len(caplog.records) <= 2 * LINES_PER_MINUTE


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (TrainingError("the loss is nan"), "the loss is nan"),
        (MemoryError("Unable to allocate 300 MiB"), "MemoryError: Unable to allocate 300 MiB"),
        (ValueError("overflow"), "ValueError: overflow"),
        (KeyError("kernel"), "KeyError: 'kernel'"),
    ],
)
def test_whatever_fails_while_training_is_reported_and_the_agent_lives_on(
    device: Device, caplog: pytest.LogCaptureFixture, error: Exception, why: str
) -> None:
    training(device).ends_training(error)

    assert device.said(Failed) == [Failed(run=RUN, round=0, why=why)]
    assert device.runner.state.phase is Phase.IDLE
    (record,) = caplog.records
    is_expected = isinstance(error, TrainingError)
    assert bool(record.exc_info) is not is_expected, "what nobody foresaw keeps its traceback"
    device.hears(assignment(), *chunks(MODEL_BLOB))
    device.ends_training(number=2)
    assert device.said(Submit) == [submit()]


def test_an_update_that_cannot_be_packed_is_reported(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residual_files, "pack_residuals", _no_memory)
    training(device).ends_training()

    assert device.said(Failed) == [Failed(run=RUN, round=0, why="MemoryError: ")]
    assert device.store.pending is None


def test_a_full_disk_is_reported_before_it_ends_the_agent(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    training(device)
    monkeypatch.setattr(os, "fsync", _no_space)

    with pytest.raises(StorageError, match="No space left") as raised:
        device.ends_training()
    device.runner.give_up(str(raised.value), 0.0)

    (failed,) = device.said(Failed)
    assert isinstance(failed, Failed)
    assert "No space left" in failed.why
    assert device.store.pending is None


def test_a_disk_that_refuses_the_task_is_reported_before_it_ends_the_agent(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _no_space)

    with pytest.raises(StorageError) as raised:
        training(device)
    device.runner.give_up(str(raised.value), 0.0)

    assert [type(message) for message in device.said(Failed)] == [Failed]
    assert device.trains == []


def test_who_trains_nothing_reports_nothing_when_it_gives_up(device: Device) -> None:
    device.runner.give_up("disk full", 0.0)
    assert device.said(Failed) == []


def test_a_recall_stops_the_training_and_nothing_of_it_is_kept(device: Device, tmp_path: Path) -> None:
    training(device).hears(Rejected(reason=Reason.NOT_SELECTED, retry_after=30.0))
    assert device.trains == [Train(1, assignment(), MODEL_BLOB), None]

    for late in (trained(), MemoryError(), StorageError("disk full")):
        device.ends_training(late)

    assert device.said(Submit) == device.said(Failed) == []
    assert device.store.pending is None
    assert not list((tmp_path / "state").glob("*.update"))


def test_what_a_recalled_training_has_decoded_is_said(device: Device, tmp_path: Path) -> None:
    events = queue.SimpleQueue[Any]()
    train = training(device).trains[-1]
    assert train is not None
    gate = ConsentGate(Consent(), Directory(tmp_path / "state"), CHECK_IN.examples)
    local, _ = process._open_round(device.store, gate, "pi-1", train, 0.0, events)
    local.held.keep(RUN, 0, MODEL_BLOB)
    next_round = Delivery(TOPICS.round, encode(manifest(1)))

    events.put(next_round)
    events.put(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        process._loop(device.runner, events, TrainingThread(_no_data, "litert", 1, None, events.put), lambda: None)

    assert device.trains[-1] is None, "the training goes on"
    offer = device.said(CheckIn)[-1]
    assert isinstance(offer, CheckIn)
    assert device.store.held.version == (offer.run, offer.version) == (RUN, 0)


def test_how_long_a_training_took_outlives_the_process(device: Device, tmp_path: Path) -> None:
    training(device).ends_training()

    assert Device(tmp_path / "state").runner.state.durations == Durations(TASK.digest, (40.0,))


def test_a_refused_update_is_gone_and_the_reason_is_logged(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    training(device).ends_training()
    device.hears(Rejected(reason=Reason.INVALID, detail="not finite", digest=UPDATE.digest))

    assert caplog.messages == ["round 1: the gateway refused the update: not finite"]
    assert device.store.pending is None


def _no_memory(*_: object) -> bytes:
    raise MemoryError


def _no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_who_is_not_answered_after_the_last_federation_is_told_of_no_fault(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edge_agent")
    assert device.runner.status(0.0).runs is None
    device.runner.deliver(Delivery(TOPICS.round, encode(manifest())), 0.0)
    assert device.runner.status(0.0).runs
    device.runner.deliver(Delivery(TOPICS.round, encode(manifest(done=True))), 0.0)
    device.runner.deliver(Delivery(TOPICS.round, b""), 0.0)
    assert device.runner.status(0.0).runs is False
    for hours in range(24):
        device.runner.handle(Ticked(), 3600.0 * hours)

    assert "none runs there now; waiting for the next one" in caplog.text
    assert [line for line in caplog.records if line.levelno >= logging.WARNING] == []
    device.runner.connect(86_400.0)
    assert device.runner.status(0.0).runs is None


def test_a_manifest_that_was_cleared_is_no_message(device: Device) -> None:
    device.runner.deliver(Delivery(TOPICS.round, b""), 0.0)

    assert device.runner.ignored == 0


def _no_data(_: Data) -> Dataset:
    raise AssertionError("nothing is trained here")
