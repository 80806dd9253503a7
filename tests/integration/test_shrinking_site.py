"""Real processes over a real broker go on while their network becomes smaller, whoever is killed and started again."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregator.book import Book
from edge_agent.held_model import HeldModel
from fedprune.data.npz import save_npz
from fedprune.system.disk import Directory
from fedprune.task.checkpoints import load_latest
from fedprune.task.run_directory import BOOK
from tests.brokers import MISSING, Mosquitto
from tests.federations import Site
from tests.processes import Child
from tests.shrinking import LAST_STEP, bundle_of, examples_of

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

ROUNDS = LAST_STEP + 2
AGENTS = ("pi-1", "pi-2")


class _SmallSite(Site):
    def _data(self, name: str, count: int, seed: int) -> None:  # noqa: ARG002
        save_npz(self.path / f"{name}.npz", examples_of(seed))


def test_whoever_is_started_again_goes_on_with_the_smaller_network(tmp_path: Path, mosquitto: Mosquitto) -> None:
    bundle = bundle_of()
    (tmp_path / "task.fedtask").write_bytes(bundle.blob)
    site = _SmallSite(tmp_path, mosquitto.url, tmp_path / "task.fedtask")
    rounds = {"count": ROUNDS, "cohort": 2, "quorum": 1.0, "deadline_s": 300.0, "gather_s": 300.0}
    federation = site.federation("run", rounds=rounds, codec={"model": "mask | fp16"})  # devices hold what leads on
    first, second = (site.agent(name) for name in AGENTS)

    with Child("agent", "--config", first), Child("agent", "--config", second) as killed:
        with Child("aggregator", federation, "--json") as aggregator:
            for _ in range(LAST_STEP):
                aggregator.reports()
            killed.kill()
            aggregator.kill()
        with Child("agent", "--config", second), Child("aggregator", federation, "--json") as aggregator:
            assert aggregator.ends() == 0

    book = Book.open(tmp_path / "run" / BOOK)
    records = book.records()  # how many of them were reported before the kill is a matter of speed
    book.close()
    assert len(records) == ROUNDS
    last = load_latest(tmp_path / "run")
    form = bundle.forms.of(last.units)
    assert form.task.table.parameters < 0.4 * bundle.task.table.parameters
    form.task.table.check(last.weights)
    assert 2 * records[-1].bytes_up_by_kind["update"] < records[0].bytes_up_by_kind["update"]
    for name in AGENTS:
        held = HeldModel(Directory(tmp_path / f"state-of-{name}")).read(last.run)
        assert held is not None
        assert bundle.forms.read(held[1])[0].name == form.name
