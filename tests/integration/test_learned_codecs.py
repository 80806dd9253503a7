"""The benchmark of codecs: what a federation sent is coded again as it was sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bytes_to_accuracy.federation import Federation
from benchmarks.bytes_to_accuracy.problems import USUAL_PROBLEM
from benchmarks.bytes_to_accuracy.recipes import RECIPES
from benchmarks.bytes_to_accuracy.records import Arrangement
from benchmarks.codec.learned import measure_learned

_ROUNDS = 4


def test_what_was_learned_is_coded_by_its_agents_history_as_it_was_sent(tmp_path: Path) -> None:
    (frugal,) = (recipe for recipe in RECIPES if recipe.name == "frugal-90")
    one_agent = Arrangement("dirichlet:0.5", 1 / USUAL_PROBLEM.agents)
    (tmp_path / "sent").mkdir()
    (tmp_path / "again").mkdir()
    sent = [*Federation(frugal, one_agent, 4, _ROUNDS, tmp_path / "sent").rounds()]

    updates, others, deltas = measure_learned(Federation(frugal, one_agent, 4, _ROUNDS, tmp_path / "again"))

    blobs = [each.update.blob for round_ in sent for each in round_.sent.values()]
    assert updates.messages == others.messages == len(blobs)
    assert updates.bytes == pytest.approx(sum(map(len, blobs)) / len(blobs), abs=1)
    assert deltas.bytes == pytest.approx(sum(len(round_.model.delta or b"") for round_ in sent) / len(sent), abs=1)
    assert (updates.coder, others.coder, deltas.coder) == ("history", "context", "history")
