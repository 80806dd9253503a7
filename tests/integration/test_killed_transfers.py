"""A model and an update of some MB on a real broker, and a kill in the middle of each: only what is left travels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fedprune.data import Dataset
from fedprune.data.npz import save_npz
from fedprune.wire.transfer import CHUNK_BYTES
from tests.brokers import MISSING, Mosquitto
from tests.federations import Site
from tests.packet_proxy import Packet, PacketProxy, packet_proxy
from tests.processes import Child, run, toml

SHAPE, CLASSES = (56, 56, 1), 3
ROUNDS = 3
FULL_BYTES = 100_000
"""A packet with more is a chunk of the largest size."""

PASSED = 10
"""Full chunks that pass before the kill."""

AWS_MESSAGE_BYTES, AWS_SLASHES = 128 * 1024, 7
"""The largest messages and the deepest topics of AWS IoT, the strictest broker that we know of."""

IMPATIENCE = 5
"""Full chunks that may come twice where a busy machine takes its time."""

LEAST_KEPT = 3
"""More of the full chunks that passed are on the disk when a process is killed."""

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@dataclass(frozen=True)
class LargeSite(Site):
    """A site whose task has 500,000 weights, which travel as float32 both ways: 2 MB."""

    def _data(self, name: str, count: int, seed: int) -> None:
        keyed = np.random.default_rng(seed)
        x = keyed.uniform(0.0, 1.0, (count, *SHAPE)).astype(np.float32)
        save_npz(self.path / f"{name}.npz", Dataset(x, np.arange(count, dtype=np.int64) % CLASSES))


@pytest.fixture(scope="module")
def large_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("task")
    schedule = {"kind": "constant", "target_sparsity": 0.05, "begin_step": 0, "frequency": 2}
    settings = {
        "name": "large",
        "model": {"builtin": "cnn-108k", "input_shape": SHAPE, "outputs": CLASSES},
        "training": {"steps_per_round": 2, "batch_size": 8},
        "pruning": {"schedule": schedule},
    }
    (directory / "large.toml").write_text(toml(settings))
    code, said = run("task", "build", directory / "large.toml", "--out", directory / "large.fedtask")
    assert code == 0, said
    return directory / "large.fedtask"


@dataclass
class Federation:
    """One agent, behind a proxy that may hold what it says or hears, and its aggregator, behind another."""

    site: LargeSite
    proxy: PacketProxy
    behind_aggregator: PacketProxy
    agent: Child
    aggregator: Child

    def start_agent(self) -> None:
        self.agent = Child("agent", "--config", self.site.agent("pi-1", broker={"url": self.proxy.url}))

    def start_aggregator(self) -> None:
        self.aggregator = Child("aggregator", self.site.path / "run.toml", "--json")

    def full_chunks(self, *, up: bool) -> int:
        return sum(packet.size > FULL_BYTES for packet in self.proxy.passed(up=up, topic_end=""))

    def hold_after(self, count: int, *, up: bool) -> None:
        """Let so many more full chunks pass that way."""
        last = self.full_chunks(up=up) + count

        def holds(packet: Packet) -> bool:
            return packet.is_up is up and packet.size > FULL_BYTES and self.full_chunks(up=up) >= last

        self.proxy.hold(holds)


def kept_chunks(state: Path) -> int:
    """The chunks that a process has kept for the next one."""
    return sum(path.stat().st_size for path in state.glob("*.chunks")) // CHUNK_BYTES


@pytest.fixture
def federation(tmp_path: Path, large_task: Path, mosquitto: Mosquitto) -> Iterator[Federation]:
    with packet_proxy(mosquitto.port) as proxy, packet_proxy(mosquitto.port) as behind_aggregator:
        site = LargeSite(tmp_path, behind_aggregator.url, large_task)
        config = site.federation(
            "run",
            rounds={"count": ROUNDS, "cohort": 1, "quorum": 1.0, "deadline_s": 600.0},
            codec={"update": "mask | fp32", "model_values": "fp32"},
        )
        running = Federation(
            site,
            proxy,
            behind_aggregator,
            Child("agent", "--config", site.agent("pi-1", broker={"url": proxy.url})),
            Child("aggregator", config, "--json"),
        )
        try:
            yield running
        finally:
            proxy.release()
            running.agent.__exit__(None, None, None)
            running.aggregator.__exit__(None, None, None)


def test_who_is_killed_in_the_middle_of_a_transfer_moves_only_what_is_left_in_messages_that_pass_anywhere(
    federation: Federation,
) -> None:
    up, down = True, False
    site, proxy = federation.site, federation.proxy

    # Round 1, whose model follows from the task: the agent is killed while it uploads. The gateway has what passed.
    federation.hold_after(PASSED, up=up)
    proxy.wait_for(1, up=down, topic_end="/n")
    proxy.wait_for_holding()
    federation.agent.kill()
    first = federation.full_chunks(up=up)
    proxy.cut()
    federation.hold_after(PASSED, up=down)
    federation.start_agent()
    assert federation.aggregator.reports()["round"] == 0
    uploaded = federation.full_chunks(up=up) - first

    # Round 2: it is killed while it downloads the model.
    proxy.wait_for_holding()
    federation.agent.kill()
    held = federation.full_chunks(up=down)
    kept = kept_chunks(site.path / "state-of-pi-1")
    proxy.cut()
    federation.hold_after(PASSED, up=up)
    federation.start_agent()
    proxy.wait_for_holding()
    downloaded = federation.full_chunks(up=down) - held

    # And the gateway, while the update comes.
    federation.aggregator.kill()
    before, received = federation.full_chunks(up=up), kept_chunks(site.path / "run" / "updates")
    federation.start_aggregator()
    proxy.cut()
    assert federation.aggregator.reports()["round"] == 1
    sent = federation.full_chunks(up=up) - before

    # Round 3, which nobody disturbs, shows how many there are.
    before = federation.full_chunks(up=up), federation.full_chunks(up=down)
    assert federation.aggregator.reports()["round"] == 2
    update, model = federation.full_chunks(up=up) - before[0], federation.full_chunks(up=down) - before[1]
    assert first == PASSED
    assert uploaded <= update - PASSED + IMPATIENCE
    assert kept > LEAST_KEPT
    assert downloaded <= model - kept + IMPATIENCE
    assert received > LEAST_KEPT
    assert sent <= update - received + IMPATIENCE
    assert kept_chunks(site.path / "state-of-pi-1") == kept_chunks(site.path / "run" / "updates") == 0
    assert federation.aggregator.ends() == 0

    passed = proxy.passed() + federation.behind_aggregator.passed()
    assert max(packet.size for packet in passed) <= AWS_MESSAGE_BYTES
    assert max(topic.count("/") for packet in passed for topic in packet.topics) <= AWS_SLASHES
