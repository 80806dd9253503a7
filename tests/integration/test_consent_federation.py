"""A device that asks its owner: a real federation waits for the word, and goes on with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from aggregator.book import Book
from edge_agent.consent import NO_CONSENT
from fedprune.task.run_directory import BOOK
from tests.brokers import Mosquitto
from tests.federations import Site
from tests.processes import Child, run


def test_a_task_waits_for_the_owners_word_and_the_round_completes_with_it(
    tmp_path: Path, mosquitto: Mosquitto, tiny_task: Path
) -> None:
    site = Site(tmp_path, mosquitto.url, tiny_task)
    config = site.agent("pi-1", consent={"ask": True, "max_steps": 4, "max_parameters": 200_000})
    rounds = {"count": 1, "cohort": 1, "quorum": 1.0, "deadline_s": 300.0, "gather_s": 300.0}
    digest = hashlib.sha256(tiny_task.read_bytes()).hexdigest()
    with (
        Child("agent", "--config", config) as agent,
        Child("aggregator", site.federation("run", rounds=rounds)) as aggregator,
    ):
        line = agent.says("waits for its owner's word")
        assert f"`fedprune consent {digest}`" in line
        assert "parameters; 4 steps of 8 examples a round" in line
        aggregator.says(NO_CONSENT)
        with Child("consent", "--config", config) as listing:
            assert f"digest {digest}" in listing.says("waits: task 'tiny'", "stdout")
        code, said = run("consent", digest, "--config", config)
        assert code == 0, said
        assert aggregator.ends() == 0
    book = Book.open(site.path / "run" / BOOK)
    assert [record.agents for record in book.records()] == [1]
    book.close()
