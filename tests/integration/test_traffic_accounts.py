"""The bytes that a federation reports are those that pass a socket, and what is no model and no update is little."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.relay import relayed
from tests.brokers import MISSING, Mosquitto
from tests.federations import ROUNDS, Site
from tests.processes import Child

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def test_the_bytes_of_a_run_are_those_that_pass_between_agents_and_broker(
    tmp_path: Path, mosquitto: Mosquitto, tiny_task: Path
) -> None:
    with relayed(mosquitto.port) as relay:
        agents = Site(tmp_path, f"mqtt://127.0.0.1:{relay.port}", tiny_task)
        federation = Site(tmp_path, mosquitto.url, tiny_task).federation("run")
        with (
            Child("agent", "--config", agents.agent("pi-1")),
            Child("agent", "--config", agents.agent("pi-2")),
            Child("aggregator", federation, "--json") as aggregator,
        ):
            records = [aggregator.reports() for _ in range(ROUNDS)]
            assert aggregator.ends() == 0

    assert sum(record["mqtt_up"] for record in records) == pytest.approx(relay.up, rel=0.02)
    assert sum(record["mqtt_down"] for record in records) == pytest.approx(relay.down, rel=0.02)
    for record in records:
        assert sum(record["bytes_up_by_kind"].values()) == record["bytes_up"] < record["mqtt_up"]
        assert sum(record["bytes_down_by_kind"].values()) == record["bytes_down"] < record["mqtt_down"]
