"""A gateway that hears nobody, or nothing of an update, says so: where, and what may be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aggregator.cohort import Standing
from aggregator.round_state import Connected, Phase, Said, StoreUpdate, Warn, WarnNobody
from aggregator.silence import nobody
from fedprune.wire.link import Delivery
from fedprune.wire.messages import Need
from fedprune.wire.silence import FIRST_SAID
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import CHUNK_SIZES, ENVELOPE_BYTES, PROVEN_ATTEMPTS
from tests.drivers import CHECK_IN, PLAN, Gateway, gathering, sent_to, training
from tests.samples import UPDATE_BLOB, chunks, submit
from tests.unit.test_aggregator_runner import TOPICS, Site

FULL, SMALL, SMALLEST = CHUNK_SIZES


def words(actions: tuple[Any, ...]) -> list[WarnNobody]:
    return [action for action in actions if isinstance(action, WarnNobody)]


def waited(gateway: Gateway, times: int) -> list[WarnNobody]:
    return [word for _ in range(times) for word in words(gateway.waits())]


def test_where_nobody_checks_in_that_is_said_ever_more_seldom() -> None:
    gateway = gathering()

    assert waited(gateway, FIRST_SAID) == [WarnNobody(FIRST_SAID * PLAN.gather_s, 0)]
    assert len(waited(gateway, 100)) == 5


def test_check_ins_that_never_show_their_ticket_are_counted() -> None:
    gateway = gathering()
    said = []
    for _ in range(FIRST_SAID):
        gateway.gets(Said("pi-0", CHECK_IN))
        said += waited(gateway, 1)

    assert said == [WarnNobody(FIRST_SAID * PLAN.gather_s, FIRST_SAID)]


def test_who_waits_for_others_hears_nothing_of_silence() -> None:
    gateway = gathering()
    for _ in range(4 * FIRST_SAID):
        gateway.hears("pi-0", CHECK_IN)
        assert waited(gateway, 1) == []


def test_a_later_round_counts_its_own_silence() -> None:
    gateway = gathering()
    waited(gateway, FIRST_SAID - 1)
    for agent in ("pi-0", "pi-1", "pi-2"):
        gateway.hears(agent, CHECK_IN)
    assert gateway.state.phase is Phase.TRAINING
    assert gateway.state.nobody == 0


@pytest.mark.parametrize(("strangers", "topic"), [(0, "fp/field/u/#"), (7, "fp/field/d/#")])
def test_the_line_names_federation_broker_and_topic(strangers: int, topic: str) -> None:
    line = nobody(WarnNobody(90.0, strangers), Topics("field"), "mqtt://gateway.local:1883")

    assert "'field' at mqtt://gateway.local:1883" in line
    assert topic in line
    assert "\n" not in line


def test_an_update_of_which_nothing_comes_is_asked_for_in_smaller_chunks_and_that_is_said() -> None:
    gateway = training()
    sizes, lines = [], []
    for _ in range(8):
        gateway.now += 5.0
        actions = gateway.hears("pi-0", submit())
        sizes += [need.chunk_bytes for need in sent_to("pi-0", actions, Need)]
        lines += [action.text for action in actions if isinstance(action, Warn)]

    assert sizes[0] == FULL, "the first time it may be on its way"
    assert sorted(set(sizes), reverse=True) == [FULL, SMALL, SMALLEST]
    assert "pi-0 submits, but no chunk of 122624 bytes comes" in lines[0]
    assert f"must take messages of {SMALLEST + ENVELOPE_BYTES} bytes" in lines[-1]
    assert len(lines) <= 4
    (stored,) = gateway.hears("pi-0", *chunks(UPDATE_BLOB, SMALLEST))
    assert isinstance(stored, StoreUpdate)
    assert stored.blob == UPDATE_BLOB


def test_a_submit_that_comes_twice_is_no_reason_for_smaller_chunks() -> None:
    gateway = training()
    for _ in range(4):
        needs = sent_to("pi-0", gateway.hears("pi-0", submit()), Need)
        assert [need.chunk_bytes for need in needs if need.chunk_bytes != FULL] == []
    assert gateway.standing(Standing.ASSIGNED) >= {"pi-0"}


@pytest.mark.parametrize("who", ["the agent", "the gateway"])
def test_chunks_that_were_lost_with_a_connection_are_no_reason_for_smaller_ones(who: str) -> None:
    gateway = training()
    for _ in range(4):
        gateway.hears("pi-0", submit())
        gateway.now += 5.0
        if who == "the agent":
            gateway.hears("pi-0", CHECK_IN)  # as it does when it connects
        else:
            gateway.gets(Connected())
        actions = gateway.hears("pi-0", submit())
        assert [need.chunk_bytes for need in sent_to("pi-0", actions, Need) if need.chunk_bytes != FULL] == []
        assert not [action for action in actions if isinstance(action, Warn)]


def test_an_agent_that_is_slow_to_send_what_others_sent_is_asked_for_chunks_of_their_size() -> None:
    """One that is busy submits again before it has read what it is asked for."""
    gateway = training()
    gateway.hears("pi-1", submit(), *chunks(UPDATE_BLOB)[:1])
    gateway.hears("pi-0", submit())
    sizes = []
    for _ in range(PROVEN_ATTEMPTS):
        gateway.now += 6.0
        sizes += [need.chunk_bytes for need in sent_to("pi-0", gateway.hears("pi-0", submit()), Need)]

    assert sizes == [FULL] * (PROVEN_ATTEMPTS - 1) + [SMALL], "a broker may have been set anew"


def start_of_a_run(site: Site) -> None:
    """Connections in a row, each of which publishes the manifest."""
    runner = site.start()
    for _ in range(FIRST_SAID + 1):
        runner.connect()


def test_a_manifest_that_never_comes_back_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start_of_a_run(Site(tmp_path))

    (line,) = [record.getMessage() for record in caplog.records if "manifest" in record.getMessage()]
    assert f"may the aggregator publish on {TOPICS.round}, retained" in line


def test_a_manifest_that_comes_back_is_nothing_to_speak_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runner = Site(tmp_path).start()
    for _ in range(3 * FIRST_SAID):
        runner.connect()
        runner.deliver(Delivery(TOPICS.round, b"the manifest"))

    assert [record.getMessage() for record in caplog.records if "manifest" in record.getMessage()] == []
