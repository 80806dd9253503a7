"""A sub-gateway's two halves together: what a parent says, and what the agents below are given."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from aggregator.exchange import Exchange
from aggregator.part_runner import PartRunner
from aggregator.round_answers import terms, ticket
from aggregator.runner import AggregatorRunner
from aggregator.settings import Cohorts
from aggregator.sub_gateway.given import LEAST_S, seconds_below
from aggregator.sub_gateway.process import FromParent, SubGateway
from aggregator.sub_gateway.settings import Parent, SubGatewaySettings
from edge_agent.joined_keys import JoinedKeys
from edge_agent.store import AgentStore
from fedprune.system.disk import Directory
from fedprune.wire.link import Delivery, LinkDown, LinkUp
from fedprune.wire.messages import CheckIn, Failed, Manifest, Message, Reason, Rejected, Submit, decode, encode, kind_of
from fedprune.wire.transport import MqttLink
from tests.gateways import TOPICS, Site, begin, trained
from tests.recorder import Recorder
from tests.samples import chunks
from tests.unit.test_sub_gateway_rounds import PARENT

NAME, AGENT = "north", "pi-1"
BEGUN = Manifest(run=PARENT.run, incarnation=PARENT.incarnation, round=0)
DONE = msgspec.structs.replace(BEGUN, round=PARENT.rounds, done=True)


class Fleet(Site):
    """The agent below, and what it is told."""

    def says(self, exchange: Exchange, *messages: Message) -> None:
        for message in messages:
            if isinstance(message, CheckIn):
                due = ticket(exchange.state.plan.ticket_key, AGENT)
                message = msgspec.structs.replace(message, ticket=due)
            exchange.deliver(Delivery(TOPICS.up(AGENT, kind_of(message)), encode(message)))
            exchange.settle()

    def does_round(self, runner: PartRunner) -> Submit:
        self.says(runner, CheckIn(examples=7))
        self._terms = terms(runner.state.plan)
        result = trained(self, cast(AggregatorRunner, runner), AGENT)
        self.says(runner, result.submit, *chunks(result.update.blob))
        return result.submit

    def rejections(self) -> list[Rejected]:
        return [decode(Rejected, each) for each in self.link.on(TOPICS.down(AGENT, "rejected"))]

    def manifests(self) -> list[Manifest]:
        return [decode(Manifest, each) for each in self.link.on(TOPICS.round) if each]


class Below:
    """A sub-gateway without a network. Its federation has the name of its parent's, at another broker."""

    def __init__(self, path: Path, parent: Site, runner: AggregatorRunner) -> None:
        self._site, self._parent, self._above = parent, runner, Recorder()
        self._heard, self._said = len(parent.link.published), 0
        self.fleet = Fleet(path)
        state = Directory(path / "state")
        disk = Directory(state.path / "parent")
        store = AgentStore(disk, NAME, TOPICS.federation)
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.gateway = SubGateway(
            SubGatewaySettings(TOPICS.federation, "state", Parent(NAME, TOPICS.federation), rounds=Cohorts(cohort=1)),
            path,
            TOPICS,
            TOPICS,
            cast(MqttLink, self.fleet.link),
            cast(MqttLink, self._above),
            store,
            disk,
            JoinedKeys(TOPICS.federation, None, None, path, store, disk),
            self._events,
            lambda _: None,
        )

    def connect(self) -> None:
        self.reach()
        self.exchange()

    def reach(self) -> None:
        """Both brokers let it in."""
        self.gateway._handle(LinkUp())
        self.gateway._handle(FromParent(LinkUp()))

    def hear(self, manifest: Manifest) -> None:
        """The parent says it."""
        self.gateway._handle(FromParent(Delivery(TOPICS.round, encode(manifest))))
        self.gateway.tick()

    def serve(self) -> None:
        """Until the parent is done, which it is."""
        self.gateway.serve()
        self.gateway.close()

    @property
    def runner(self) -> PartRunner:
        run = self.gateway._run
        assert run is not None
        return run.runner

    def exchange(self) -> None:
        """Both sides hear what the other has said, until neither says any more."""
        while True:
            up, down = self._above.published[self._said :], self._site.link.published[self._heard :]
            self._said, self._heard = self._said + len(up), self._heard + len(down)
            if not up and not down and self._events.empty():
                return
            for said in up:
                self._parent.deliver(Delivery(said.topic, said.payload))
            self._parent.drained()
            self._parent.settle()
            for said in down:
                self.gateway._handle(FromParent(Delivery(said.topic, said.payload)))
            while not self._events.empty():
                self.gateway._handle(self._events.get())
            self.gateway.tick()

    @property
    def seconds(self) -> float:
        return self.runner.state.most_seconds


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[tuple[Site, AggregatorRunner, list[float]]]:
    now = [0.0]
    site = Site(tmp_path / "parent")
    plan = replace(PARENT, cohort=1, quorum=1, deadline_s=600.0)
    yield site, begin(site, (NAME,), plan=plan, clock=lambda: now[0]), now
    site.book.close()


def test_a_round_of_which_the_parent_leaves_little_goes_on_for_as_long_as_the_parent_waits(
    tmp_path: Path, parent: tuple[Site, AggregatorRunner, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, runner, now = parent
    below = Below(tmp_path / "below", site, runner)
    now[0] = 598.0
    below.connect()
    assert below.seconds == LEAST_S

    now[0] = 601.0
    runner.tick()
    later = time.monotonic() + 60.0
    monkeypatch.setattr("time.monotonic", lambda: later)
    below.gateway.tick()  # it asks whether its work is still wanted
    below.exchange()

    assert math.isclose(below.seconds, seconds_below(600.0))
    below.gateway.close()


def test_agents_have_three_quarters_of_what_the_parent_leaves_once_the_model_is_here(
    tmp_path: Path, parent: tuple[Site, AggregatorRunner, list[float]]
) -> None:
    site, runner, _ = parent
    below = Below(tmp_path / "below", site, runner)
    below.connect()

    assert math.isclose(below.seconds, 450.0, abs_tol=15.0)
    below.gateway.close()


@pytest.mark.parametrize("had_part", ["in rounds", "as one that may be assigned", ""])
def test_a_parent_that_was_done_before_is_waited_for_unless_this_gateway_had_part_in_that(
    tmp_path: Path, parent: tuple[Site, AggregatorRunner, list[float]], caplog: pytest.LogCaptureFixture, had_part: str
) -> None:
    site, runner, _ = parent
    caplog.set_level("INFO")
    below = Below(tmp_path / "below", site, runner)
    if had_part == "in rounds":
        below.connect()
        below.gateway.close()
        below = Below(tmp_path / "below", site, runner)
    below.reach()
    for manifest in (BEGUN, DONE, DONE) if had_part.startswith("as") else (DONE, DONE):
        below.gateway._handle(FromParent(Delivery(TOPICS.round, encode(manifest), retained=True)))
        below.gateway.tick()

        assert below.gateway._is_over() is bool(had_part and manifest.done)
    assert caplog.text.count("is over; waiting for its next one") == (not had_part)


def test_a_round_that_the_parent_gives_after_it_was_done_is_done_too(
    tmp_path: Path, parent: tuple[Site, AggregatorRunner, list[float]]
) -> None:
    """It was started again, with more rounds, before it had answered the last part."""
    site, runner, _ = parent
    below = Below(tmp_path / "below", site, runner)
    below.connect()
    below.fleet.does_round(below.runner)
    below.hear(DONE)
    assert not below.gateway._is_over()

    below.exchange()

    assert not below.gateway._is_over()
    assert below.runner.state.round == 1
    assert not any(manifest.done for manifest in below.fleet.manifests())
    below.fleet.does_round(below.runner)
    below.exchange()
    assert [record.round for record in site.records] == [0, 1]
    below.gateway.close()


def test_agents_are_told_that_the_parent_is_done_before_the_sub_gateway_ends(
    tmp_path: Path, parent: tuple[Site, AggregatorRunner, list[float]]
) -> None:
    site, runner, _ = parent
    below = Below(tmp_path / "below", site, runner)
    below.connect()
    below.gateway._handle(LinkDown("its broker is started again"))
    below.hear(DONE)
    assert not below.gateway._is_over()

    below.gateway._handle(LinkUp())
    below.serve()

    assert [manifest.done for manifest in below.fleet.manifests()][-1]


@pytest.mark.parametrize("how", ["it says so", "it is gone", "it is at another federation"])
def test_agents_of_a_run_that_the_parent_ended_meanwhile_are_told_and_answered(
    tmp_path: Path,
    parent: tuple[Site, AggregatorRunner, list[float]],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """The sub-gateway was killed, and its agents wait."""
    site, runner, _ = parent
    killed = Below(tmp_path / "below", site, runner)
    killed.connect()
    submit = killed.fleet.does_round(killed.runner)
    (killed_run,) = {manifest.run for manifest in killed.fleet.manifests()}
    killed.gateway.close()

    below = Below(tmp_path / "below", site, runner)
    below.reach()
    below.gateway.tick()
    assert below.gateway._exchange is None
    if how == "it says so":
        below.hear(DONE)
    elif how == "it is at another federation":
        below.hear(msgspec.structs.replace(BEGUN, run="another"))
    else:
        later = time.monotonic() + 60.0
        monkeypatch.setattr("time.monotonic", lambda: later)
        below.gateway.tick()

    (told,) = below.fleet.manifests()
    assert (told.run, told.incarnation, told.done) == (killed_run, 2, True)
    exchange = below.gateway._exchange
    assert exchange is not None
    below.fleet.says(exchange, CheckIn(examples=7))
    assert [each.reason for each in below.fleet.rejections()] == [Reason.FINISHED]
    below.fleet.says(exchange, msgspec.structs.replace(submit, run=killed_run))
    assert below.fleet.link.on(TOPICS.down(AGENT, "accepted"))
    assert not below.gateway._is_over()
    long_after = time.monotonic() + 60.0
    monkeypatch.setattr("time.monotonic", lambda: long_after)  # the parent had time to answer the last part
    assert below.gateway._is_over() is (how == "it says so")
    below.gateway.close()


def test_a_run_that_was_thought_to_be_over_goes_on_when_the_parent_does(
    tmp_path: Path, parent: tuple[Site, AggregatorRunner, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had rested."""
    site, runner, _ = parent
    killed = Below(tmp_path / "below", site, runner)
    killed.connect()
    killed.gateway.close()
    below = Below(tmp_path / "below", site, runner)
    below.reach()
    later = time.monotonic() + 60.0
    monkeypatch.setattr("time.monotonic", lambda: later)
    below.gateway.tick()
    assert [manifest.done for manifest in below.fleet.manifests()] == [True]

    below.exchange()

    assert [(manifest.incarnation, manifest.done) for manifest in below.fleet.manifests()] == [(2, True), (3, False)]
    below.fleet.does_round(below.runner)
    below.exchange()
    assert [record.round for record in site.records] == [0]
    below.gateway.close()


def test_a_round_in_which_all_agents_fail_is_told_to_the_parent_and_the_sub_gateway_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site, now = Site(tmp_path / "parent"), [0.0]
    plan = replace(PARENT, quorum=1, deadline_s=600.0)
    runner = begin(site, (NAME, "south"), plan=plan, clock=lambda: now[0])
    below = Below(tmp_path / "below", site, runner)
    below.connect()
    now[0] = 60.0
    runner.tick()  # the model is broadcast, without waiting any longer for the other to ask for it
    below.exchange()
    below.fleet.says(below.runner, CheckIn(examples=7))
    below.fleet.says(below.runner, Failed(run=below.runner.state.plan.run, round=0, why="labels out of range"))
    below.exchange()

    told = "round 1: 1 agents of this sub-gateway failed and none succeeded; its log says why; mend their data"
    assert caplog.text.count(f"cannot train: {told}") == 1
    assert told in runner.state.cohort.members[NAME].why
    assert not below.gateway._is_over()

    now[0] = 601.0
    runner.tick()  # who failed may try again
    later = time.monotonic() + 60.0
    monkeypatch.setattr("time.monotonic", lambda: later)
    below.gateway.tick()
    below.exchange()
    below.fleet.does_round(below.runner)
    below.exchange()

    assert [record.round for record in site.records] == [0]
    below.gateway.close()
    site.book.close()


@pytest.mark.parametrize("waits", ["for its first federation", "for its broker"])
def test_a_sub_gateway_that_waits_sleeps(
    tmp_path: Path, parent: tuple[Site, AggregatorRunner, list[float]], monkeypatch: pytest.MonkeyPatch, waits: str
) -> None:
    site, runner, _ = parent
    now, alarms = [time.monotonic()], list[float | None]()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    below = Below(tmp_path / "below", site, runner)
    below.reach()
    if waits == "for its broker":
        below.exchange()
        below.fleet.does_round(below.runner)
        below.gateway._handle(LinkDown("its broker is started again"))
        below.hear(DONE)
        assert not below.gateway._is_over()

    def wait(alarm: float | None) -> float:
        alarms.append(alarm)
        return 0.0

    monkeypatch.setattr("aggregator.sub_gateway.process.SERVICE.wait_until", wait)
    for _ in range(3):
        now[0] += 60.0
        below.gateway.tick()
        assert not below.gateway._is_over()
        while below.gateway._next_event() is not None:
            pass
        assert alarms[-1] is None or alarms[-1] > now[0]
    below.gateway.close()
