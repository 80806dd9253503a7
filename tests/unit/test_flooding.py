"""A device that floods keeps nobody else from being heard: the aggregator listens to the others by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregator.floods import MOST_SAID, SHUT_OUT_S, WINDOW_S, Floods
from aggregator.round_state import RoundState, Upload
from fedprune.identity.device_keys import DeviceKeys
from fedprune.identity.devices import Devices
from fedprune.system.values import replace
from fedprune.wire.link import Delivery
from fedprune.wire.messages import Content
from fedprune.wire.transfer import CHUNK_SIZES, LinkTraits, Receiving
from tests.gateways import TASK_PLAN, TOPICS, Site
from tests.samples import submit

CAPTURED, OTHER, LATER = "pi-1", "pi-2", "pi-3"
ALL = {TOPICS.round, TOPICS.all_up, TOPICS.all_status}


def flood(floods: Floods, count: int, now: float) -> list[bool]:
    return [floods.begins_with(CAPTURED, 10, now) for _ in range(count)]


def test_a_device_may_say_as_much_as_its_update_takes_and_a_thousand_messages_in_each_window() -> None:
    floods = Floods()
    for window in range(3):
        assert not any(flood(floods, MOST_SAID + 10, window * WINDOW_S))
    assert flood(floods, 2, 2.5 * WINDOW_S) == [True, False], "it is said once"
    assert floods.authors == {CAPTURED}


def test_what_an_update_takes_counts_until_the_window_is_over_in_which_it_came() -> None:
    floods = Floods()
    assert not any(floods.begins_with(CAPTURED, 5000, 0.0) for _ in range(5000))
    assert not any(flood(floods, 100, 1.0)), "the update is here, and no longer on its way"
    assert any(flood(floods, 2000, WINDOW_S))


def test_a_device_that_flooded_is_listened_to_again_after_a_while() -> None:
    floods = Floods()
    flood(floods, MOST_SAID + 11, 0.0)
    assert not floods.forgive(SHUT_OUT_S - 1.0)
    assert floods.forgive(SHUT_OUT_S)
    assert floods.authors == frozenset()
    assert not any(flood(floods, MOST_SAID, SHUT_OUT_S))


@pytest.fixture
def gateway(tmp_path: Path) -> Devices:
    (tmp_path / "gateway").mkdir()
    devices = Devices(tmp_path / "gateway")
    for name in (CAPTURED, OTHER):
        join(devices, name)
    return devices


def join(devices: Devices, name: str) -> None:
    devices.invite(name, name.encode(), 10)
    devices.redeem(name.encode(), name.encode(), "127.0.0.1", 1, lambda _: (b"certificate", sum(name.encode())))


@pytest.mark.parametrize(
    "topic", [TOPICS.up(CAPTURED, "check-in"), TOPICS.status(CAPTURED), f"fp/{TOPICS.federation}/u/99/{CAPTURED}/zzz"]
)
def test_while_a_device_floods_on_any_topic_of_its_own_each_other_one_is_subscribed_to_by_name(
    tmp_path: Path, gateway: Devices, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    site = Site(tmp_path / "run")
    runner = site.start(keys=DeviceKeys(tmp_path / "gateway"), clock=lambda: now)
    runner.connect()
    assert set(site.link.filters) == ALL
    for _ in range(2 * MOST_SAID):
        runner.deliver(Delivery(topic, b""))
    assert set(site.link.filters) == {TOPICS.round, TOPICS.all_up_of(OTHER)}
    assert caplog.text.count(f"{CAPTURED} floods: ") == 1
    assert f"fedprune revoke {CAPTURED}" in caplog.text
    join(gateway, LATER)
    runner.tick()
    assert set(site.link.filters) == {TOPICS.round, TOPICS.all_up_of(OTHER), TOPICS.all_up_of(LATER)}
    now = SHUT_OUT_S
    runner.tick()
    assert set(site.link.filters) == ALL


def test_a_flood_goes_on_when_the_connection_is_lost(tmp_path: Path, gateway: Devices) -> None:
    del gateway
    site = Site(tmp_path / "run")
    runner = site.start(keys=DeviceKeys(tmp_path / "gateway"))
    runner.connect()
    for _ in range(2 * MOST_SAID):
        runner.deliver(Delivery(TOPICS.status(CAPTURED), b""))
    site.link.filters.clear()  # as a broker forgets them
    runner.connect()
    assert set(site.link.filters) == {TOPICS.round, TOPICS.all_up_of(OTHER)}


def on_its_way(state: RoundState, size: int, chunk_bytes: int) -> RoundState:
    """With an update of pi-1, of which chunks of that size come."""
    content = Content(digest=bytes(32), size=size)
    receiving, _ = Receiving.begin(content, 0.0, link=LinkTraits(chunk_bytes))
    plan = replace(state.plan, max_update_bytes=size)
    return replace(state, plan=plan, uploads=state.uploads.insert(CAPTURED, Upload(submit(update=content), receiving)))


@pytest.mark.parametrize("chunk_bytes", CHUNK_SIZES)
def test_an_update_of_many_chunks_is_no_flood_however_small_they_are(
    tmp_path: Path, gateway: Devices, chunk_bytes: int
) -> None:
    """`broker.max_message_bytes` may ask for small ones; and a link that was bad once goes on with them."""
    del gateway
    site = Site(tmp_path / "run")
    runner = site.start(keys=DeviceKeys(tmp_path / "gateway"), clock=lambda: 0.0)
    runner.connect()
    runner.state = on_its_way(runner.state, 20 * 10**6, chunk_bytes)
    topic = TOPICS.up(CAPTURED, "chunk")
    for _ in range(runner.state.uploads[CAPTURED].receiving.count):
        runner.deliver(Delivery(topic, b""))
    assert set(site.link.filters) == ALL
    for _ in range(30_000):
        runner.deliver(Delivery(topic, b""))
    assert set(site.link.filters) == {TOPICS.round, TOPICS.all_up_of(OTHER)}


def test_while_a_device_floods_names_are_gone_through_only_when_somebody_joins_or_is_revoked(
    tmp_path: Path, gateway: Devices
) -> None:
    """With thousands of devices that takes longer than an event, after each of which it is looked at."""
    keys = DeviceKeys(tmp_path / "gateway")
    names = keys.names()
    assert keys.names() is names
    join(gateway, LATER)
    assert keys.names() == names | {LATER}
    site, now = Site(tmp_path / "run"), 0.0
    runner = site.start(keys=keys, clock=lambda: now)
    runner.connect()
    for _ in range(2 * MOST_SAID):
        runner.deliver(Delivery(TOPICS.status(CAPTURED), b""))
    site.link.filters.clear()
    runner.tick()
    assert not site.link.filters
    join(gateway, "pi-4")
    runner.tick()
    assert set(site.link.filters) == {TOPICS.all_up_of("pi-4")}


def test_names_that_no_gateway_vouches_for_shut_nobody_out(tmp_path: Path) -> None:
    """Anybody could speak under them."""
    site = Site(tmp_path / "run")
    runner = site.start()
    runner.connect()
    for _ in range(2 * MOST_SAID):
        runner.deliver(Delivery(TOPICS.up(CAPTURED, "check-in"), b""))
    assert set(site.link.filters) == ALL


def test_a_sub_gateways_part_may_be_of_more_chunks_than_an_update(tmp_path: Path, gateway: Devices) -> None:
    del gateway
    plan = replace(TASK_PLAN, sub_gateways=frozenset({OTHER}), max_part_bytes=2000 * CHUNK_SIZES[1])
    site = Site(tmp_path / "run")
    runner = site.start(plan, keys=DeviceKeys(tmp_path / "gateway"))
    runner.connect()
    for _ in range(MOST_SAID + 2000):
        runner.deliver(Delivery(TOPICS.up(OTHER, "chunk"), b""))
    assert set(site.link.filters) == ALL
    for _ in range(10):
        runner.deliver(Delivery(TOPICS.up(OTHER, "chunk"), b""))
    assert set(site.link.filters) == {TOPICS.round, TOPICS.all_up_of(CAPTURED)}
