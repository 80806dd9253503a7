"""The long-lived processes as systemd's services: what it hears of them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.brokers import MISSING, Mosquitto
from tests.federations import Site
from tests.managers import Manager
from tests.processes import Child

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def test_systemd_hears_that_they_are_ready_alive_at_work_and_about_to_end(
    tmp_path: Path, mosquitto: Mosquitto, tiny_task: Path
) -> None:
    site = Site(tmp_path, mosquitto.url, tiny_task)
    of_gateway, of_agent = Manager(tmp_path / "gateway.socket"), Manager(tmp_path / "agent.socket")
    one = {"count": 10_000, "cohort": 1, "deadline_s": 300.0, "gather_s": 300.0}
    with Child("aggregator", site.federation("run", rounds=one), env=of_gateway.environment) as aggregator:
        for said in ("READY=1", "WATCHDOG=1", "WATCHDOG=1"):  # it waits for agents meanwhile
            of_gateway.hears(said)
        with Child("agent", "--config", site.agent("pi-1"), env=of_agent.environment) as agent:
            for said in ("READY=1", "STATUS=round 2", "WATCHDOG=1"):
                of_agent.hears(said)
            for process, manager in ((agent, of_agent), (aggregator, of_gateway)):
                process.interrupt(signal.SIGTERM)
                manager.hears("STOPPING=1")
                assert process.ends() == 0


def test_a_service_whose_broker_is_away_is_ready_alive_and_ends_well(tmp_path: Path, tiny_task: Path) -> None:
    site, manager = Site(tmp_path, "mqtt://127.0.0.1:1", tiny_task), Manager(tmp_path / "agent.socket")
    with Child("agent", "--config", site.agent("pi-1"), env=manager.environment) as agent:
        for said in ("READY=1", "WATCHDOG=1"):
            manager.hears(said)
        agent.says("trying again until that changes")
        agent.interrupt(signal.SIGTERM)
        assert agent.ends() == 0
