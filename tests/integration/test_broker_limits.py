"""Brokers that allow less than most: what passes is found out, and what cannot is said on the side that notices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedprune.wire.messages import CHUNK_BYTES
from fedprune.wire.transfer import CHUNK_SIZES
from tests.brokers import MISSING, OPEN, Mosquitto
from tests.federations import NAME, Site
from tests.processes import Child

LIMIT = 20_000
"""Bytes that the small brokers take; a full chunk has more, the next smaller size less."""

ALONE = {
    "rounds": {"count": 3, "cohort": 1, "quorum": 1.0, "deadline_s": 300.0, "gather_s": 5.0},
    "codec": {"model_values": "fp32", "update": "mask | feedback(2) | int8"},
}
"""Models of 37 kB: more than `LIMIT`."""

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@contextmanager
def federation(path: Path, task: Path, *settings: str, **told: Any) -> Iterator[tuple[Child, Child]]:
    """An aggregator and its only agent, on a broker with these settings, of which they are `told` so much."""
    path.mkdir()
    with Mosquitto(path, *settings) as broker:
        site, table = Site(path, broker.url, task), {"url": broker.url, **told}
        with (
            Child("aggregator", site.federation("run", broker=table, **ALONE), "--json") as aggregator,
            Child("agent", "--config", site.agent("pi-1", trainer="litert", broker=table)) as agent,
        ):
            yield aggregator, agent


def access(path: Path, *rules: str) -> tuple[str, ...]:
    """Settings of a broker that allows everybody just these topics."""
    path.write_text("".join(f"topic {rule}\n" for rule in rules))
    return (*OPEN, f"acl_file {path}")


@pytest.fixture(scope="module")
def federations(tmp_path_factory: pytest.TempPathFactory, tiny_task: Path) -> Iterator[dict[str, tuple[Child, Child]]]:
    """One for each limit, all at once: what does not come takes patience, and nobody computes meanwhile."""
    path = tmp_path_factory.mktemp("limits")
    mine = f"fp/{NAME}"
    writable = (f"readwrite {mine}/{topics}" for topics in ("u/#", "d/#", "c/#", "s/#"))
    settings = {
        "large messages are dropped": (*OPEN, f"message_size_limit {LIMIT}"),
        "who sends large packets is hung up on": (*OPEN, f"max_packet_size {LIMIT}"),
        "no manifest": access(path / "acl", f"read {mine}/r", *writable),
    }
    with ExitStack() as running:
        known = federation(path / "known", tiny_task, *OPEN, f"message_size_limit {LIMIT}", max_message_bytes=LIMIT)
        yield {
            "a limit that the settings say": running.enter_context(known),
            **{
                limit: running.enter_context(federation(path / str(number), tiny_task, *lines))
                for number, (limit, lines) in enumerate(settings.items())
            },
        }


@pytest.mark.parametrize("limit", ["large messages are dropped", "who sends large packets is hung up on"])
def test_a_broker_that_takes_no_full_chunks_is_sent_smaller_ones(
    limit: str, federations: dict[str, tuple[Child, Child]]
) -> None:
    assert CHUNK_SIZES[0] > LIMIT > CHUNK_SIZES[1]
    aggregator, agent = federations[limit]
    said = agent.says(f"no chunk of {CHUNK_BYTES} bytes comes")
    assert f"asking for chunks of {CHUNK_SIZES[1]}" in said
    assert [aggregator.reports()["agents"] for _ in range(3)] == [1, 1, 1]
    assert aggregator.ends() == 0


def test_a_limit_that_the_settings_say_is_kept_from_the_first_message_on(
    federations: dict[str, tuple[Child, Child]],
) -> None:
    aggregator, agent = federations["a limit that the settings say"]
    assert aggregator.ends() == 0
    assert agent.says("round 3: submitting")
    assert "no chunk of" not in aggregator.stderr + agent.stderr


@pytest.mark.slow
def test_an_agent_whose_federation_is_misspelt_says_where_it_asked(tmp_path: Path, mosquitto: Mosquitto) -> None:
    site = Site(tmp_path, mosquitto.url, tmp_path)
    with Child("agent", "--config", site.agent("pi-1", federation="misspelt")) as agent:
        said = agent.says("have no answer")
    assert f"federation 'misspelt' at {mosquitto.url}" in said
    assert "on fp/misspelt/u/" in said
    assert "no manifest on fp/misspelt/r" in said


@pytest.mark.slow
def test_what_an_access_list_denies_is_said_on_the_side_that_notices(tmp_path: Path, tiny_task: Path) -> None:
    """All at once, since each takes a few unanswered asks."""
    mine, status = f"fp/{NAME}", f"readwrite fp/{NAME}/s/#"
    lists = {
        "up": (f"readwrite {mine}/r", f"readwrite {mine}/d/#", status),
        "down": (f"readwrite {mine}/r", f"readwrite {mine}/u/#", status),
        "chunks": (
            f"readwrite {mine}/r",
            f"readwrite {mine}/u/#",
            *(f"readwrite {mine}/d/+/{kind}" for kind in "anyr"),
            status,
        ),
    }
    with ExitStack() as all_of_them:
        pairs = {}
        for name, rules in lists.items():
            settings = access(tmp_path / f"{name}.acl", *rules)
            pairs[name] = all_of_them.enter_context(federation(tmp_path / name, tiny_task, *settings))

        aggregator, agent = pairs["up"]
        assert f"publish on {mine}/u/#" in aggregator.says("nobody has checked in for")
        assert "does the aggregator run, and may this agent publish there" in agent.says("have no answer")
        aggregator, agent = pairs["down"]
        assert f"publish on {mine}/d/#" in aggregator.says("none shows the ticket")
        assert f"and read {mine}/d/pi-1/#" in agent.says("have no answer")
        aggregator, agent = pairs["chunks"]
        assert f"let this agent read {mine}/c/# and {mine}/d/pi-1/#" in agent.says("nothing came of a content")


@pytest.mark.slow
def test_a_manifest_that_the_broker_does_not_take_is_said(federations: dict[str, tuple[Child, Child]]) -> None:
    aggregator, _ = federations["no manifest"]
    assert f"publish on fp/{NAME}/r, retained" in aggregator.says("the manifest does not come back")
