"""A gateway is restored from a backup: its devices wait and say why, until the root key opens a new epoch."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.brokers import MISSING
from tests.federations import Site
from tests.processes import Child, run
from tests.secured import SecuredGateway

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

_FILES = {"ca": "ca.pem", "certificate": "aggregator.pem", "key": "aggregator.key"}
_ENDLESS = {"count": 10_000, "cohort": 2, "quorum": 1.0, "deadline_s": 300.0, "gather_s": 300.0}
"""However many rounds are done before the aggregator is stopped, some are left."""

_SAID = "if it was restored from a backup, `fedprune gateway epoch ROOTKEY` there opens a new epoch"


def test_a_fleet_goes_on_with_a_gateway_that_was_restored_once_it_has_a_new_epoch(
    tmp_path: Path, tiny_task: Path
) -> None:
    gateway = SecuredGateway.made(tmp_path / "gateway")
    (gateway.path / "root.key").rename(tmp_path / "root.key")
    site = Site(tmp_path, f"mqtts://127.0.0.1:{gateway.broker_port}", tiny_task)
    tls = {name: str(gateway.path / file) for name, file in _FILES.items()}
    federation = site.federation(
        "run", broker={"url": site.url, "tls": tls}, gateway=str(gateway.path), rounds=_ENDLESS
    )
    with gateway.broker():
        with gateway.endpoint():
            agents = [_joined(gateway, site, name) for name in ("pi-1", "pi-2")]
        with Child("agent", "--config", agents[0]), Child("agent", "--config", agents[1]):
            _rounds(federation, 2)
            for name in ("gateway", "run"):
                shutil.copytree(tmp_path / name, tmp_path / f"backup-of-{name}")
            _rounds(federation, 3)
        for name in ("gateway", "run"):
            shutil.copytree(tmp_path / f"backup-of-{name}", tmp_path / name, dirs_exist_ok=True)
        with Child("agent", "--config", agents[0]) as agent, Child("agent", "--config", agents[1]):
            with Child("aggregator", federation, "--json") as aggregator:
                agent.says(_SAID)
                assert _SAID in aggregator.says("cannot do round"), "its owner reads it too"
                aggregator.interrupt()
            code, said = run("gateway", "epoch", tmp_path / "root.key", "--dir", gateway.path)
            assert code == 0, said
            with Child("aggregator", federation, "--json") as aggregator:
                agent.says("the gateway is in epoch 2, by its root key")
                assert aggregator.reports()["agents"] == 2
                aggregator.interrupt()


def _joined(gateway: SecuredGateway, site: Site, name: str) -> Path:
    site.agent(name)
    config = site.path / f"device-{name}" / "agent.toml"
    code, said = run("join", gateway.enrol(name), "--dir", config.parent, "--data", site.path / f"{name}.npz")
    assert code == 0, said
    config.write_text(f'trainer = "litert"\n{config.read_text()}')
    return config


def _rounds(federation: Path, count: int) -> None:
    """Some more rounds of the run, and then it is stopped."""
    with Child("aggregator", federation, "--json") as aggregator:
        assert [aggregator.reports()["agents"] for _ in range(count)] == [2] * count
        aggregator.interrupt()
