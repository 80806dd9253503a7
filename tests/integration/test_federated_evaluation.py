"""A federation whose gateway has no labelled data: what its agents find is what a gateway that had them would find."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.agents_evaluation import LOSS
from aggregator.book import RoundRecord
from edge_agent.evaluating import hold_out
from fedprune.config import read_table
from fedprune.data import Dataset, load_npz, save_npz
from fedprune.errors import ConfigurationError, DataError
from fedprune.system.disk import Directory
from fedprune.task.bundle import load_bundle
from fedprune.task.checkpoints import load_checkpoint
from fedprune.task.evaluation import Evaluator
from fedprune.task.run_directory import CHECKPOINTS, HELD_OUT
from tests.brokers import MISSING, Mosquitto
from tests.federations import NAME, Site, task_toml
from tests.processes import Child, run, toml

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

AGENTS = {"pi-1": "litert", "pi-2": "keras", "pi-3": "litert"}
ROUNDS, SEED, SHARE = 3, 7, 0.25


def task_of(directory: Path) -> Path:
    """One whose scores are neither all right nor all alike."""
    toml_path = directory / "task.toml"
    toml_path.write_text(f'{task_toml(3)}[evaluation]\nmetrics = ["accuracy", "auc", "f1_score"]\n')
    code, said = run("task", "build", toml_path, "--out", directory / "task.fedtask")
    assert code == 0, said
    return directory / "task.fedtask"


def without_held_out(site: Site, **changes: object) -> Path:
    path = site.federation("run", seed=SEED, **changes)
    table = read_table(path)
    del table["held_out"]
    path.write_text(toml(table))
    return path


def make_it_hard(path: Path, agent: int) -> None:
    """Noise, more for one agent than for the others."""
    data = load_npz(path)
    noise = np.random.default_rng(agent).normal(scale=0.4 * agent, size=data.x.shape)
    save_npz(path, Dataset((data.x + noise).astype(np.float32), data.y))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    path = tmp_path_factory.mktemp("site")
    with Mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield Site(path, broker.url, task_of(path))


@pytest.fixture(scope="module")
def records(site: Site) -> list[RoundRecord]:
    rounds = {"count": ROUNDS, "cohort": len(AGENTS), "quorum": 1.0, "deadline_s": 300.0, "gather_s": 300.0}
    federation = without_held_out(site, agents_hold_out=SHARE, rounds=rounds)
    configs = {name: site.agent(name, trainer=trainer) for name, trainer in AGENTS.items()}
    for number, name in enumerate(AGENTS):
        make_it_hard(site.path / f"{name}.npz", number)
    agents = [Child("agent", "--config", config) for config in configs.values()]
    with Child("aggregator", federation, "--json") as aggregator:
        reported = [aggregator.reports() for _ in range(ROUNDS)]
        assert aggregator.ends() == 0
    for agent in agents:
        agent.interrupt()
        agent.ends()
    return [msgspec.convert(record, RoundRecord) for record in reported]


def held_out_of(site: Site, name: str) -> Dataset:
    _, held_out = hold_out(load_npz(site.path / f"{name}.npz"), SHARE, SEED, name)
    assert held_out is not None
    return held_out


def evaluator_of(site: Site, *data: Dataset) -> Evaluator:
    together = Dataset(np.concatenate([each.x for each in data]), np.concatenate([each.y for each in data]))
    save_npz(site.path / "together.npz", together)
    return Evaluator(load_bundle(site.task), site.path / "together.npz", threads=1)


def test_it_agrees_with_the_evaluation_of_all_examples_in_one_place(site: Site, records: list[RoundRecord]) -> None:
    evaluator = evaluator_of(site, *(held_out_of(site, name) for name in AGENTS))
    checkpoints = Directory(site.path / "run" / CHECKPOINTS)
    for round_, record in enumerate(records):
        central = evaluator.evaluate(load_checkpoint(checkpoints, round_).weights)
        assert (record.round, record.evaluated_version) == (round_, round_)
        assert list(record.metrics) == ["accuracy", "auc", "f1_score"]
        assert record.metrics == central.metrics
        assert record.loss == pytest.approx(central.loss, rel=1e-6)


def test_the_spread_is_that_of_each_agents_own_examples(site: Site, records: list[RoundRecord]) -> None:
    weights = load_checkpoint(Directory(site.path / "run" / CHECKPOINTS), ROUNDS - 1).weights
    own = {name: evaluator_of(site, held_out_of(site, name)).evaluate(weights).loss for name in AGENTS}

    spread = records[-1].spreads[LOSS]

    ordered = sorted(own, key=lambda name: own[name], reverse=True)
    assert spread.worst_agent == ordered[0]
    assert (spread.worst, spread.quartiles[1], spread.best) == pytest.approx([own[name] for name in ordered], rel=1e-5)


@pytest.mark.usefixtures("records")
def test_exports_need_examples_from_elsewhere(site: Site) -> None:
    assert not (site.path / "run" / HELD_OUT).exists()

    code, said = run("export", site.path / "run", "--formats", "fp32")
    assert code == DataError.exit_code
    assert "since its agents evaluate; name some with --data" in said

    code, said = run("export", site.path / "run", "--formats", "fp32", "--data", site.path / "pi-1.npz")
    assert code == 0, said
    assert (site.path / "run" / "export" / "fp32.tflite").exists()


def test_without_any_evaluation_nothing_starts(site: Site) -> None:
    code, said = run("aggregator", without_held_out(site, agents_hold_out=0.0, name=NAME))

    assert code == ConfigurationError.exit_code
    assert "give held_out, or agents_hold_out above 0" in said
