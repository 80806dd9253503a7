"""What the doctors warn of, that goes on working and should not go unsaid."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aggregator import gateway_doctor
from edge_agent import doctor
from fedprune.doctor.finding import Finding
from fedprune.identity.gateway import init_gateway
from fedprune.identity.settings import GatewaySettings

NOW = datetime.now(UTC)


@pytest.mark.parametrize("root_key", ["", 'root_key = "root.pub"'])
def test_a_device_that_has_joined_and_obeys_no_root_key_is_told(tmp_path: Path, root_key: str) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f"""
name = "pi-1"
federation = "tests"
data = "data.npz"
authentication_key = "authentication.key"
{root_key}
[broker]
url = "mqtt://127.0.0.1:1"
""")
    (tmp_path / "root.pub").write_text("00" * 32)

    line = _finding(doctor.examine(config, NOW), "root key").line

    assert ("obeys manifests that nobody signed; join again, and set root_key in agent.toml" in line) is not bool(
        root_key
    )


def test_a_federation_that_is_passed_over_is_no_empty_queue(tmp_path: Path) -> None:
    gateway = init_gateway(tmp_path / "gateway", GatewaySettings(("127.0.0.1",), federation="tests"), NOW)
    for number in ("0001", "0002"):
        (gateway.path / "queue" / number).mkdir(parents=True)
        (gateway.path / "queue" / number / "entry.json").write_text("{")

    line = _finding(gateway_doctor.examine(gateway.path, NOW), "queue").line

    assert line.startswith("warning")
    assert "passed over: federation 1 (" in line
    assert "and 1 more; mend it, or delete its directory" in line


def test_a_fleet_that_is_larger_than_the_broker_lets_in_is_told(tmp_path: Path) -> None:
    gateway = init_gateway(tmp_path / "gateway", GatewaySettings(("127.0.0.1",), federation="tests"), NOW)
    gateway.devices.invite("pi-1", b"secret", 10)
    gateway.devices.redeem(b"secret", b"request", "127.0.0.1", 1, lambda _: (b"certificate", 1))
    assert _finding(gateway_doctor.examine(gateway.path, NOW), "connections").line.startswith("ok")

    configuration = gateway.path / "mosquitto.conf"
    lines = configuration.read_text().splitlines()
    few = ["max_connections 2" if line.startswith("max_connections") else line for line in lines]
    configuration.write_text("\n".join(few))
    line = _finding(gateway_doctor.examine(gateway.path, NOW), "connections").line
    assert line.startswith("warning")
    assert "1 devices have joined, and the broker lets in 2 at a time: others are kept out" in line


def _finding(findings: Iterator[Finding], check: str) -> Finding:
    return next(finding for finding in findings if finding.check == check)
