"""Messages of devices that have joined: nobody between them and the aggregator can speak for either."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.round_answers import ticket
from edge_agent.agent_state import Phase
from fedprune.errors import ConfigurationError, ProtocolError
from fedprune.identity.device_keys import DeviceKeys
from fedprune.identity.devices import Devices
from fedprune.wire.authentication import KEY_BYTES, MAC_BYTES, add_mac, read_key, verified
from fedprune.wire.link import Delivery
from fedprune.wire.messages import CheckIn, Rejected, decode, encode, kind_of
from tests.devices import TOPICS, Device
from tests.gateways import TASK_PLAN, Site
from tests.samples import assignment

KEY = bytes(range(KEY_BYTES))
TOPIC = TOPICS.down("pi-1", "assignment")
CHECK_IN = CheckIn(examples=100, trainer="litert")


@given(st.binary(max_size=200), st.data())
def test_a_payload_that_was_changed_anywhere_is_refused(message: bytes, data: st.DataObject) -> None:
    payload = add_mac(KEY, TOPIC, message)
    assert verified(KEY, TOPIC, payload) == message
    place = data.draw(st.integers(0, len(payload) - 1))
    changed = bytearray(payload)
    changed[place] ^= data.draw(st.integers(1, 255))
    for forged in (bytes(changed), payload[:place], payload + b"\0"):
        with pytest.raises(ProtocolError, match="not authentic"):
            verified(KEY, TOPIC, forged)


def test_a_message_counts_for_one_device_one_direction_and_one_kind() -> None:
    payload = add_mac(KEY, TOPIC, b"message")
    for topic in (TOPICS.down("pi-2", "assignment"), TOPICS.up("pi-1", "assignment"), TOPICS.down("pi-1", "accepted")):
        with pytest.raises(ProtocolError, match="not authentic"):
            verified(KEY, topic, payload)
    with pytest.raises(ProtocolError, match="not authentic"):
        verified(bytes(KEY_BYTES), TOPIC, payload)


def test_a_device_obeys_whoever_has_its_key_and_nobody_else(tmp_path: Path) -> None:
    device = Device(tmp_path / "state", KEY)
    message = encode(assignment())
    for payload in (message, message + bytes(MAC_BYTES), add_mac(bytes(KEY_BYTES), TOPIC, message), b""):
        device.runner.deliver(Delivery(TOPIC, payload), 0.0)
    assert device.runner.ignored == 4
    assert device.runner.state.phase is Phase.IDLE
    device.runner.deliver(Delivery(TOPIC, add_mac(KEY, TOPIC, message)), 0.0)
    assert device.runner.state.phase is not Phase.IDLE


def test_a_device_says_nothing_without_its_code(tmp_path: Path) -> None:
    device = Device(tmp_path / "state", KEY)
    topic = TOPICS.up("pi-1", "check-in")
    (said,) = device.link.on(topic)
    assert decode(CheckIn, verified(KEY, topic, said)).examples


@pytest.fixture
def devices(tmp_path: Path) -> Devices:
    devices = Devices(tmp_path)
    devices.publish(lambda _: None)
    return devices


def join(devices: Devices, name: str, secret: bytes) -> bytes:
    """The key of a device that joins."""
    devices.invite(name, secret, 100)
    return devices.redeem(secret, b"key", "10.0.0.7", 0, lambda _: (b"certificate", int.from_bytes(secret))).key


def test_an_aggregator_hears_who_has_joined_until_that_is_revoked(tmp_path: Path, devices: Devices) -> None:
    site = Site(tmp_path / "run")
    runner = site.start(keys=DeviceKeys(tmp_path))
    topic, down = TOPICS.up("pi-1", kind_of(CHECK_IN)), TOPICS.down("pi-1", "rejected")

    def check_in(key: bytes | None) -> int:
        """How many answers there are after it."""
        runner.deliver(Delivery(topic, add_mac(key, topic, encode(CHECK_IN))))
        return len(site.link.on(down))

    assert check_in(None) == 0
    key = join(devices, "pi-1", b"first")
    assert check_in(None) == 0
    assert check_in(bytes(KEY_BYTES)) == 0
    assert check_in(key) == 1
    answer = decode(Rejected, verified(key, down, site.link.on(down)[0]))
    assert answer.ticket == ticket(TASK_PLAN.ticket_key, "pi-1")
    assert devices.revoke("pi-1", 7, 0, lambda _: None)
    assert check_in(key) == 1
    again = join(devices, "pi-1", b"again")
    assert check_in(key) == 1
    assert check_in(again) == 2


def test_a_gateway_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no gateway's directory; name in `gateway`"):
        DeviceKeys(tmp_path)


@pytest.mark.parametrize(("text", "said"), [(None, "No such file"), ("xyz", "no key in hex"), ("00ff", "2 bytes")])
def test_a_key_file_that_is_none_is_said(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "key").write_text(text)
    with pytest.raises(ConfigurationError, match=rf"authentication_key .*/key: {said}"):
        read_key(tmp_path / "key")
