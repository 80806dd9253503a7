"""A broker that dies in the middle of a round and comes up at another address, empty: nobody notices but the log."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedprune.model.tensors import weights_digest
from fedprune.task.checkpoints import load_latest
from tests.brokers import MISSING, Mosquitto
from tests.federations import Site
from tests.processes import Child

ROUNDS = {"count": 4, "cohort": 1, "quorum": 1.0, "fleet": ["pi-1"]}

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def test_a_federation_follows_its_broker_to_another_address(tmp_path: Path, tiny_task: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    with Mosquitto(tmp_path / "old") as old, Mosquitto(tmp_path / "new") as new:
        new.stop()
        site, table = Site(tmp_path, old.url, tiny_task), {"url": old.url, "fallbacks": [new.url]}
        config = site.federation("moved", broker=table, rounds=ROUNDS)
        with (
            Child("agent", "--config", site.agent("pi-1", broker=table)) as agent,
            Child("aggregator", config, "--json") as aggregator,
        ):
            agent.says("round 2: training")
            with agent.held_up():
                old.stop()
                aggregator.says("connection to the broker lost")
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
