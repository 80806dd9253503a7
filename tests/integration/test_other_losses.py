"""Federations that learn something other than one class of several: from a file of real data to verified exports.

Everything is done as a person would do it, by the commands; one agent trains with Keras, the other with LiteRT.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits

from aggregator.book import Book, RoundRecord
from export.report import Report
from fedprune.data import load_npz
from fedprune.keras.stack import keras
from fedprune.model.losses import Loss
from fedprune.task.run_directory import BOOK
from tests.brokers import Mosquitto
from tests.processes import Child, run, toml

L, L2 = keras.layers, keras.regularizers.L2(1e-4)
STEPS = 30
TRAINERS = {"pi-1": "keras", "pi-2": "litert"}


@dataclass(frozen=True)
class Problem:
    """A file of examples, a model for them, and how fast and how long it is trained."""

    x: np.ndarray
    y: np.ndarray
    layers: list[Any]
    loss: Loss
    learning_rate: float
    rounds: int


def multi_label() -> Problem:
    """Of a scanned digit: is it 5 or more, is it even, is it a multiple of 3?"""
    scans = load_digits()
    y = np.stack([scans.target >= 5, scans.target % 2 == 0, scans.target % 3 == 0], axis=1)
    layers = [L.Dense(48, "relu", kernel_regularizer=L2), L.Dense(3, "sigmoid")]
    return Problem((scans.data / 16).astype(np.float32), y, layers, Loss.BINARY_CROSSENTROPY, 0.05, rounds=8)


def regression() -> Problem:
    """How far diabetes will go on within a year (Efron et al. 2004), in standard deviations."""
    patients = load_diabetes()
    y = (patients.target - patients.target.mean()) / patients.target.std()
    x = (patients.data * 20).astype(np.float32)
    layers = [L.Dense(12, "relu", kernel_regularizer=L2), L.Dense(1)]
    return Problem(x, y, layers, Loss.MEAN_SQUARED_ERROR, 0.005, rounds=5)


def federate(problem: Problem, path: Path, url: str) -> tuple[list[RoundRecord], list[str]]:
    """Share the data out, build the task, run all rounds. The records, and the lines that told of the rounds."""
    np.savez(path / "all.npz", x=problem.x, y=problem.y)
    keras.Sequential([L.Input(problem.x.shape[1:]), *problem.layers]).save(path / "model.keras")
    write(path / "task.toml", task_settings(problem))
    write(path / "federation.toml", federation_settings(problem, url))
    each = len(problem.x) * 4 // 5 // len(TRAINERS)
    done("data", "split", "--source", path / "all.npz", "--partition", "iid", "--agents", str(len(TRAINERS)),
         "--examples-per-agent", str(each), "--out", path)  # fmt: skip
    done("task", "build", path / "task.toml", "--out", path / "task.fedtask")
    with Child("aggregator", path / "federation.toml") as aggregator:
        agents = [start_agent(path, number, name, url) for number, name in enumerate(TRAINERS)]
        lines = [aggregator.says(f"round {number + 1}/", "stdout") for number in range(problem.rounds)]
        assert aggregator.ends() == 0
        for agent in agents:
            agent.interrupt()
            assert agent.ends() == 130
    book = Book.open(path / "run" / BOOK)
    records = book.records()
    book.close()
    return records, lines


def task_settings(problem: Problem) -> dict[str, Any]:
    last = STEPS * problem.rounds
    return {
        "name": "other",
        "model": {"file": "model.keras", "initial": "seed"},
        "training": {
            "steps_per_round": STEPS, "batch_size": 16, "loss": problem.loss, "proximal_mu": 0.01,
            "optimizer": {"name": "sgd", "learning_rate": problem.learning_rate},
        },
        "pruning": {
            "schedule": {
                "kind": "polynomial", "initial_sparsity": 0.0, "target_sparsity": 0.5,
                "begin_step": 0, "end_step": last // 2, "frequency": STEPS // 2,
            }
        },
    }  # fmt: skip


def federation_settings(problem: Problem, url: str) -> dict[str, Any]:
    return {
        "name": "other",
        "task": "task.fedtask",
        "held_out": "held-out.npz",
        "state": "run",
        "broker": {"url": url},
        "rounds": {"count": problem.rounds, "cohort": len(TRAINERS), "quorum": 1.0},
    }


def start_agent(path: Path, number: int, name: str, url: str) -> Child:
    settings = {
        "name": name,
        "federation": "other",
        "data": f"agent-{number}.npz",
        "state": f"state-of-{name}",
        "trainer": TRAINERS[name],
        "broker": {"url": url},
    }
    return Child("agent", "--config", write(path / f"{name}.toml", settings))


def write(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(toml(settings))
    return path


def done(*command: str | Path) -> None:
    code, said = run(*command)
    assert code == 0, said


def exported(path: Path) -> Report:
    """Calibrated on an agent's examples, so that all that is held out is verified on, as the rounds were."""
    (data, *_) = sorted(path.rglob("agent-*.npz"))
    done("export", path / "run", "--out", path / "export", "--data", data)
    return msgspec.json.decode((path / "export" / "exports.json").read_bytes(), type=Report)


@pytest.mark.slow
def test_a_multi_label_federation(tmp_path: Path, mosquitto: Mosquitto) -> None:
    problem = multi_label()

    records, lines = federate(problem, tmp_path, mosquitto.url)
    report = exported(tmp_path)

    majority = np.maximum(problem.y.mean(axis=0), 1 - problem.y.mean(axis=0)).mean()
    assert records[-1].accuracy is not None
    assert records[-1].accuracy > majority + 0.25
    area = records[-1].metrics["auc"]
    assert area is not None
    assert area > records[-1].accuracy
    assert f"accuracy {records[-1].accuracy:.3f}, auc {area:.3f}, loss " in lines[-1]
    assert records[-1].sparsity == pytest.approx(0.5, abs=0.02)
    assert report.keras_metrics == pytest.approx(records[-1].metrics, abs=0.005)
    assert report.keras_loss == pytest.approx(records[-1].loss, rel=0.01)
    for row in report.exports:
        assert row.metrics == pytest.approx(report.keras_metrics, abs=0.015)


@pytest.mark.slow
def test_a_regression_federation(tmp_path: Path, mosquitto: Mosquitto) -> None:
    problem = regression()

    records, lines = federate(problem, tmp_path, mosquitto.url)
    report = exported(tmp_path)

    spread = float(load_npz(tmp_path / "held-out.npz").y.var())
    root, absolute = records[-1].metrics.values()
    assert root is not None
    assert absolute is not None
    assert records[-1].loss is not None
    assert records[-1].loss < 0.7 * spread
    assert root == pytest.approx(records[-1].loss ** 0.5)
    assert (
        f"2 agents, root_mean_squared_error {root:.4g}, mean_absolute_error {absolute:.4g}, "
        f"loss {records[-1].loss:.4g}, sparsity"
    ) in lines[-1]
    assert report.keras_metrics == pytest.approx(records[-1].metrics, rel=1e-3)
    assert report.keras_loss == pytest.approx(records[-1].loss, rel=1e-3)
    for row in report.exports:
        assert row.metrics == pytest.approx(report.keras_metrics, rel=0.05)
        assert row.loss == pytest.approx(report.keras_loss, rel=0.05)
