"""Federations of real processes on a real Mosquitto: who is killed comes back, and nothing is lost or counted twice."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.book import Book
from edge_agent.doctor import examine
from fedprune.doctor.finding import Verdict
from fedprune.model.tensors import weights_digest
from fedprune.task.checkpoints import load_latest
from fedprune.task.run_directory import BOOK
from fedprune.wire.link import Delivery
from fedprune.wire.messages import Rejected, decode
from fedprune.wire.topics import Topics
from tests.brokers import MISSING, Mosquitto
from tests.federations import NAME, ROUNDS, Site, build_task
from tests.links import connected
from tests.noise import Noise
from tests.packet_proxy import packet_proxy
from tests.processes import Child

MOST_APART = 1e-3
"""Of the norm. The trainers differ by 1e-7; a delta that this moves over a rounding step of int8 makes it more."""

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture(scope="module")
def endless_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many steps that a round never ends."""
    return build_task(tmp_path_factory.mktemp("task"), "endless", 2_000_000)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tiny_task: Path, broker: Mosquitto) -> Site:
    return Site(tmp_path_factory.mktemp("site"), broker.url, tiny_task)


def start_agent(site: Site, name: str, **changes: Any) -> Child:
    return Child("agent", "--config", site.agent(name, **changes))


def result(site: Site, state: str) -> str:
    return weights_digest(load_latest(site.path / state).weights)


def assert_all_counted_once(site: Site, state: str) -> None:
    book = Book.open(site.path / state / BOOK)
    assert [(record.round, record.agents) for record in book.records()] == [(round_, 2) for round_ in range(ROUNDS)]
    assert [sorted(book.accepted(round_)) for round_ in range(ROUNDS)] == [["pi-1", "pi-2"]] * ROUNDS
    book.close()


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> Iterator[tuple[str, Child, Child]]:
    """A federation of both trainers in which nothing went wrong: the digest of its model; its agents wait for
    another."""
    with start_agent(site, "pi-1", trainer="keras") as first, start_agent(site, "pi-2") as second:
        with Child("aggregator", site.federation("undisturbed"), "--json") as aggregator:
            records = [aggregator.reports() for _ in range(ROUNDS)]
            assert aggregator.ends() == 0
        assert_all_counted_once(site, "undisturbed")
        assert sum(record["ignored"] + record["refused"] for record in records) == 0
        yield result(site, "undisturbed"), first, second


def test_a_fleet_of_both_trainers_learns_what_one_of_litert_does(
    undisturbed: tuple[str, Child, Child], tmp_path_factory: pytest.TempPathFactory, site: Site
) -> None:
    _, heavy, light = undisturbed
    assert "libtensorflow" in heavy.mapped()
    assert "libtensorflow" not in light.mapped()
    alike = Site(tmp_path_factory.mktemp("alike"), site.url, site.task)
    federation = alike.federation("run", name="alike")
    with (
        start_agent(alike, "pi-1", federation="alike"),
        start_agent(alike, "pi-2", federation="alike"),
        Child("aggregator", federation) as aggregator,
    ):
        assert aggregator.ends() == 0
    assert_all_counted_once(alike, "run")
    expected, found = load_latest(alike.path / "run"), load_latest(site.path / "undisturbed")
    for name, weights in expected.exact.items():
        apart = np.linalg.norm(found.exact[name] - weights) / np.linalg.norm(weights)
        assert apart <= MOST_APART, name


def test_when_it_is_over_no_manifest_is_left_on_the_broker(undisturbed: tuple[str, Child, Child], site: Site) -> None:
    assert undisturbed
    topics = Topics(NAME)
    with connected(site.url, "latecomer", topics.round, topics.status("pi-1"), "the end") as latecomer:
        latecomer.link.publish("the end", b"")
        heard = [latecomer.until(Delivery) for _ in range(2)]

    assert {delivery.topic for delivery in heard} == {topics.status("pi-1"), "the end"}
    assert b'"online"' in heard[0].payload + heard[1].payload


def test_ctrl_c_ends_everybody_at_once_even_in_the_middle_of_training(
    undisturbed: tuple[str, Child, Child], site: Site, endless_task: Path
) -> None:
    _, first, second = undisturbed
    endless = Site(site.path, site.url, endless_task)
    topics = {name: Topics(NAME).status(name) for name in ("pi-1", "pi-2")}
    with (
        connected(site.url, "watcher", *topics.values()) as watcher,
        Child("aggregator", endless.federation("endless"), "--json") as aggregator,
    ):
        for child, how, name in ((first, signal.SIGINT, "pi-1"), (second, signal.SIGTERM, "pi-2")):
            child.says(f"round {ROUNDS}: submitting")
            child.says("round 1: training")
            said = child.stderr
            _assert_well_without_being_disturbed(site.path / f"{name}.toml")
            assert child.stderr == said  # no connection was lost, nothing was begun anew
            child.interrupt(how)
            assert child.ends() == (130 if how is signal.SIGINT else 0)
            assert child.stderr.endswith("fedprune: interrupted\n") == (how is signal.SIGINT)
            assert "Traceback" not in child.stderr
            while b'"offline"' not in watcher.until_topic(topics[name]).payload:
                pass
        aggregator.interrupt()
        assert aggregator.ends() == 130
        assert aggregator.stderr.endswith("fedprune: interrupted\n")
        assert "Traceback" not in aggregator.stderr


def _assert_well_without_being_disturbed(agent_toml: Path) -> None:
    """A doctor proves the rights of an agent that trains by having it speak itself."""
    found = {finding.check: finding for finding in examine(agent_toml, datetime.now(UTC))}
    assert found["access list"].line.endswith("published just now, and the aggregator's answer came back")
    assert "round 1, training" in found["agent"].told
    assert not [finding.line for finding in found.values() if finding.verdict is Verdict.FAILED]


def test_an_aggregator_that_is_started_again_still_knows_the_tickets_that_it_gave(
    site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """So that a fleet checks in once."""
    again = Site(tmp_path_factory.mktemp("tickets"), site.url, site.task)
    federation, topics = again.federation("run", name="tickets"), Topics("tickets")
    answers = [topics.down("pi-1", kind) for kind in ("rejected", "assignment")]
    with start_agent(again, "pi-1", federation="tickets"), connected(site.url, "watcher", *answers) as watcher:
        with Child("aggregator", federation) as aggregator:
            while not decode(Rejected, watcher.until_topic(answers[0]).payload).ticket:
                pass
            aggregator.says("waiting for agents: 1 of 2 are here")
            aggregator.kill()
        with Child("aggregator", federation), start_agent(again, "pi-2", federation="tickets"):
            while (answer := watcher.until(Delivery)).topic != answers[1]:
                assert not decode(Rejected, answer.payload).ticket


def test_a_run_that_is_done_says_so_when_it_is_started_again_also_without_a_broker(
    tmp_path: Path, mosquitto: Mosquitto, tiny_task: Path
) -> None:
    site = Site(tmp_path, mosquitto.url, tiny_task)
    federation = site.federation("run", rounds={"cohort": 1, "count": 1})
    said = "nothing to do: all 1 rounds are done; `fedprune export` takes the result"
    with start_agent(site, "pi-1"), Child("aggregator", federation) as aggregator:
        assert aggregator.ends() == 0
    with Child("aggregator", federation) as aggregator:
        aggregator.says(said)
        assert aggregator.ends() == 0
    mosquitto.stop()
    with Child("aggregator", federation) as aggregator:
        aggregator.says(said)
        aggregator.interrupt()


def test_whoever_is_killed_the_federation_learns_what_it_would_have(
    undisturbed: tuple[str, Child, Child], tmp_path_factory: pytest.TempPathFactory, site: Site
) -> None:
    """Aggregator, broker and agent are killed in the middle of rounds, and somebody else talks on every topic."""
    with Mosquitto(tmp_path_factory.mktemp("unsteady")) as broker, packet_proxy(broker.port) as proxy:
        unsteady = Site(tmp_path_factory.mktemp("killed"), broker.url, site.task)
        behind_proxy = Site(unsteady.path, proxy.url, site.task)
        federation = unsteady.federation("run")
        proxy.hold(lambda packet: packet.is_up and Topics(NAME).up("pi-2", "submit") in packet.topics)
        with start_agent(unsteady, "pi-1", trainer="keras") as first, start_agent(behind_proxy, "pi-2") as second:
            with Child("aggregator", federation, "--json") as aggregator:
                proxy.wait_for_holding()
                first.says("round 1: submitting")
                first.says("waiting for work")  # its update is accepted, the other's is missing
                aggregator.kill()
            proxy.release()
            with Child("aggregator", federation, "--json") as aggregator, Noise(broker.url, NAME) as noise:
                assert aggregator.reports()["round"] == 0
                with second.held_up():
                    broker.stop()
                    first.says("connection to the broker lost")
                    aggregator.says("connection to the broker lost")
                broker.start()
                aggregator.reports()
                second.kill()
                with start_agent(unsteady, "pi-2"):
                    assert aggregator.ends() == 0
        assert noise.sent > 100
        assert "ignored a message" in aggregator.stderr
        assert "ignored a message" in first.stderr
        assert "Traceback" not in aggregator.stderr + first.stderr
    assert_all_counted_once(unsteady, "run")
    assert result(unsteady, "run") == undisturbed[0]


@pytest.mark.slow
def test_a_gateway_with_workers_that_is_killed_and_goes_on_with_others_learns_what_one_without_does(
    tmp_path_factory: pytest.TempPathFactory, site: Site
) -> None:
    digests = list[str]()
    for name, workers in (("alone", 0), ("workers", 2)):
        place = Site(tmp_path_factory.mktemp(name), site.url, site.task)
        federation = place.federation("run", name=name, workers=workers)
        first, second = (start_agent(place, agent, federation=name) for agent in ("pi-1", "pi-2"))
        with first, second:
            if workers:
                with Child("aggregator", federation, "--json") as aggregator:
                    aggregator.reports()
                    with second.held_up():
                        first.says("round 2: training")
                        first.says("waiting for work")
                        aggregator.kill()
            with Child("aggregator", federation, "--workers", str(workers // 2)) as aggregator:
                assert aggregator.ends() == 0
            assert "Traceback" not in aggregator.stderr
        assert_all_counted_once(place, "run")
        digests.append(result(place, "run"))
    assert digests[0] == digests[1]
