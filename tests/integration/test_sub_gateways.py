"""Gateways below a gateway, as real processes on brokers of their own: the parent learns what it would of all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aggregator.book import Book
from edge_agent.settings import load_settings
from fedprune.model.tensors import weights_digest
from fedprune.task.checkpoints import load_latest
from fedprune.task.run_directory import BOOK
from tests.brokers import MISSING, Mosquitto
from tests.federations import NAME, Site
from tests.integration.test_joining import join
from tests.processes import Child, toml
from tests.secured import SecuredGateway

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


def test_a_sub_gateway_that_has_joined_its_parent_serves_devices_that_have_joined_it(
    tmp_path: Path, tiny_task: Path
) -> None:
    """Devices obey the sub-gateway's signature, and know of no other; the sub-gateway obeys its parent's."""
    above, own = (SecuredGateway.made(tmp_path / name) for name in ("above", "own"))
    sites = [Site(tmp_path, f"mqtts://127.0.0.1:{gateway.broker_port}", tiny_task) for gateway in (above, own)]
    rounds = {**LIMITS, "count": 2, "cohort": 1, "sub_gateways": ["north"]}
    federation = sites[0].federation(
        "run", rounds=rounds, gateway=str(above.path), broker=without_none(msgspec.to_builtins(above.client()))
    )
    with above.broker(), own.broker(), above.endpoint(), own.endpoint():
        joined = join(above, sites[0], "north")
        agents = [join(own, sites[1], name) for name in BELOW["north"]]
        settings = {
            "name": NAME,
            "state": "state-of-north",
            "gateway": str(own.path),
            "broker": msgspec.to_builtins(own.client()),
            "rounds": {"cohort": 2, "quorum": 1.0, "deadline_s": 300.0, "gather_s": 300.0},
            "parent": parent_of(joined),
        }
        (tmp_path / "north.toml").write_text(toml(without_none(settings)))
        with (
            Child("aggregator", federation, "--json") as parent,
            Child("sub-gateway", tmp_path / "north.toml", "--json") as north,
            Child("agent", "--config", agents[0]),
            Child("agent", "--config", agents[1]),
        ):
            assert [north.reports()["agents"] for _ in range(2)] == [2, 2]
            records = [parent.reports() for _ in range(2)]
            assert [child.ends() for child in (parent, north)] == [0, 0]
    assert [(record["agents"], record["ignored"], record["refused"]) for record in records] == [(1, 0, 0)] * 2


def parent_of(agent_toml: Path) -> dict[str, Any]:
    """What a gateway that has joined another is to it, as `fedprune join` wrote it."""
    settings, here = load_settings(agent_toml), agent_toml.parent.resolve()
    files = ("authentication_key", "root_key", "gateway")
    return {
        "name": settings.name,
        "federation": settings.federation,
        "broker": msgspec.to_builtins(settings.broker.relative_to(here)),
        **{file: str(here / getattr(settings, file)) for file in files},
    }


def without_none(settings: Any) -> Any:
    """TOML has no word for nothing."""
    if not isinstance(settings, dict):
        return list(settings) if isinstance(settings, tuple) else settings
    return {key: without_none(value) for key, value in settings.items() if value is not None}
