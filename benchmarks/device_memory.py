"""What a large model takes on a device, in memory and beside its training: `python -m benchmarks.device_memory`

The model is a perceptron of 25 million parameters. A process of its own does what an agent does with it, disk included:
a round from a dense model, as federations begin, and two from a pruned one, with the residual of the round before.
"""

from __future__ import annotations

import multiprocessing
import queue
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np

from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.large_model import INPUTS, LARGE, OUTPUTS, large_network, large_table, large_task
from edge_agent.agent_state import Outcome
from edge_agent.history import Durations
from edge_agent.local_round import LocalResult, LocalRound
from edge_agent.store import AgentStore
from edge_agent.training_thread import TrainingEnded, TrainingThread
from fedprune.data import Dataset
from fedprune.errors import FedpruneError
from fedprune.model.randomness import Keyed
from fedprune.pruning.masks import full_mask
from fedprune.system.disk import Directory
from fedprune.system.memory import return_large_arrays
from fedprune.system.usage import peak_memory_mb
from fedprune.task.bundle import read_bundle
from fedprune.task.training import Adam, Sgd, Training
from fedprune.wire.messages import WEIGHTS_DIGEST_BYTES, Assignment, Terms
from fedprune.wire.transfer import content_of

_STEPS = 50
_BATCH = 32
_EXAMPLES = 600
_SIZES = LARGE
_SPARSITIES = (0.0, 0.8, 0.8)
"""Of the model that each round starts from."""
_RUN = "benchmark"
_MOST_BYTES = {"SGD with momentum": 24.0, "Adam": 32.0}
"""Bytes a parameter, beyond the idle process."""
_MOST_OUTSIDE = 0.2
"""The part of a round that may be spent outside training."""
_OPTIMIZERS: dict[str, Sgd | Adam] = {"SGD with momentum": Sgd(learning_rate=0.01, momentum=0.9), "Adam": Adam()}


class Round(msgspec.Struct, frozen=True):
    """`bytes_per_parameter` is of the peak beyond the idle process, the values of a batch included; `seconds` are from
    the model's bytes to the update on the disk, `training_seconds` the trainer's of it."""

    sparsity: float
    bytes_per_parameter: float
    seconds: float
    training_seconds: float

    @property
    def outside(self) -> float:
        """The part of the round outside training."""
        return 1.0 - self.training_seconds / self.seconds


class DeviceMemory(msgspec.Struct, frozen=True):
    """The rounds with one optimizer, in order."""

    optimizer: str
    idle_mb: float
    rounds: tuple[Round, ...]


@click.command(cls=Script)
@json_option("Write the numbers there.")
def main(target: Path | None) -> None:
    """Train a perceptron of 25 million parameters for three rounds of 50 steps, with either optimizer, on one thread.

    Exits with 1 unless it takes at most 24 bytes a parameter with SGD and momentum, 32 with Adam, and a fifth of the
    last round outside training.
    """
    results = []
    for optimizer in _OPTIMIZERS:
        with tempfile.TemporaryDirectory() as folder:
            _alone(_prepare, optimizer, folder)
            results.append(_alone(_measure, optimizer, folder))
    write_json(results, target)
    _show(results)
    settle(dict(_claims(results)))


def _claims(results: list[DeviceMemory]) -> Iterator[tuple[str, bool]]:
    for row in results:
        most = max(round_.bytes_per_parameter for round_ in row.rounds)
        bound, outside = _MOST_BYTES[row.optimizer], row.rounds[-1].outside
        yield f"{row.optimizer}: {most:.1f} bytes a parameter, at most {bound:.0f}", most <= bound
        yield (
            f"{row.optimizer}: {outside:.0%} of a round outside training, at most {_MOST_OUTSIDE:.0%}",
            outside <= _MOST_OUTSIDE,
        )


def _alone(work: Callable[..., Any], *arguments: object) -> Any:
    """Call it in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _prepare(optimizer: str, folder: str) -> None:
    """Write what a gateway sends: the task's bundle, and for each round its assignment and model."""
    from aggregator.global_model import new_model
    from benchmarks.unproven import unproven_graph
    from fedprune.codecs import Values
    from fedprune.task.bundle import write_bundle

    training = Training(steps_per_round=_STEPS, batch_size=_BATCH, optimizer=_OPTIMIZERS[optimizer])
    task, network = large_task(training, _SPARSITIES[-1], _SIZES), large_network(_SIZES)
    table = task.table
    proven = unproven_graph(network, table, task.objectives, _BATCH)
    blob = write_bundle(task, network=network, weights=None, graphs=(proven,))
    Path(folder, "task").write_bytes(blob)
    weights, mask = read_bundle(blob).initial_weights(), full_mask(table)
    for round_ in range(len(_SPARSITIES)):
        made = new_model(weights, task, _RUN, round_, Values.FP16, mask)
        assignment = Assignment(
            run=_RUN,
            incarnation=1,
            round=round_,
            weights_digest=made.model.weights_digest[:WEIGHTS_DIGEST_BYTES],
            seconds_left=3600,
            model=made.model.content,
            terms=Terms(task=content_of(blob), seed=0, clock_steps=_STEPS, codec="mask | feedback(2) | fp16"),
        )
        Path(folder, f"model-{round_}").write_bytes(made.blob)
        Path(folder, f"assignment-{round_}").write_bytes(msgspec.msgpack.encode(assignment))


def _measure(optimizer: str, folder: str) -> DeviceMemory:
    """Do the rounds as an agent does."""
    return_large_arrays()
    idle_mb = peak_memory_mb()
    ended: queue.SimpleQueue[TrainingEnded] = queue.SimpleQueue()
    thread = TrainingThread(lambda _: _examples(), "litert", 1, None, ended.put)
    store = AgentStore(Directory(Path(folder, "agent")), "device", _RUN)
    rounds = tuple(
        _round(number, sparsity, Path(folder), thread, ended, store, idle_mb)
        for number, sparsity in enumerate(_SPARSITIES)
    )
    return DeviceMemory(optimizer, idle_mb, rounds)


def _round(
    number: int,
    sparsity: float,
    folder: Path,
    thread: TrainingThread,
    ended: queue.SimpleQueue[TrainingEnded],
    store: AgentStore,
    idle_mb: float,
) -> Round:
    def open_round() -> tuple[LocalRound, bytes]:
        assignment = msgspec.msgpack.decode((folder / f"assignment-{number}").read_bytes(), type=Assignment)
        model = (folder / f"model-{number}").read_bytes()
        local = LocalRound("device", assignment, model, lambda: store.residual(_RUN, number), None, idle_mb)
        return local, (folder / "task").read_bytes()

    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    began = time.perf_counter()
    thread.start(number, open_round)
    training_s = _keep(ended.get().result, store)
    seconds = time.perf_counter() - began
    store.settle(Outcome.ACCEPTED)
    parameters = large_table().parameters
    return Round(sparsity, (peak_memory_mb() - idle_mb) * 1e6 / parameters, seconds, training_s)


def _keep(result: LocalResult | Exception, store: AgentStore) -> float:
    """Make the update durable; the seconds that training took."""
    if isinstance(result, Exception):
        raise FedpruneError(str(result)) from result
    store.remember(result.submit, result.update, result.slots, Durations(b"", ()))
    return result.submit.train_hundredths / 100


def _examples() -> Dataset:
    keyed = Keyed(0, "examples")
    x = keyed.uniform(_EXAMPLES * INPUTS, 0.0, 1.0).reshape(_EXAMPLES, INPUTS)
    return Dataset(x, (np.arange(_EXAMPLES) % OUTPUTS).astype(np.int64))


def _show(results: list[DeviceMemory]) -> None:
    from rich.box import SIMPLE_HEAD  # an idle agent has no such library, and is what is compared with
    from rich.console import Console
    from rich.table import Table

    parameters = large_table().parameters
    title = f"{parameters / 1e6:.1f} million parameters, {_STEPS} steps of {_BATCH} examples, one thread"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for heading in ("optimizer", "sparsity", "bytes a parameter", "round s", "training s", "outside"):
        table.add_column(heading, justify="left" if heading == "optimizer" else "right")
    for row in results:
        for round_ in row.rounds:
            table.add_row(
                row.optimizer,
                f"{round_.sparsity:.0%}",
                f"{round_.bytes_per_parameter:.1f}",
                f"{round_.seconds:.1f}",
                f"{round_.training_seconds:.1f}",
                f"{round_.outside:.0%}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
