"""A small federation of real processes, all recorded: killed and started again, with everything that they write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedprune.model.tensors import weights_digest
from fedprune.task.checkpoints import load_latest
from tests.brokers import Mosquitto
from tests.federations import Site
from tests.power_cuts.operations import Operation
from tests.power_cuts.recording import read_recording
from tests.power_cuts.strace import traced
from tests.processes import FEDPRUNE, Child

ROUNDS, KEPT_CHECKPOINTS = 6, 2
AGENTS = ("pi-1", "pi-2")
GATEWAY = "gateway"
STATES = {GATEWAY: "run", "pi-1": "pi-1/deep/state", "pi-2": "pi-2/deep/state"}
"""Everybody's state directory, below the site's. None of the directories is there at first."""

_ROUNDS_TABLE = {"count": ROUNDS, "cohort": 2, "quorum": 1.0, "deadline_s": 300.0, "gather_s": 300.0}


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


def record(path: Path, task: Path) -> Scene:
    """Let a federation run to its end, once with the gateway killed in a round and once an agent."""
    scene = Scene(path)
    scene.site.mkdir()
    with Mosquitto(path) as broker:
        site = Site(scene.site, broker.url, task)
        with (
            start_agent(site, "pi-1", by=traced(scene.trace("pi-1", 1))) as first,
            start_agent(site, "pi-2", by=traced(scene.trace("pi-2", 1))) as second,
        ):
            with start_gateway(site, by=traced(scene.trace(GATEWAY, 1))) as gateway:
                for _ in range(2):
                    gateway.reports()
                second.says("round 3: training")
                with second.held_up():
                    first.says("round 3: submitting")
                    gateway.kill()
            with start_gateway(site, by=traced(scene.trace(GATEWAY, 2))) as gateway:
                gateway.reports()
                first.kill()
                with start_agent(site, "pi-1", by=traced(scene.trace("pi-1", 2))) as first:
                    assert gateway.ends() == 0
                    for agent in (first, second):
                        agent.says(f"round {ROUNDS}: submitting")
                        agent.says("waiting for work")
                        agent.kill()
    return scene


def result_in(site: Path) -> str:
    """The digest of the last model of a federation at a site."""
    return weights_digest(load_latest(site / STATES[GATEWAY]).weights)


def start_agent(site: Site, name: str, *, by: Sequence[str] = FEDPRUNE) -> Child:
    return Child("agent", "--config", site.agent(name, state=STATES[name], trainer="litert"), by=by)


def start_gateway(site: Site, *, by: Sequence[str] = FEDPRUNE) -> Child:
    federation = site.federation(STATES[GATEWAY], rounds=_ROUNDS_TABLE, keep_checkpoints=KEPT_CHECKPOINTS)
    return Child("aggregator", federation, "--json", by=by)
