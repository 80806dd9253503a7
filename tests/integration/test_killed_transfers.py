"""A model and an update of some MB on a real broker, and a kill in the middle of each: what came travels once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fedprune.data import Dataset
from fedprune.data.npz import save_npz
from fedprune.wire.messages import Chunk, decode
from fedprune.wire.transfer import CHUNK_BYTES, CHUNK_SIZES
from tests.brokers import MISSING, Mosquitto
from tests.federations import Site
from tests.packet_proxy import Packet, PacketProxy, packet_proxy
from tests.processes import Child, run, toml, until

SHAPE, CLASSES = (56, 56, 1), 3
ROUNDS = 2
PASSED_BYTES = 10 * CHUNK_BYTES
"""Of a content that pass before the kill, at least."""

Piece = tuple[bytes, int]
"""A part of a content, by the content's digest: one of those into which it is cut where chunks are smallest."""

AWS_MESSAGE_BYTES, AWS_SLASHES = 128 * 1024, 7
"""The largest messages and the deepest topics of AWS IoT, the strictest broker that we know of."""

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

    def pieces(self, *, up: bool) -> set[Piece]:
        """All that passed that way."""
        return {piece for packet in self.proxy.passed(up=up) for piece in pieces_in(packet)}

    def hold_after(self, passed_bytes: int, *, up: bool) -> None:
        """Let so much more pass that way, and then no chunk."""
        most = len(self.pieces(up=up)) + passed_bytes // CHUNK_SIZES[-1]

        def holds(packet: Packet) -> bool:
            return packet.is_up is up and bool(pieces_in(packet)) and len(self.pieces(up=up)) >= most

        self.proxy.hold(holds)

    def wait_until_kept(self, pieces: set[Piece], state: str) -> None:
        """Until a process has kept so much for the next one."""
        size, directory = len(pieces) * CHUNK_SIZES[-1], self.site.path / state
        until(lambda: kept_bytes(directory) >= size, f"{size} bytes of chunks are in {directory}")


def pieces_in(packet: Packet) -> set[Piece]:
    """The pieces of a content in a packet; none unless it is a chunk."""
    if not packet.payload or not any(topic.endswith("/k") or "/c/" in topic for topic in packet.topics):
        return set()
    chunk, smallest = decode(Chunk, packet.payload), CHUNK_SIZES[-1]
    first = chunk.index * chunk.chunk_bytes // smallest
    return {(chunk.digest, first + at) for at in range(-(-len(chunk.data) // smallest))}


def kept_bytes(state: Path) -> int:
    """Of the chunks that a process has kept for the next one."""
    return sum(path.stat().st_size for path in state.glob("*.chunks"))


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
    proxy = federation.proxy

    # Round 1, whose model follows from the task: the agent is killed while it uploads. The gateway has what passed.
    federation.hold_after(PASSED_BYTES, up=up)
    proxy.wait_for_holding()
    federation.agent.kill()
    update = federation.pieces(up=up)
    federation.wait_until_kept(update, "run/updates")
    seen = len(proxy.passed())
    proxy.cut()
    federation.hold_after(PASSED_BYTES, up=down)
    before = federation.pieces(up=down)
    federation.start_agent()
    assert federation.aggregator.reports()["round"] == 0
    assert_whole_and_never_again(update, proxy.passed()[seen:])

    # Round 2: it is killed while it downloads the model.
    proxy.wait_for_holding()
    model = federation.pieces(up=down) - before
    federation.wait_until_kept(model, "state-of-pi-1")
    federation.agent.kill()
    seen = len(proxy.passed())
    proxy.cut()
    federation.hold_after(PASSED_BYTES, up=up)
    before = federation.pieces(up=up)
    federation.start_agent()
    proxy.wait_for_holding()
    assert_whole_and_never_again(model, proxy.passed()[seen:])

    # And the gateway, while the update comes.
    update = federation.pieces(up=up) - before
    federation.wait_until_kept(update, "run/updates")
    federation.aggregator.kill()
    seen = len(proxy.passed())
    announced = len(proxy.passed(up=down, topic_end="/r"))
    federation.start_aggregator()
    proxy.wait_for(announced + 1, up=down, topic_end="/r")
    proxy.cut()
    assert federation.aggregator.reports()["round"] == 1
    assert_whole_and_never_again(update, proxy.passed()[seen:])
    assert federation.aggregator.ends() == 0
    assert kept_bytes(federation.site.path / "state-of-pi-1") == kept_bytes(federation.site.path / "run/updates") == 0

    passed = proxy.passed() + federation.behind_aggregator.passed()
    assert max(packet.size for packet in passed) <= AWS_MESSAGE_BYTES
    assert max(topic.count("/") for packet in passed for topic in packet.topics) <= AWS_SLASHES


def assert_whole_and_never_again(came: set[Piece], passed: list[Packet]) -> None:
    """What was kept of a content before somebody was killed, and what passed since, is all of it, and no piece twice:
    how often what had not come is asked for is another matter."""
    (digest,) = {digest for digest, _ in came}
    left = {piece for packet in passed for piece in pieces_in(packet) if piece[0] == digest}
    assert left
    assert not came & left, f"{len(came & left)} of {len(came)} pieces came again"
    assert {at for _, at in came | left} == set(range(len(came | left)))
