"""The broker's configuration lets nobody do what is not theirs; one that does is found by crossing it."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from fedprune.errors import BrokerError
from fedprune.identity.audit import Client
from fedprune.identity.crossings import cross_all
from fedprune.identity.gateway import open_gateway
from fedprune.wire.topics import Topics
from tests.brokers import MISSING
from tests.federations import NAME
from tests.processes import FEDPRUNE, run
from tests.secured import SecuredGateway

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

TOPICS = Topics(NAME)


@pytest.fixture
def gateway(tmp_path: Path) -> SecuredGateway:
    return SecuredGateway.made(tmp_path / "gateway")


def wrong(gateway: SecuredGateway) -> set[str]:
    """What came out wrong, where something did."""
    with gateway.broker():
        code, tried, said = gateway.check()
    assert code == 6, said
    assert " came out wrong, the first: " in said.splitlines()[-1]
    return {what for what, row in tried.items() if not row["is_right"]}


def test_every_attack_on_the_broker_as_init_configures_it_is_refused(gateway: SecuredGateway) -> None:
    with gateway.broker():
        code, tried, said = gateway.check()
    assert code == 0, (tried, said)
    assert said == ""
    assert all(row["is_right"] for row in tried.values())
    assert sum(row["must_pass"] for row in tried.values()) == 3
    assert len(tried) > 25


def test_an_access_list_that_is_too_wide_is_found_and_what_was_retained_stays(gateway: SecuredGateway) -> None:
    gateway.change("access-list", f"pattern write fp/{NAME}/s/%u", f"pattern readwrite fp/{NAME}/#")
    with gateway.broker():
        with Client(gateway.client(), TOPICS.aggregator_client) as aggregator:
            aggregator.publish(TOPICS.round, b"the manifest", retain=True)
            aggregator.subscribe(TOPICS.round)
            aggregator.until(b"the manifest", lambda: None)
        code, tried, _ = gateway.check()
        assert code == 6
        with Client(gateway.client(), TOPICS.aggregator_client) as aggregator:
            aggregator.subscribe(TOPICS.round)
            assert aggregator.until(b"the manifest", lambda: None) == []
    found = {what for what, row in tried.items() if not row["is_right"]}
    assert {
        "a device publishes a manifest",
        "a device leaves behind, retained, a manifest",
        "a device leaves a will as a manifest",
        "a device publishes to the aggregator as another device",
        "a device reads what another device is sent",
    } <= found


def test_a_broker_where_a_device_can_take_anothers_client_id_is_found(gateway: SecuredGateway) -> None:
    gateway.change("mosquitto.conf", "use_username_as_clientid true", "use_username_as_clientid false")
    assert wrong(gateway) == {"a device ends another's connection by its id"}


def test_a_broker_that_asks_for_no_certificate_is_found(
    gateway: SecuredGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose clients have the user names that they give. What has to come never does: nobody need wait for it long."""
    monkeypatch.setattr("fedprune.identity.audit.PATIENCE_S", 2.0)
    gateway.change("mosquitto.conf", "require_certificate true\nuse_identity_as_username true\n", "")
    gateway.change("mosquitto.conf", "use_username_as_clientid true\n", "")
    gateway.change("mosquitto.conf", "allow_anonymous false", "allow_anonymous true")
    with gateway.broker(), pytest.raises(BrokerError, match=r"not even what a device may do works"):
        list(cross_all(open_gateway(gateway.path)))


def test_a_broker_without_a_limit_is_found(gateway: SecuredGateway) -> None:
    gateway.change("mosquitto.conf", "max_packet_size 131072\n", "")
    assert wrong(gateway) == {"a packet of 131073 bytes"}


def test_a_broker_that_does_not_run_is_said_with_the_command_that_starts_it(gateway: SecuredGateway) -> None:
    code, tried, said = gateway.check()
    assert (code, tried) == (6, {})
    assert said.startswith(f"fedprune: broker mqtts://127.0.0.1:{gateway.broker_port}: Connection refused; start it: ")


def test_keys_are_readable_by_their_owner_alone_and_in_nothing_that_is_said(tmp_path: Path) -> None:
    command = [*FEDPRUNE, "gateway", "init", "127.0.0.1", "--dir", tmp_path / "gateway"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    keys = [*(tmp_path / "gateway").glob("*.key"), tmp_path / "gateway" / "signing.json"]
    assert {key.stem for key in keys} == {"ca", "broker", "enrolment", "aggregator", "root", "signing"}
    assert stat.S_IMODE((tmp_path / "gateway").stat().st_mode) == 0o700
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        secret = key.read_text().splitlines()[1 if "PRIVATE KEY" in key.read_text() else -1]
        assert secret not in done.stdout + done.stderr


def test_init_again_takes_other_names_and_keeps_the_authority(gateway: SecuredGateway) -> None:
    before = {path.name: path.read_bytes() for path in gateway.path.iterdir()}
    code, said = run("gateway", "init", "gateway.local", "192.168.1.10", "--dir", gateway.path)
    assert code == 0, said
    after = {path.name: path.read_bytes() for path in gateway.path.iterdir()}
    assert {name for name in before if before[name] == after[name]} >= {
        *("ca.pem", "ca.key", "access-list", "root.key", "root.pub", "signing.json"),
    }
    assert after["broker.pem"] != before["broker.pem"]
    assert b'hosts = ["gateway.local","192.168.1.10"]' in after["gateway.toml"]
    assert f'federation = "{NAME}"\nbroker_port = {gateway.broker_port}\n'.encode() in after["gateway.toml"]


def test_a_gateway_does_not_change_its_federation(gateway: SecuredGateway) -> None:
    code, said = run("gateway", "init", "127.0.0.1", "--dir", gateway.path, "--federation", "another")
    assert code == 3
    assert f"this gateway serves the federation {NAME}, and its devices know no other" in said


@pytest.mark.parametrize("host", ["gateway local", "-x", "mqtts://gateway", "gateway:8883", "a\nb", "", "fe80::1%eth0"])
def test_what_is_no_host_is_refused_before_anything_is_made(tmp_path: Path, host: str) -> None:
    code, said = run("gateway", "init", "--dir", tmp_path / "gateway", "--", host)
    assert code == 3, said
    assert "is no host; write a name such as gateway.local" in said
    assert not (tmp_path / "gateway").exists()


def test_a_directory_that_is_no_gateways_is_refused(tmp_path: Path) -> None:
    assert run("gateway", "check", "--dir", tmp_path) == (
        3,
        f"fedprune: {tmp_path}: no gateway's directory; make it with `fedprune gateway init HOST`\n",
    )
