"""Federated averaging by Flower, in its simulation: `simulation/flower-app/` learns what a dense federation of ours
does, of the same examples, from the same weights, in the same batches and at the same learning rates.

If both compute the same, accuracies differ only as far as rounding leads.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.agent_memory.environments import Environment
from benchmarks.agent_memory.flower import connection, superlink, variables
from benchmarks.bytes_to_accuracy.federation import Learning, name_of, prepare_task
from benchmarks.bytes_to_accuracy.problems import PROBLEMS, USUAL_PROBLEM
from benchmarks.bytes_to_accuracy.recipes import Recipe
from benchmarks.bytes_to_accuracy.records import Arrangement
from benchmarks.children import Children, free_port
from edge_agent.trainers.batches import draw_batches
from fedprune.errors import ConfigurationError, TrainingError
from fedprune.model.randomness import Keyed
from fedprune.task.bundle import Bundle

_APP = Path(__file__).parent / "simulation" / "flower-app"
_NEEDED = ("flwr", "ray", "tensorflow")


class _Said(msgspec.Struct, frozen=True):
    """The app's result: of each round the accuracy, and bytes of arrays and of all else in the messages."""

    accuracies: list[float]
    up: list[tuple[int, int]]
    down: list[tuple[int, int]]


def check_environment(environment: Environment) -> None:
    """Raises `ConfigurationError` for an environment in which the simulation cannot run."""
    missing = [name for name in _NEEDED if not any(environment.path.glob(f"lib/python*/site-packages/{name}"))]
    if missing:
        raise ConfigurationError(
            f"--flower {environment.path}: lacks {' and '.join(missing)}; install flwr[simulation] and tensorflow there"
        )


def can_learn(arrangement: Arrangement) -> bool:
    """True for what the app knows: CNN-108k, with all agents in each round."""
    return arrangement.problem == USUAL_PROBLEM.name and arrangement.participation == 1.0


def learn_by_flower(
    environment: Environment, recipe: Recipe, arrangement: Arrangement, seed: int, rounds: int, path: Path
) -> Learning:
    """Run what `recipe`, a dense one, does by Flower. `path` is a directory for data and logs.

    Raises `FedpruneError`s.
    """
    nodes, bundle = PROBLEMS[arrangement.problem].agents, prepare_task(recipe, arrangement, seed, rounds, path)
    _write_course(bundle, arrangement, seed, rounds, path / "course.npz")
    home, result = path / "flower", path / "result.json"
    with Children(home) as children:
        link, env = free_port(), variables(home, environment) | {"RAY_USAGE_STATS_ENABLED": "0"}
        (home / "config.toml").write_text(connection(link))
        children.start_command("superlink", [*superlink(environment, link), "--simulation"], env)
        children.await_port("superlink", link)
        command: list[str | Path] = [environment.script("flwr"), "run", _APP, "local", "--stream"]
        settings = f'rounds={rounds} nodes={nodes} data="{path}" result="{result}"'
        engine = f"num-supernodes={nodes} client-resources-num-cpus=1 init-args-num-cpus=1"
        command += ["--run-config", settings, "--federation-config", engine]
        children.run_command("run", command, env)
        if not result.exists():
            said = children.log("run").read_text(errors="replace") + children.log("superlink").read_text(
                errors="replace"
            )
            raise TrainingError(f"Flower's simulation wrote no result; see {home}: {said[-200:]}")
    learned = msgspec.json.decode(result.read_bytes(), type=_Said)
    return Learning(
        learned.accuracies,
        [Counter(update=arrays, control=rest) for arrays, rest in learned.up],
        [Counter(model=arrays, control=rest) for arrays, rest in learned.down],
        sparsity=0.0,
    )


def _write_course(bundle: Bundle, arrangement: Arrangement, seed: int, rounds: int, file: Path) -> None:
    """The initial weights, the batches of each round and agent, and the learning rate of each round."""
    training, problem = bundle.task.training, PROBLEMS[arrangement.problem]
    steps, clock = training.steps_per_round, training.clock_steps_per_round
    batches = [
        [
            draw_batches(Keyed(seed, round_, name_of(index), "training"), problem.examples, steps, training.batch_size)
            for index in range(problem.agents)
        ]
        for round_ in range(rounds)
    ]
    weights: dict[str, Any] = {
        f"weights-{index}": array for index, array in enumerate(bundle.initial_weights().values())
    }
    rates = [training.learning_rate_at(round_ * clock) for round_ in range(rounds)]
    np.savez(file, batches=np.array(batches, np.uint16), rates=np.array(rates, np.float32), **weights)
