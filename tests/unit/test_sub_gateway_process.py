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

from aggregator.runner import AggregatorRunner
from aggregator.sub_gateway.given import LEAST_S, seconds_below
from aggregator.sub_gateway.process import FromParent, SubGateway
from aggregator.sub_gateway.settings import Parent, SubGatewaySettings
from edge_agent.joined_keys import JoinedKeys
from edge_agent.store import AgentStore
from fedprune.system.disk import Directory
from fedprune.wire.link import Delivery, LinkUp
from fedprune.wire.messages import Manifest, encode
from fedprune.wire.topics import Topics
from fedprune.wire.transport import MqttLink
from tests.gateways import TOPICS, Site, begin
from tests.recorder import Recorder
from tests.unit.test_sub_gateway_rounds import PARENT

NAME = "north"


class Below:
    """A sub-gateway without a network."""

    def __init__(self, path: Path, parent: Site, runner: AggregatorRunner) -> None:
        self._site, self._parent, self._above = parent, runner, Recorder()
        self._heard, self._said = len(parent.link.published), 0
        state = Directory(path / "state")
        disk = Directory(state.path / "parent")
        store = AgentStore(disk, NAME, TOPICS.federation)
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.gateway = SubGateway(
            SubGatewaySettings("north-fleet", "state", Parent(NAME, TOPICS.federation)),
            path,
            Topics("north-fleet"),
            TOPICS,
            cast(MqttLink, Recorder()),
            cast(MqttLink, self._above),
            store,
            disk,
            JoinedKeys(TOPICS.federation, None, None, path, store, disk),
            self._events,
            lambda _: None,
        )

    def connect(self) -> None:
        self.gateway._handle(FromParent(LinkUp()))
        self.exchange()

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
            for said in down:
                self.gateway._handle(FromParent(Delivery(said.topic, said.payload)))
            while not self._events.empty():
                self.gateway._handle(self._events.get())
            self.gateway.tick()

    @property
    def seconds(self) -> float:
        run = self.gateway._run
        assert run is not None
        return run.runner.state.most_seconds


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

    assert below.seconds == seconds_below(600.0)
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
    begun = Manifest(run=PARENT.run, incarnation=PARENT.incarnation, round=0)
    done = msgspec.structs.replace(begun, round=PARENT.rounds, done=True)
    for manifest in (begun, done, done) if had_part.startswith("as") else (done, done):
        below.gateway._handle(FromParent(Delivery(TOPICS.round, encode(manifest), retained=True)))
        below.gateway.tick()

        assert below.gateway._is_over() is bool(had_part and manifest.done)
    assert caplog.text.count("is over; waiting for its next one") == (not had_part)
