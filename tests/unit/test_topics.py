"""Topics: who speaks is in them, so what is in them is checked."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.errors import ConfigurationError, ProtocolError
from fedprune.wire import topics
from fedprune.wire.messages import DOWNLINK, UPLINK
from fedprune.wire.topics import SHARDS, Topics, check_id, shard_of
from tests.samples import MODEL

TOPICS = Topics("greenhouse")
IDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


def test_the_topics_are_those_of_the_protocol() -> None:
    shard = zlib.crc32(b"pi-1") % 64

    assert TOPICS.round == "fp/greenhouse/r"
    assert TOPICS.content(MODEL.digest) == f"fp/greenhouse/c/{MODEL.digest.hex()}"
    assert TOPICS.up("pi-1", "submit") == f"fp/greenhouse/u/{shard}/pi-1/s"
    assert TOPICS.down("pi-1", "accepted") == "fp/greenhouse/d/pi-1/y"
    assert TOPICS.status("pi-1") == "fp/greenhouse/s/pi-1"
    assert TOPICS.up("pi-1", "submit").startswith(TOPICS.all_up.removesuffix("#"))
    assert TOPICS.status("pi-1").startswith(TOPICS.all_status.removesuffix("+"))


def test_every_kind_of_message_has_a_letter_of_its_own() -> None:
    for agent in ("pi-1", "d"):
        for kind in UPLINK:
            assert TOPICS.parse_up(TOPICS.up(agent, kind)) == (agent, kind)
        for kind in DOWNLINK:
            assert TOPICS.parse_down(TOPICS.down(agent, kind), agent) == kind
            assert len(TOPICS.down(agent, kind)) == len(f"fp/greenhouse/d/{agent}/x")
    assert TOPICS.parse_down(TOPICS.down("pi-1", "need"), "pi-2") == ""
    with pytest.raises(ProtocolError, match="unknown kind"):
        TOPICS.parse_down("fp/greenhouse/d/pi-1/z", "pi-1")


@given(IDS, st.sampled_from(["check-in", "submit"]))
def test_who_speaks_is_read_from_the_topic(agent: str, kind: str) -> None:
    assert TOPICS.parse_up(TOPICS.up(agent, kind)) == (agent, kind)
    assert TOPICS.up(agent, kind).count("/") <= 7
    assert 0 <= shard_of(agent) < SHARDS


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "fp/greenhouse/r",
        "fp/another/u/0/pi-1/s",
        f"fp/greenhouse/u/{(shard_of('pi-1') + 1) % 64}/pi-1/s",
        f"fp/greenhouse/u/0{shard_of('pi-1')}/pi-1/s",
        f"fp/greenhouse/u/ {shard_of('pi-1')}/pi-1/s",
        "fp/greenhouse/u//pi-1/s",
        f"fp/greenhouse/u/{shard_of('pi-1')}/pi-1",
        f"fp/greenhouse/u/{shard_of('pi-1')}/pi-1/s/more",
        f"fp/greenhouse/u/{zlib.crc32(b'') % 64}//s",
        f"fp/greenhouse/u/{zlib.crc32(b'a b') % 64}/a b/s",
        f"fp/greenhouse/u/{zlib.crc32(b'pi-1' + bytes([10])) % 64}/pi-1\n/s",
        f"fp/greenhouse/u/{zlib.crc32(b'x' * 65) % 64}/{'x' * 65}/s",
        f"fp/greenhouse/u/{zlib.crc32('ü'.encode()) % 64}/ü/s",
    ],
)
def test_foreign_topics_are_refused(topic: str) -> None:
    with pytest.raises(ProtocolError, match="topic"):
        TOPICS.parse_up(topic)


@given(st.text())
def test_any_text_is_a_topic_of_ours_or_refused(topic: str) -> None:
    with pytest.raises(ProtocolError):
        TOPICS.parse_up(topic)


@given(IDS)
def test_ids_may_be_names(name: str) -> None:
    assert check_id(name, "agent name") == name


@pytest.mark.parametrize("name", ["", "x" * 65, "a/b", "a b", "+", "#", "pi-1\n", "ü", "a\0b"])
def test_what_could_not_be_a_level_of_a_topic_is_refused_as_a_name(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"agent name .*: use 1 to 64 letters, digits"):
        check_id(name, "agent name")


def test_no_two_clients_share_an_id_whatever_they_and_their_federations_are_called() -> None:
    names = (("b-c", "a"), ("c", "a-b"), ("c", "b"))
    clients = [Topics(federation).agent_client(agent) for federation, agent in names]
    clients += [
        Topics("c").agent_client("aggregator"),
        Topics("c").aggregator_client,
        Topics("agent").aggregator_client,
    ]

    assert len(set(clients)) == len(clients)


def test_names_are_one_string_each_and_no_more_are_kept_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever invents names fills no memory with them."""
    monkeypatch.setattr(topics, "MOST_NAMES", 3)
    monkeypatch.setattr(topics, "_names", {})
    twice = [TOPICS.parse_up(TOPICS.up("pi-1", "submit"))[0], TOPICS.author(TOPICS.status("pi-1"))]
    assert twice[0] is twice[1]

    for number in range(10):
        TOPICS.parse_up(TOPICS.up(f"stranger-{number}", "submit"))
        assert TOPICS.author(TOPICS.status("x" * 60_000)) == ""

    assert len(topics._names) <= 3
