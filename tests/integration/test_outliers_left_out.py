"""A device whose data are on another scale, in a federation of real processes; and the run that is rolled back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedprune.data import Dataset
from fedprune.data.npz import save_npz
from fedprune.model.tensors import weights_digest
from fedprune.task.checkpoints import load_latest
from tests.brokers import MISSING, Mosquitto
from tests.federations import ROUNDS, Site, examples
from tests.processes import Child, ran, run

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

STORAGE = 7


@pytest.fixture
def site(tmp_path: Path, tiny_task: Path) -> Iterator[Site]:
    with Mosquitto(tmp_path) as broker:
        yield Site(tmp_path, broker.url, tiny_task)


def rescaled(site: Site, name: str) -> Path:
    """An agent whose inputs are times 20, plus 128."""
    configuration = site.agent(name, trainer="litert")
    data = examples(24, 3)
    save_npz(site.path / f"{name}.npz", Dataset(data.x * np.float32(20) + np.float32(128), data.y))
    return configuration


def roll_back(site: Site) -> dict[str, Any]:
    code, printed, said = ran("rollback", site.path / "run", "--to", str(ROUNDS - 2), "--json")
    assert code == 0, said
    done: dict[str, Any] = json.loads(printed)
    return done


def federate(federation: Path, rounds: int) -> tuple[list[dict[str, Any]], str]:
    """The records of the rounds, and what the aggregator said."""
    with Child("aggregator", federation, "--json") as aggregator:
        records = [aggregator.reports() for _ in range(rounds)]
        assert aggregator.ends() == 0
    return records, aggregator.stderr


def model(site: Site, state: str) -> str:
    return weights_digest(load_latest(site.path / state).exact)


def test_it_is_left_out_named_and_told_and_the_others_learn_as_if_it_were_not_there(site: Site) -> None:
    limits = {"count": ROUNDS, "quorum": 0.6, "deadline_s": 300.0, "gather_s": 300.0}
    alone = site.federation("alone", rounds={**limits, "cohort": 2, "fleet": ["pi-1", "pi-2"]})
    together = site.federation("run", rounds={**limits, "cohort": 3})
    with (
        Child("agent", "--config", site.agent("pi-1", trainer="litert")),
        Child("agent", "--config", site.agent("pi-2", trainer="litert")),
    ):
        federate(alone, ROUNDS)
        with Child("agent", "--config", rescaled(site, "pi-3")) as odd:
            records, said = federate(together, ROUNDS)

            assert [record["outliers"] for record in records] == ROUNDS * [["pi-3"]]
            assert [record["suspects"] for record in records] == [[], [], *(ROUNDS - 2) * [["pi-3"]]]
            assert "round 1: the update of pi-3 is left out: the norm of its delta is" in said
            assert "pi-3 stands apart for 3 rounds now: its inputs reach 15" in said
            assert "round 1: the update was accepted, but left out of the merge" in odd.stderr
            assert model(site, "run") == model(site, "alone")

            undone = roll_back(site)
            assert (undone["rounds"], undone["undone"]) == (ROUNDS - 2, 2)
            again, _ = federate(together, 2)
            assert [(record["round"], record["agents"]) for record in again] == [(ROUNDS - 2, 3), (ROUNDS - 1, 3)]


def test_nothing_is_rolled_back_while_an_aggregator_works(site: Site) -> None:
    with Child("aggregator", site.federation("run")) as aggregator:
        aggregator.says("waiting for 2 agents")

        code, said = run("rollback", site.path / "run")
        assert (code, said.count("\n")) == (STORAGE, 1)
        assert "is in use by process" in said
