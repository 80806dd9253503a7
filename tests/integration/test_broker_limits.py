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

ALONE = {"rounds": {"count": 2, "cohort": 1, "quorum": 1.0, "deadline_s": 300.0, "gather_s": 10.0}}

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
    """The one drops what is too large and acknowledges it, the other hangs up. Both at once: it takes their patience."""
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
