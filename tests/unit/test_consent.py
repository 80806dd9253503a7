"""A device trains what its owner consents to, says no once to all else, and tells nobody why."""

from __future__ import annotations

import queue
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from edge_agent.agent_state import Phase, Ticked
from edge_agent.consent import NO_CONSENT, Consent, ConsentMissing, TaskFacts, consent_to
from edge_agent.consent_command import consent as consent_command
from edge_agent.consent_events import ConsentChanged
from edge_agent.consent_files import MOST_ASKED, ConsentFiles
from edge_agent.consent_watch import ConsentWatch
from fedprune.errors import ConfigurationError, StorageError
from fedprune.system.disk import Directory
from fedprune.wire.link import Delivery
from fedprune.wire.messages import CheckIn, Failed, Submit, encode
from tests.devices import TOPICS, Device, trained
from tests.drivers import LIMITS
from tests.samples import (
    MODEL,
    MODEL_BLOB,
    RUN,
    TASK,
    TASK_BLOB,
    UPDATE,
    assignment,
    changed,
    chunks,
    digest,
    manifest,
)

DIGEST = "0f" * 32
FACTS = TaskFacts(DIGEST, "digits", "dense, flatten", 850, 20, 16, "arrays", "8x8x1", 0.2)


# The judgement


@pytest.mark.parametrize(
    "consent",
    [
        Consent(),
        Consent(tasks=("digits",)),
        Consent(tasks=(DIGEST,)),
        Consent(tasks=(DIGEST.upper(),), ask=True),
        Consent(max_steps=20, max_parameters=850),
    ],
)
def test_what_the_owner_allows_is_trained(consent: Consent) -> None:
    assert not consent_to(FACTS, consent, ()).why_not


@pytest.mark.parametrize(
    ("consent", "named"),
    [
        (Consent(tasks=("other", "ab" * 32)), "consent.tasks"),
        (Consent(max_steps=19), "consent.max_steps"),
        (Consent(max_parameters=849), "consent.max_parameters"),
    ],
)
def test_what_is_refused_is_named_with_the_setting_and_an_approval_does_not_lift_it(
    consent: Consent, named: str
) -> None:
    verdict = consent_to(FACTS, msgspec.structs.replace(consent, ask=True), {DIGEST})
    assert named in verdict.why_not
    assert not verdict.asks


def test_an_unknown_task_asks_with_all_that_its_owner_has_to_know() -> None:
    verdict = consent_to(FACTS, Consent(tasks=("digits",), ask=True), ())
    assert verdict.asks
    assert f"`fedprune consent {DIGEST}`" in verdict.why_not
    for fact in ("'digits'", "dense, flatten", "850", "20 steps", "16 examples", "arrays", "8x8x1", "20%", DIGEST):
        assert fact in verdict.why_not
    assert not consent_to(FACTS, Consent(ask=True), {DIGEST}).why_not


# The owner's word


def test_a_task_that_asks_is_listed_and_approved_and_taken_back_by_the_command(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text('name = "pi-1"\ndata = "pi-1.npz"\nstate = "state"\n[consent]\nask = true\n')
    files = ConsentFiles(Directory(tmp_path / "state"))
    files.ask(FACTS)
    files.ask(FACTS)

    def said(*arguments: str) -> str:
        return CliRunner().invoke(consent_command, ["--config", str(config), *arguments], catch_exceptions=False).output

    assert said() == f"waits: {FACTS.description}\n"
    assert said(DIGEST) == f"approved: {FACTS.description}\n"
    assert said() == f"approved: {FACTS.description}\n"
    assert files.approved() == (DIGEST,)
    said("--withdraw", DIGEST)
    assert files.approved() == ()
    with pytest.raises(ConfigurationError, match="asked here"):
        said("ab" * 32)
    with pytest.raises(ConfigurationError, match="was approved here"):
        said("--withdraw", DIGEST)


def test_those_that_asked_first_are_forgotten_first(tmp_path: Path) -> None:
    files = ConsentFiles(Directory(tmp_path))
    for number in range(MOST_ASKED + 1):
        files.ask(msgspec.structs.replace(FACTS, digest=f"{number:064x}"))
    assert [facts.digest for facts in files.asked()] == [f"{number:064x}" for number in range(1, MOST_ASKED + 1)]


def test_the_watch_tells_of_approvals_and_of_what_was_taken_back(tmp_path: Path) -> None:
    disk, events = Directory(tmp_path), queue.SimpleQueue[Any]()
    watch, files = ConsentWatch(disk, events), ConsentFiles(disk)
    watch.look()
    files.approve(DIGEST)
    watch.look()
    watch.look()
    files.withdraw(DIGEST)
    watch.look()
    assert [events.get_nowait() for _ in range(2)] == [
        ConsentChanged(frozenset()),
        ConsentChanged(frozenset({DIGEST})),
    ]
    assert events.empty()


def test_damaged_approvals_approve_nothing_and_are_named(tmp_path: Path) -> None:
    (tmp_path / "consent-approved.json").write_text("[1]")
    with pytest.raises(StorageError, match=r"consent-approved\.json"):
        ConsentFiles(Directory(tmp_path)).approved()


# The agent


@pytest.fixture
def device(tmp_path: Path) -> Device:
    device = Device(tmp_path / "state")
    sees(device, incarnation=1)
    return device


def sees(device: Device, incarnation: int, now: float = 0.0) -> None:
    device.runner.deliver(Delivery(TOPICS.round, encode(manifest(incarnation=incarnation))), now)


def refusing(device: Device) -> Device:
    device.hears(assignment(), *chunks(TASK_BLOB), *chunks(MODEL_BLOB))
    device.ends_training(ConsentMissing("task 'digits' makes 20 steps a round, consent.max_steps allows 10"))
    assert device.runner.state.phase is Phase.IDLE
    return device


def test_a_refused_task_is_told_in_words_that_give_nothing_of_the_device_away(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    refusing(device)
    assert device.said(Failed) == [Failed(run=RUN, round=0, why=NO_CONSENT, rests=True)]
    (line,) = [record.getMessage() for record in caplog.records if "consent.max_steps" in record.getMessage()]
    assert line.startswith("round 1: task 'digits'")
    assert "consent.max_steps" in device.runner.status(0.0).waits_for


def test_it_offers_itself_no_more_until_the_gateway_is_started_anew(device: Device) -> None:
    offers = len(refusing(device).said(CheckIn))
    ticks(device, 1000.0)
    sees(device, incarnation=1, now=1000.0)
    device.runner.connect(1001.0)
    assert len(device.said(CheckIn)) == offers
    assert device.runner.state.wake_at is None
    sees(device, incarnation=2, now=1002.0)
    assert len(device.said(CheckIn)) == offers + 1


def test_a_task_that_was_refused_is_refused_again_without_fetching_anything_for_it(device: Device) -> None:
    refusing(device)
    sees(device, incarnation=2)
    trains, filters = len(device.trains), set(device.link.filters)
    device.hears(assignment(1, incarnation=2))
    assert [failed.why for failed in device.said(Failed)] == [NO_CONSENT] * 2  # type: ignore[attr-defined]
    assert (len(device.trains), set(device.link.filters)) == (trains, filters)
    offers = len(device.said(CheckIn))
    ticks(device, 1000.0)
    assert len(device.said(CheckIn)) == offers


def test_another_task_is_looked_at(device: Device) -> None:
    refusing(device)
    other = msgspec.structs.replace(TASK, digest=digest("another task"))
    device.hears(changed(assignment(1), task=other))
    assert device.runner.state.phase is Phase.FETCHING


def test_the_owners_word_has_it_offer_itself_at_once_and_then_it_trains(device: Device) -> None:
    offers = len(refusing(device).said(CheckIn))
    device.runner.handle(ConsentChanged(frozenset()), 50.0)
    assert len(device.said(CheckIn)) == offers + 1
    device.hears(assignment(1), *chunks(MODEL_BLOB))
    assert device.runner.state.phase is Phase.TRAINING


def test_a_word_that_comes_while_the_task_is_judged_is_not_missed(device: Device) -> None:
    device.hears(assignment(), *chunks(TASK_BLOB), *chunks(MODEL_BLOB))
    offers = len(device.said(CheckIn))
    device.runner.handle(ConsentChanged(frozenset()), 50.0)
    device.ends_training(ConsentMissing("waits"))
    assert len(device.said(CheckIn)) == offers + 1
    assert not device.said(Failed)


def test_a_training_whose_consent_is_withdrawn_is_stopped(device: Device) -> None:
    device.hears(assignment(), *chunks(TASK_BLOB), *chunks(MODEL_BLOB))
    device.runner.handle(ConsentChanged(frozenset({DIGEST})), 1.0)
    assert device.runner.state.phase is Phase.TRAINING
    device.runner.handle(ConsentChanged(frozenset({TASK.digest.hex()})), 2.0)
    assert device.runner.state.phase is Phase.IDLE
    assert device.trains[-1] is None
    assert device.said(Failed) == [Failed(run=RUN, round=0, why=NO_CONSENT, rests=True)]


def test_a_round_that_would_fetch_too_much_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    most = TASK.size + MODEL.size
    device = Device(tmp_path / "narrow", limits=replace(LIMITS, max_round_bytes=most - 1))
    device.hears(assignment())
    assert device.runner.state.phase is Phase.IDLE
    assert device.said(Failed) == [Failed(run=RUN, round=0, why=NO_CONSENT, rests=True)]


def test_an_update_that_would_be_too_much_is_not_sent(tmp_path: Path) -> None:
    most = TASK.size + MODEL.size + UPDATE.size
    for limit, sends in ((most, True), (most - 1, False)):
        device = Device(tmp_path / str(limit), limits=replace(LIMITS, max_round_bytes=limit))
        device.hears(assignment(), *chunks(TASK_BLOB), *chunks(MODEL_BLOB))
        device.ends_training()
        assert bool(device.said(Submit)) == sends
        assert bool(device.said(Failed)) != sends
        assert (device.store.pending is not None) == sends


def test_an_update_that_the_gateway_may_ask_for_twice_counts_twice(tmp_path: Path) -> None:
    """Coded by the device's history, and once more without: a gateway that is not to be trusted always asks."""
    shared = bytes(100)
    result = trained()
    result = replace(result, update=replace(result.update, shared=shared))
    most = TASK.size + MODEL.size + UPDATE.size + len(shared)
    for limit, sends in ((most, True), (most - 1, False)):
        device = Device(tmp_path / str(limit), limits=replace(LIMITS, max_round_bytes=limit))
        device.hears(assignment(), *chunks(TASK_BLOB), *chunks(MODEL_BLOB))
        device.ends_training(result)
        assert bool(device.said(Submit)) == sends


def ticks(device: Device, until: float) -> None:
    """Time goes on until `until`: whatever is due is done."""
    while (alarm := device.runner.state.wake_at) is not None and alarm <= until:
        device.runner.handle(Ticked(), alarm)
