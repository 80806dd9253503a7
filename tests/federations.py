"""A small federation to run for real: a task that is trained in a moment, data that fit it, and its configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedprune.data import Dataset
from fedprune.data.npz import save_npz
from fedprune.model.randomness import Keyed
from tests.processes import run, toml

SHAPE, CLASSES = (12, 12, 1), 3
NAME = "tests"
ROUNDS = 8


def task_toml(steps_per_round: int) -> str:
    schedule = {
        "kind": "polynomial",
        "initial_sparsity": 0.0,
        "target_sparsity": 0.8,
        "begin_step": 0,
        "end_step": 20,
        "frequency": 4,
    }
    return toml(
        {
            "name": "tiny",
            "model": {"builtin": "cnn-108k", "input_shape": SHAPE, "outputs": CLASSES},
            "training": {"steps_per_round": steps_per_round, "batch_size": 8},
            "pruning": {"schedule": schedule},
        }
    )


def build_task(directory: Path, name: str, steps_per_round: int) -> Path:
    (directory / f"{name}.toml").write_text(task_toml(steps_per_round))
    path = directory / f"{name}.fedtask"
    code, said = run("task", "build", directory / f"{name}.toml", "--out", path)
    assert code == 0, said
    return path


def examples(count: int, seed: int, shape: tuple[int, ...] = SHAPE) -> Dataset:
    """Noise around one random picture for each class."""
    keyed, size = Keyed(seed, "examples"), math.prod(shape)
    pictures = Keyed(0, "pictures").uniform(CLASSES * size, 0.0, 1.0).reshape(CLASSES, *shape)
    y = np.arange(count, dtype=np.int64) % CLASSES
    return Dataset((pictures[y] + keyed.uniform(count * size, -0.3, 0.3).reshape(count, *shape)).astype(np.float32), y)


@dataclass(frozen=True)
class Site:
    """A directory with a task, everybody's data, and configuration files for a broker at `url`."""

    path: Path
    url: str
    task: Path

    def federation(self, state: str, **changes: Any) -> Path:
        """A federation.toml with state directory `state`: two agents, both needed in every round."""
        self._data("held-out", 30, 99)
        settings = {
            "name": NAME,
            "task": str(self.task),
            "held_out": "held-out.npz",
            "state": state,
            "broker": {"url": self.url},
            "rounds": {"count": ROUNDS, "cohort": 2, "quorum": 1.0, "deadline_s": 300.0, "gather_s": 300.0},
        }
        return self._write(f"{state}.toml", settings | changes)

    def agent(self, name: str, **changes: Any) -> Path:
        """An agent.toml: without TensorFlow, which takes seconds to load, unless `changes` name the other trainer."""
        self._data(name, 24, sum(name.encode()))
        settings = {
            "name": name,
            "federation": NAME,
            "data": f"{name}.npz",
            "state": f"state-of-{name}",
            "trainer": "litert",
            "broker": {"url": self.url},
        }
        return self._write(f"{name}.toml", settings | changes)

    def _data(self, name: str, count: int, seed: int) -> None:
        save_npz(self.path / f"{name}.npz", examples(count, seed))

    def _write(self, name: str, settings: dict[str, Any]) -> Path:
        path = self.path / name
        path.write_text(toml(settings))
        return path
