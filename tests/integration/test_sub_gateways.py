"""Gateways below a gateway, as real processes on brokers of their own: the parent learns what it would of all."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from aggregator.book import Book
from aggregator.sub_gateway.settings import SubGatewaySettings
from fedprune.config import load_toml
from fedprune.model.tensors import weights_digest
from fedprune.task.checkpoints import load_latest
from fedprune.task.run_directory import BOOK
from tests.brokers import MISSING, Mosquitto
from tests.federations import NAME, Site
from tests.integration.test_joining import join
from tests.processes import Child, ran, run, toml, until
from tests.secured import SecuredGateway, made_long_ago

ROUNDS = 3
BELOW = {"north": ("pi-1", "pi-2"), "south": ("pi-3", "pi-4")}
LIMITS = {"count": ROUNDS, "quorum": 1.0, "deadline_s": 300.0, "gather_s": 300.0}
FRUGAL = {"preset": "frugal"}

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def learned(site: Site) -> tuple[str, str]:
    """The digests of the model, and of the parent's own weights."""
    checkpoint = load_latest(site.path / "run")
    assert checkpoint.version == ROUNDS
    return weights_digest(checkpoint.weights), weights_digest(checkpoint.exact)


def flat(path: Path, url: str, task: Path, **changes: Any) -> tuple[str, str]:
    """What one gateway learns of all agents."""
    site = Site(path, url, task)
    with ExitStack() as running:
        for agent in (agent for agents in BELOW.values() for agent in agents):
            running.enter_context(Child("agent", "--config", site.agent(agent)))
        federation = site.federation("run", rounds={**LIMITS, "cohort": 4}, **changes)
        with Child("aggregator", federation) as aggregator:
            assert aggregator.ends() == 0
    return learned(site)


class Tree:
    """A parent's site, and those of the gateways below it, each with a broker of its own."""

    def __init__(self, path: Path, task: Path, brokers: dict[str, str], **changes: Any) -> None:
        self.site, self._brokers, self._changes = Site(path, brokers["parent"], task), brokers, changes

    def parent(self) -> Child:
        rounds = {**LIMITS, "cohort": 2, "sub_gateways": list(BELOW)}
        return Child("aggregator", self.site.federation("run", rounds=rounds, **self._changes))

    def gateway(self, name: str, **changes: Any) -> Child:
        settings = {
            "name": f"{name}-fleet",
            "state": f"state-of-{name}",
            "broker": {"url": self._brokers[name]},
            "rounds": {"cohort": 2, "quorum": 1.0, "deadline_s": 300.0, "gather_s": 300.0},
            "parent": {"name": name, "federation": NAME, "broker": {"url": self._brokers["parent"]}},
        }
        path = self.site.path / f"{name}.toml"
        path.write_text(toml(settings | changes))
        return Child("sub-gateway", path)

    def agent(self, name: str, gateway: str) -> Child:
        config = self.site.agent(name, federation=f"{gateway}-fleet", broker={"url": self._brokers[gateway]})
        return Child("agent", "--config", config)

    @contextmanager
    def agents(self) -> Iterator[dict[str, Child]]:
        with ExitStack() as running:
            yield {
                agent: running.enter_context(self.agent(agent, gateway))
                for gateway, agents in BELOW.items()
                for agent in agents
            }


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with ExitStack() as running:
        yield {name: running.enter_context(Mosquitto(tmp_path_factory.mktemp(name))).url for name in ("parent", *BELOW)}


def test_a_parent_learns_of_deltas_and_partial_sums_what_it_would_of_all_agents(
    tmp_path_factory: pytest.TempPathFactory, brokers: dict[str, str], tiny_task: Path
) -> None:
    expected = flat(tmp_path_factory.mktemp("flat"), brokers["parent"], tiny_task, codec=FRUGAL)

    tree = Tree(tmp_path_factory.mktemp("tree"), tiny_task, brokers, codec=FRUGAL)
    with (
        tree.agents(),
        tree.gateway("north") as north,
        tree.gateway("south", workers=1) as south,
        tree.parent() as parent,
    ):
        assert [child.ends() for child in (parent, north, south)] == [0, 0, 0]

    assert learned(tree.site) == expected


def test_a_sub_gateway_and_its_parent_that_are_killed_in_the_middle_of_rounds_lose_nothing(
    tmp_path_factory: pytest.TempPathFactory, brokers: dict[str, str], tiny_task: Path
) -> None:
    expected = flat(tmp_path_factory.mktemp("flat"), brokers["parent"], tiny_task)

    tree = Tree(tmp_path_factory.mktemp("killed"), tiny_task, brokers, workers=1)
    with tree.agents() as agents, tree.gateway("south") as south, tree.parent() as parent:
        with tree.gateway("north") as north:
            agents["pi-2"].says("round 1: training")
            with agents["pi-2"].held_up():
                agents["pi-1"].says("waiting for work")  # its update is accepted, the other's is missing
                north.kill()
        with tree.gateway("north") as north:
            north.says("round 1: submitting")
            parent.kill()
            with tree.parent() as parent_again:
                assert [child.ends() for child in (parent_again, north, south)] == [0, 0, 0]

    assert learned(tree.site) == expected
    book = Book.open(tree.site.path / "run" / BOOK)
    assert [sorted(book.accepted(round_)) for round_ in range(ROUNDS)] == [sorted(BELOW)] * ROUNDS
    book.close()


def queue_federation(gateway: SecuredGateway, site: Site, rounds: int) -> None:
    """One in which the gateway below takes part."""
    settings = {"count": rounds, "cohort": 1, "sub_gateways": ["north"], "deadline_s": 300.0, "gather_s": 300.0}
    config = site.path / "federation.toml"
    config.write_text(toml({"state": "unread", "task": str(site.task), "rounds": settings}))
    code, said = run("gateway", "queue", "add", "--dir", gateway.path, "--config", config)
    assert code == 0, said


def examined(path: Path, code: int = 0) -> dict[str, dict[str, str]]:
    """What the doctor finds, by check."""
    ended, found, said = ran("doctor", path, "--json")
    assert ended == code, f"{found}{said}"
    return {finding["check"]: finding for finding in json.loads(found)}


def test_a_gateway_that_has_joined_another_serves_its_federations_one_after_the_other(
    tmp_path: Path, tiny_task: Path
) -> None:
    """Devices obey the sub-gateway's signature, and know of no other; the sub-gateway obeys its parent's."""
    above, own = (SecuredGateway.made(tmp_path / name) for name in ("above", "own"))
    site = Site(tmp_path, f"mqtts://127.0.0.1:{own.broker_port}", tiny_task)
    with above.broker(), own.broker(), above.endpoint() as parent:
        code, said = run("gateway", "join", above.enrol("north"), "--dir", own.path)
        assert code == 0, said
        parent.says("north joined, from 127.0.0.1")
        queue_federation(above, site, 2)
        parent.says("waiting for 1 agents")
        code, printed, _ = ran("gateway", "queue", "add", "--dir", own.path, "--task", tiny_task)
        assert (code, "the queue rests" in printed) == (0, True)
        found = examined(own.path)
        assert found["queue"]["told"].startswith("it rests, since this gateway has joined a parent: federation 1")
        assert found["parent: credentials"]["verdict"] == "ok"
        assert found["parent: access list"]["told"] == "north publishes, and the aggregator's answer comes back"
        with own.endpoint() as north:
            agents = [join(own, site, name) for name in BELOW["north"]]
            with Child("agent", "--config", agents[0]) as agent, Child("agent", "--config", agents[1]):
                assert north.says("round 1: 2 agents", "stdout")
                assert north.says("round 2: 2 agents", "stdout")
                parent.says("federation 1: done")
                north.says("the parent's federation is done; waiting for its next one")
                queue_federation(above, site, 10_000)
                assert north.says("round 1: 2 agents", "stdout")
                found = examined(own.path)
                assert found["parent: credentials"]["told"] == "north is connected"
                assert found["parent: access list"]["verdict"] == "ok"
                assert "lost" not in agent.stderr
                north.interrupt(signal.SIGTERM)
                assert north.ends() == 0


def test_a_gateway_that_was_killed_tells_its_devices_that_the_federation_ended_meanwhile(
    tmp_path: Path, tiny_task: Path
) -> None:
    above, own = (SecuredGateway.made(tmp_path / name) for name in ("above", "own"))
    site = Site(tmp_path, f"mqtts://127.0.0.1:{own.broker_port}", tiny_task)
    with above.broker(), own.broker(), above.endpoint() as parent, ExitStack() as running:
        assert run("gateway", "join", above.enrol("north"), "--dir", own.path)[0] == 0
        queue_federation(above, site, 2)
        with own.endpoint() as north:
            configs = [join(own, site, name) for name in BELOW["north"]]
            agents = [running.enter_context(Child("agent", "--config", config)) for config in configs]
            for agent in agents:
                agent.says("round 1: training")
            with agents[0].held_up(), agents[1].held_up():
                north.kill()
        assert run("gateway", "queue", "stop", "1", "--dir", above.path)[0] == 0
        parent.says("federation 1: stopped")
        for agent in agents:
            agent.says("round 1: submitting")
        with own.endpoint() as north:
            north.says("its agents are told that it is over")
            for agent in agents:
                agent.says("waiting for work")  # its update was late
                assert "signature" not in agent.stderr
            queue_federation(above, site, 1)
            north.says("round 1: 2 agents", "stdout")


def test_the_doctor_says_what_is_wrong_on_the_way_to_the_parent(tmp_path: Path) -> None:
    above, own = (SecuredGateway.made(tmp_path / name) for name in ("above", "own"))
    config = own.path / "sub-gateway.toml"
    with own.broker():
        with above.broker(), above.endpoint():
            assert run("gateway", "join", above.enrol("north"), "--dir", own.path)[0] == 0
            assert examined(config)["access list"]["verdict"] == "ok"  # its own broker's, for the aggregator
            above.revoke("north")
            found = examined(config, code=1)
            assert found["parent: TLS"]["verdict"] == "ok"
            assert found["parent: credentials"]["verdict"] == "failed"
            assert "device.pem is revoked" in found["parent: credentials"]["told"]
        found = examined(config, code=1)
    assert found["parent: port"]["verdict"] == "failed"
    assert (found["credentials"]["verdict"], found["parent: credentials"]["verdict"]) == ("ok", "unknown")


def test_a_certificate_of_eight_years_ago_is_renewed_at_the_parent(tmp_path: Path) -> None:
    own = SecuredGateway.made(tmp_path / "own")
    with made_long_ago(tmp_path / "above") as (above, token):
        assert run("gateway", "join", token, "--dir", own.path)[0] == 0
    certificate = own.path / "parent" / "device.pem"
    old = certificate.read_bytes()
    with above.broker(), own.broker(), above.endpoint(), own.endpoint() as north:
        until(lambda: "the certificate is renewed" in north.stderr, "it is renewed, which may be earlier")
    assert certificate.read_bytes() != old


@pytest.mark.parametrize("written", ["nothing", "its own side", "a parent"])
def test_joining_a_parent_completes_what_a_person_wrote(tmp_path: Path, written: str) -> None:
    above, own = (SecuredGateway.made(tmp_path / name) for name in ("above", "own"))
    config, own_side = own.path / "sub-gateway.toml", 'name = "tests"\nstate = "mine"\n[rounds]\ncohort = 7\n'
    parent = '[parent]\nname = "east"\n'
    if written != "nothing":
        config.write_text(own_side + (parent if written == "a parent" else ""))
    with above.endpoint():
        code, said, _ = ran("gateway", "join", above.enrol("north"), "--dir", own.path)
    assert code == 0
    settings = load_toml(config, SubGatewaySettings)
    if written == "a parent":
        assert config.read_text() == own_side + parent
        assert 'name = "north"' in said
        return
    assert settings.parent.name == "north"
    assert settings.parent.broker.url == f"mqtts://127.0.0.1:{above.broker_port}"
    assert settings.state == ("mine" if written == "its own side" else "sub-gateway")
    if written == "nothing":
        assert settings.broker.url == f"mqtts://127.0.0.1:{own.broker_port}"


def test_a_gateway_is_not_its_own_parent(tmp_path: Path) -> None:
    own = SecuredGateway.made(tmp_path / "own")
    code, said = run("gateway", "join", own.enrol("north"), "--dir", own.path)
    assert (code, "itself; `fedprune enroll NAME --gateway` prints one at the parent" in said) == (3, True)
