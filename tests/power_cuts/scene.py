"""A small federation of real processes, all recorded: killed and started again, with everything that they write."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedprune.model.tensors import weights_digest
from fedprune.task.checkpoints import load_latest
from fedprune.wire.messages import Accepted, Submit, decode
from fedprune.wire.topics import Topics
from tests.brokers import Mosquitto
from tests.federations import NAME, Site
from tests.packet_proxy import Packet, packet_proxy
from tests.power_cuts.operations import Operation
from tests.power_cuts.recording import read_recording
from tests.power_cuts.strace import Kill, traced
from tests.processes import FEDPRUNE, Child

ROUNDS, KEPT_CHECKPOINTS = 6, 2
AGENTS = ("pi-1", "pi-2")
GATEWAY = "gateway"
ALONE_ROUND = 3
"""The round in which the gateway has the first agent's update in its book, and says so, before the other's comes."""

STATES = {GATEWAY: "run", "pi-1": "pi-1/deep/state", "pi-2": "pi-2/deep/state"}
"""Everybody's state directory, below the site's. None of the directories is there at first."""

_GATEWAY_KILLED_AT_START = (Kill("fsync", 2), Kill("fdatasync", 7))
"""As it has made its directory, and as it has written the book's tables."""

_GATEWAY_KILLED_IN_ROUND = Kill("fdatasync", 4)
"""As it has written to the book for the third time since it started in an open round: that an update is accepted, that
the round is finished, or who takes part in the next one."""

_AGENT_KILLED_AT = (
    (Kill("fsync", 4), "connected; waiting"),
    (Kill("fsync", 12), "submitting"),
    (Kill("fsync", 4), "training"),
)
"""As it has made its directories, replaced its record by that of an update, and by that of its answer; and what it says
if it came past that."""

_ROUNDS_TABLE = {"count": ROUNDS, "cohort": 2, "quorum": 1.0, "deadline_s": 300.0, "gather_s": 300.0}


_TOPICS = Topics(NAME)


@dataclass(frozen=True)
class Scene:
    """A directory with a site in which a federation was recorded, and the traces."""

    path: Path

    @property
    def site(self) -> Path:
        return self.path / "site"

    def recording(self, who: str) -> list[Operation]:
        return read_recording(self.site, sorted(self.path.glob(f"{who}-*.trace")))

    def trace(self, who: str, life: int) -> Path:
        return self.path / f"{who}-{life}.trace"


@dataclass
class _OneAfterTheOther:
    """Holds the second agent's update of a round until the first is told that its own is accepted. The gateway takes
    what has come at once: where both have, there is no moment at which it has one."""

    round: int
    is_accepted: bool = False

    def __call__(self, packet: Packet) -> bool:
        first, second = AGENTS
        if not packet.is_up and _TOPICS.down(first, "accepted") in packet.topics and packet.payload:
            self.is_accepted |= decode(Accepted, packet.payload).round == self.round
        is_submit = packet.is_up and _TOPICS.up(second, "submit") in packet.topics
        return not self.is_accepted and is_submit and decode(Submit, packet.payload).round == self.round


def record(path: Path, task: Path) -> Scene:
    """Let a federation run to its end, through seven kills: six as a process is about to sync, one in a round."""
    scene = Scene(path)
    scene.site.mkdir()
    with Mosquitto(path) as broker, packet_proxy(broker.port) as proxy:
        proxy.hold(_OneAfterTheOther(ALONE_ROUND))
        site = Site(scene.site, proxy.url, task)
        for life, kill in enumerate(_GATEWAY_KILLED_AT_START, start=1):
            with start_gateway(site, by=traced(scene.trace(GATEWAY, life), kill)) as gateway:
                killed(gateway, at_the_latest="connected; waiting")
        with (
            start_agent(site, "pi-2", by=traced(scene.trace("pi-2", 1))) as second,
            start_gateway(site, by=traced(scene.trace(GATEWAY, 3))) as gateway,
        ):
            for life, (kill, at_the_latest) in enumerate(_AGENT_KILLED_AT, start=1):
                with start_agent(site, "pi-1", by=traced(scene.trace("pi-1", life), kill)) as first:
                    killed(first, at_the_latest)
            with start_agent(site, "pi-1", by=traced(scene.trace("pi-1", 4))) as first:
                second.says("round 3: submitting")
                gateway.kill()
                with start_gateway(site, by=traced(scene.trace(GATEWAY, 4), _GATEWAY_KILLED_IN_ROUND)) as gateway:
                    assert gateway.ends() == -signal.SIGKILL
                with start_gateway(site, by=traced(scene.trace(GATEWAY, 5))) as gateway:
                    assert gateway.ends() == 0
                for agent in (first, second):
                    agent.says(f"round {ROUNDS}: submitting")
                    agent.says("waiting for work")
                    agent.kill()
    return scene


def killed(child: Child, at_the_latest: str) -> None:
    """Wait for the end that is in store for a process. If it lives to say so much, the number of its syncs has changed:
    then it is killed now, which is less cruel. The mutants that believe what a killed process left may then survive."""
    with suppress(AssertionError):
        child.says(at_the_latest)
    child.kill()


def result_in(site: Path) -> str:
    """The digest of the last model of a federation at a site."""
    return weights_digest(load_latest(site / STATES[GATEWAY]).weights)


def start_agent(site: Site, name: str, *, by: Sequence[str] = FEDPRUNE) -> Child:
    return Child("agent", "--config", site.agent(name, state=STATES[name], trainer="litert"), by=by)


def start_gateway(site: Site, *, by: Sequence[str] = FEDPRUNE) -> Child:
    federation = site.federation(STATES[GATEWAY], rounds=_ROUNDS_TABLE, keep_checkpoints=KEPT_CHECKPOINTS)
    return Child("aggregator", federation, "--json", by=by)
