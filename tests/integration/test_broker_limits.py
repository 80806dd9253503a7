"""Brokers that allow less than most: what passes is found out, and what cannot is said on the side that notices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fedprune.wire.messages import CHUNK_BYTES
from fedprune.wire.transfer import CHUNK_SIZES
from tests.brokers import MISSING, OPEN, Mosquitto
from tests.federations import NAME, Site
from tests.processes import Child

LIMIT = 20_000
"""Bytes that the small brokers take; a full chunk has more, the next smaller size less."""

ALONE = {
    "rounds": {"count": 2, "cohort": 1, "quorum": 1.0, "deadline_s": 300.0, "gather_s": 5.0},
    "codec": {"model_values": "fp32", "update": "mask | feedback(2) | int8"},
}
"""Models of 37 kB: more than `LIMIT`."""

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@contextmanager
def federation(path: Path, task: Path, *settings: str) -> Iterator[tuple[Child, Child]]:
    """An aggregator and its only agent, on a broker with these settings."""
    path.mkdir()
    with Mosquitto(path, *settings) as broker:
        site = Site(path, broker.url, task)
        with (
            Child("aggregator", site.federation("run", **ALONE), "--json") as aggregator,
            Child("agent", "--config", site.agent("pi-1", trainer="litert")) as agent,
        ):
            yield aggregator, agent


def access(path: Path, *rules: str) -> tuple[str, ...]:
    """Settings of a broker that allows everybody just these topics."""
    path.write_text("".join(f"topic {rule}\n" for rule in rules))
    return (*OPEN, f"acl_file {path}")


def test_a_broker_that_takes_no_full_chunks_is_sent_smaller_ones(tmp_path: Path, tiny_task: Path) -> None:
    """The one drops what is too large and acknowledges it, the other hangs up. Both at once: it takes patience."""
    assert CHUNK_SIZES[0] > LIMIT > CHUNK_SIZES[1]
    with ExitStack() as both:
        pairs = [
            both.enter_context(federation(tmp_path / setting, tiny_task, *OPEN, f"{setting} {LIMIT}"))
            for setting in ("message_size_limit", "max_packet_size")
        ]
        for aggregator, agent in pairs:
            said = agent.says(f"no chunk of {CHUNK_BYTES} bytes comes")
            assert f"asking for chunks of {CHUNK_SIZES[1]}" in said
            assert [aggregator.reports()["agents"] for _ in range(2)] == [1, 1]
            assert aggregator.ends() == 0


@pytest.mark.slow
def test_an_agent_whose_federation_is_misspelt_says_where_it_asked(tmp_path: Path, mosquitto: Mosquitto) -> None:
    site = Site(tmp_path, mosquitto.url, tmp_path)
    with Child("agent", "--config", site.agent("pi-1", federation="misspelt")) as agent:
        said = agent.says("have no answer")
    assert f"federation 'misspelt' at {mosquitto.url}" in said
    assert "on fedprune/misspelt/up/" in said
    assert "no manifest on fedprune/misspelt/round" in said


@pytest.mark.slow
def test_what_an_access_list_denies_is_said_on_the_side_that_notices(tmp_path: Path, tiny_task: Path) -> None:
    """All at once, since each takes a few unanswered asks."""
    mine, status = f"fedprune/{NAME}", f"readwrite fedprune/{NAME}/status/#"
    lists = {
        "up": (f"readwrite {mine}/round", f"readwrite {mine}/down/#", status),
        "down": (f"readwrite {mine}/round", f"readwrite {mine}/up/#", status),
        "chunks": (
            f"readwrite {mine}/round",
            f"readwrite {mine}/up/#",
            *(f"readwrite {mine}/down/+/{kind}" for kind in ("assignment", "need", "accepted", "rejected")),
            status,
        ),
    }
    with ExitStack() as all_of_them:
        pairs = {}
        for name, rules in lists.items():
            settings = access(tmp_path / f"{name}.acl", *rules)
            pairs[name] = all_of_them.enter_context(federation(tmp_path / name, tiny_task, *settings))

        aggregator, agent = pairs["up"]
        assert f"publish on {mine}/up/#" in aggregator.says("nobody has checked in for")
        assert "does the aggregator run, and may this agent publish there" in agent.says("have no answer")
        aggregator, agent = pairs["down"]
        assert f"publish on {mine}/down/#" in aggregator.says("none shows the ticket")
        assert f"and read {mine}/down/pi-1/#" in agent.says("have no answer")
        aggregator, agent = pairs["chunks"]
        assert f"let this agent read {mine}/content/# and {mine}/down/pi-1/#" in agent.says("nothing came of a content")


def test_a_manifest_that_the_broker_does_not_take_is_said(tmp_path: Path, tiny_task: Path) -> None:
    mine = f"fedprune/{NAME}"
    settings = access(
        tmp_path / "acl",
        f"read {mine}/round",
        *(f"readwrite {mine}/{topics}" for topics in ("up/#", "down/#", "content/#", "status/#")),
    )
    with federation(tmp_path / "run", tiny_task, *settings) as (aggregator, _):
        assert f"publish on {mine}/round, retained" in aggregator.says("the manifest does not come back")
