"""A broker that dies in the middle of a round and comes up at another address, empty: nobody notices but the log."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedprune.model.tensors import weights_digest
from fedprune.task.checkpoints import load_latest
from fedprune.wire.messages import Submit, decode
from fedprune.wire.topics import Topics
from tests.brokers import MISSING, Mosquitto
from tests.federations import NAME, Site
from tests.packet_proxy import Packet, packet_proxy
from tests.processes import Child

ROUNDS = {"count": 4, "cohort": 1, "quorum": 1.0, "fleet": ["pi-1"]}

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def is_update_of_round_2(packet: Packet) -> bool:
    is_submit = packet.is_up and Topics(NAME).up("pi-1", "submit") in packet.topics
    return is_submit and decode(Submit, packet.payload).round == 1


def test_a_federation_follows_its_broker_to_another_address(tmp_path: Path, tiny_task: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    with Mosquitto(tmp_path / "old") as old, Mosquitto(tmp_path / "new") as new:
        new.stop()
        site = Site(tmp_path, old.url, tiny_task)
        config = site.federation("moved", broker={"url": old.url, "fallbacks": [new.url]}, rounds=ROUNDS)
        with (
            packet_proxy(old.port) as proxy,
            Child("agent", "--config", site.agent("pi-1", broker={"url": proxy.url, "fallbacks": [new.url]})) as agent,
            Child("aggregator", config, "--json") as aggregator,
        ):
            proxy.hold(is_update_of_round_2)
            proxy.wait_for_holding()
            old.stop()
            for process in (agent, aggregator):
                process.says("connection to the broker lost")
            new.start()
            assert [aggregator.reports()["round"] for _ in range(4)] == [0, 1, 2, 3]
            assert aggregator.ends() == 0
        with (
            Child("agent", "--config", site.agent("pi-1", state="again", broker={"url": new.url})),
            Child("aggregator", site.federation("stayed", broker={"url": new.url}, rounds=ROUNDS)) as undisturbed,
        ):
            assert undisturbed.ends() == 0
    digests = {weights_digest(load_latest(tmp_path / state).weights) for state in ("moved", "stayed")}
    assert len(digests) == 1
