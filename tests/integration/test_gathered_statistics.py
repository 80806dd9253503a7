"""A real federation that learns watts from CSV files as they are, and scales nothing by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.book import RoundRecord
from edge_agent.evaluating import hold_out
from fedprune.data import Dataset, load_examples, read_examples
from fedprune.data.description import Standard
from fedprune.data.normalization import inputs_of, targets_of
from fedprune.errors import StorageError
from fedprune.prediction import load_model
from fedprune.runtime.tflite import default_runtime, predict
from fedprune.task.bundle import load_bundle
from tests.brokers import MISSING, Mosquitto
from tests.processes import Child, run, toml
from tests.regressions import TABLE, regression_bundle, write_table

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

EXAMPLES = {"pi-1": 80, "pi-2": 150, "pi-3": 20}
"""pi-3 holds a fifth out, and so trains on 16."""
NAME, ROUNDS = "watts", 3


Federation = tuple[Path, list[RoundRecord], dict[str, str]]
"""Its directory, the records of its rounds, and what its agents said."""


def configured(path: Path, name: str, settings: dict[str, object]) -> Path:
    (path / f"{name}.toml").write_text(toml(settings))
    return path / f"{name}.toml"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    path = tmp_path_factory.mktemp("watts")
    (path / "task.fedtask").write_bytes(regression_bundle(batch_sizes=(8, 32)).blob)
    with Mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        common = {"broker": {"url": broker.url}}
        gateway = common | {
            "name": NAME,
            "task": "task.fedtask",
            "state": "run",
            "rounds": {"count": ROUNDS, "cohort": 3, "quorum": 1.0, "deadline_s": 300.0, "gather_s": 300.0},
        }
        agents = {}
        for seed, (name, count) in enumerate(EXAMPLES.items()):
            write_table(path / f"{name}.csv", count, seed)
            own = {"name": name, "federation": NAME, "data": f"{name}.csv", "state": name, "trainer": "litert"}
            own |= {"personal_model": "own.tflite"} if name == "pi-1" else {}
            agents[name] = Child("agent", "--config", configured(path, name, common | own))
        with Child("aggregator", configured(path, "gateway", gateway), "--json") as aggregator:
            records = [msgspec.convert(aggregator.reports(), RoundRecord) for _ in range(ROUNDS)]
            assert aggregator.ends() == 0
        for agent in agents.values():
            agent.interrupt()
            agent.ends()
    return path, records, {name: agent.stderr for name, agent in agents.items()}


def trained_on(path: Path) -> Dataset:
    """What the agents that gave statistics train on, together."""
    form = load_bundle(path / "task.fedtask").task.data
    parts = [hold_out(read_examples(path / f"{name}.csv", form), 0.2, 0, name)[0] for name in ("pi-1", "pi-2")]
    return Dataset(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))


def test_the_task_of_all_rounds_has_the_statistics_of_the_examples_that_are_trained_on(federation: Federation) -> None:
    path, _, _ = federation
    data, together = load_bundle(path / "run" / "task.fedtask").task.data, trained_on(path)

    for found, values in ((inputs_of(data), together.x), (targets_of(data), together.y)):
        assert isinstance(found, Standard)
        np.testing.assert_allclose(found.mean, values.mean(axis=0, dtype=np.float64), rtol=1e-5)
        np.testing.assert_allclose(found.std, values.std(axis=0, dtype=np.float64), rtol=1e-4)


def test_a_device_with_too_few_examples_trains_all_the_same(federation: Federation) -> None:
    _, records, said = federation

    assert "trains on 16 examples and gives no statistics of fewer than 20; it takes the others'" in said["pi-3"]
    assert [record.agents for record in records] == [3] * ROUNDS


def test_errors_are_shown_in_watts_and_losses_are_those_of_normalised_targets(federation: Federation) -> None:
    path, records, _ = federation
    watts = targets_of(load_bundle(path / "run" / "task.fedtask").task.data)
    assert isinstance(watts, Standard)

    for record in records:
        assert record.loss is not None
        error = record.metrics["root_mean_squared_error"]
        assert error == pytest.approx(watts.std[0] * np.sqrt(record.loss), rel=1e-4)
    assert records[-1].loss is not None
    assert records[0].loss is not None
    assert records[-1].loss < records[0].loss


def test_a_devices_own_model_answers_in_watts(federation: Federation) -> None:
    path, _, _ = federation
    data = load_examples(path / "pi-1.csv", load_bundle(path / "run" / "task.fedtask").task.data)
    watts = read_examples(path / "pi-1.csv", TABLE).y

    answers = predict(default_runtime().interpreter((path / "own.tflite").read_bytes()), data.x)

    assert abs(answers.mean() - watts.mean()) < watts.std()
    of_raw_rows = [
        prediction.answers[0].values for prediction in load_model(path / "own.tflite").predict(path / "pi-1.csv")
    ]
    np.testing.assert_allclose(of_raw_rows, answers, atol=1e-4 * float(np.abs(answers).max()))


def test_a_gateway_that_is_started_again_has_its_statistics(federation: Federation, tmp_path: Path) -> None:
    path, _, _ = federation
    for name in ("task.fedtask", "gateway.toml"):
        shutil.copy(path / name, tmp_path)
    shutil.copytree(path / "run", tmp_path / "run")
    (tmp_path / "run" / "statistics.json").unlink()

    code, said = run("aggregator", tmp_path / "gateway.toml")

    assert code == StorageError.exit_code
    assert "holds a run, but statistics.json, by which it normalises, is gone; restore it" in said
