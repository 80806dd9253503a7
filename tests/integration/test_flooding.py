"""A device that was captured floods its own topics, as fast as the broker takes it: the others' rounds go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from fedprune.wire.broker import Tls
from fedprune.wire.tls import tls_context
from fedprune.wire.topics import Topics
from tests.brokers import MISSING
from tests.federations import NAME, Site
from tests.processes import Child, run
from tests.secured import SecuredGateway

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

_FILES = {"ca": "ca.pem", "certificate": "aggregator.pem", "key": "aggregator.key"}
_WAITING = 2000
"""Messages that the flood holds ready for its socket."""


def test_a_captured_device_that_floods_stops_no_round_of_the_others(tmp_path: Path, tiny_task: Path) -> None:
    gateway = SecuredGateway.made(tmp_path / "gateway")
    site = Site(tmp_path, f"mqtts://127.0.0.1:{gateway.broker_port}", tiny_task)
    tls = {name: str(gateway.path / file) for name, file in _FILES.items()}
    rounds = {"count": 100, "cohort": 2, "quorum": 1.0, "deadline_s": 300.0, "gather_s": 300.0}
    federation = site.federation(
        "run", broker={"url": site.url, "tls": tls}, gateway=str(gateway.path), rounds={**rounds, "fleet": ["a", "b"]}
    )
    with gateway.broker():
        with gateway.endpoint():
            agents = [_joined(gateway, site, name) for name in ("a", "b", "captured")]
        with (
            Child("agent", "--config", agents[0]) as agent,
            Child("agent", "--config", agents[1]),
            Child("aggregator", federation, "--json") as aggregator,
        ):
            aggregator.reports()
            with _flood(gateway, agents[2].parent):
                aggregator.says("captured floods: it sent more messages in 10 s than any round takes")
                assert [aggregator.reports()["agents"] for _ in range(4)] == [2] * 4
            aggregator.interrupt()
            assert "lost" not in agent.stderr


@contextmanager
def _flood(gateway: SecuredGateway, device: Path) -> Iterator[None]:
    """Meanwhile whoever has the device's files publishes without a pause."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="captured", protocol=paho.MQTTv311)
    client.tls_set_context(tls_context(Tls(*(str(device / name) for name in ("ca.pem", "device.pem", "device.key")))))
    client.connect("127.0.0.1", gateway.broker_port)
    client.loop_start()
    is_over = threading.Event()

    def publish() -> None:
        while not is_over.is_set():
            if len(client._out_packet) < _WAITING:
                client.publish(Topics(NAME).up("captured", "chunk"), bytes(1000))

    author = threading.Thread(target=publish)
    author.start()
    try:
        yield
    finally:
        is_over.set()
        author.join()
        client.disconnect()
        client.loop_stop()


def _joined(gateway: SecuredGateway, site: Site, name: str) -> Path:
    site.agent(name)
    config = site.path / f"device-{name}" / "agent.toml"
    code, said = run("join", gateway.enrol(name), "--dir", config.parent, "--data", site.path / f"{name}.npz")
    assert code == 0, said
    config.write_text(f'trainer = "litert"\n{config.read_text()}')
    return config
