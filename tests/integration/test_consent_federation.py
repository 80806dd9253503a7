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


def test_a_task_waits_for_the_owners_word_and_the_next_round_is_made_with_it(
    tmp_path: Path, mosquitto: Mosquitto, tiny_task: Path
) -> None:
    """The first round is the other agent's alone; the second one waits for both."""
    site = Site(tmp_path, mosquitto.url, tiny_task)
    config = site.agent("pi-1", consent={"ask": True, "max_steps": 4, "max_parameters": 200_000})
    rounds = {"count": 2, "cohort": 2, "quorum": 0.5, "deadline_s": 300.0, "gather_s": 300.0}
    digest = hashlib.sha256(tiny_task.read_bytes()).hexdigest()
    with (
        Child("agent", "--config", config) as agent,
        Child("agent", "--config", site.agent("pi-2")),
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
    assert [sorted(book.accepted(round_)) for round_ in range(2)] == [["pi-2"], ["pi-1", "pi-2"]]
    book.close()
