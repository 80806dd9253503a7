"""A gateway's arithmetic with a large model, its speed and its memory: `python -m benchmarks.merging [--json FILE]`

The model is a perceptron of 25 million parameters, 90 % pruned by a mask that all share. Speeds are of one core, in
megabytes of the dense fp32 update a second of processor time, the best of some repetitions; beside them stands how fast
memory of the same size is copied. Memory is the peak of a process that accepts the updates of a round, merges them,
and keeps the next model and its checkpoint, beyond what the process takes before it has a model; also with each server
optimizer, whose state there is from the round before.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import msgspec
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from aggregator.global_model import NO_STATE, GlobalModel, new_model
from aggregator.merging import Aggregate
from aggregator.outliers import norms_of
from aggregator.round_merge import Merger
from aggregator.server_optimizers import FedAdam, FedAvgM, ServerOptimizer, server_step
from aggregator.settings import Aggregation
from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.large_model import large_network, large_task
from benchmarks.without_network import take_update
from fedprune.codecs import Key, Values, check_update, decode_update, encode_update, parse_codec, parse_model_codec
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Mask, TensorClass, TensorTable, Weights
from fedprune.pruning.masks import full_mask, take_kept
from fedprune.system.disk import Directory
from fedprune.system.memory import return_large_arrays
from fedprune.system.usage import peak_memory_mb
from fedprune.task.bundle import Task
from fedprune.task.checkpoints import save_checkpoint
from fedprune.task.training import Training
from fedprune.wire.messages import Submit
from fedprune.wire.transfer import content_of

_SPARSITY, _EXAMPLES, _AGENTS = 0.9, 600, 4
_SEED, _RUN = 1, "benchmark"
_CHAINS = ("mask | int8", "mask | fp16", "mask | fp32", "mask | feedback(20) | topk(0.05) | ternary | rice")
_OPTIMIZERS: dict[str, ServerOptimizer | None] = {"no optimizer": None, "FedAvgM": FedAvgM(), "FedAdam": FedAdam()}
_LEAST_MB_S = 1000.0
_MOST_BYTES = 16.0
"""A parameter. The model as fp32 takes 4; of the gateway's own one more for a mask, and for what is kept."""


class Speed(msgspec.Struct, frozen=True):
    """A chain's: to decode and check an update, to fold it in, both together, and to make the merged model of the sums.
    MB of dense fp32 a second."""

    chain: str
    check_mb_s: float
    fold_mb_s: float
    both_mb_s: float
    result_mb_s: float


class Merging(msgspec.Struct, frozen=True):
    """What is written to JSON. `bytes_per_parameter` are those of the whole round's peak, by the server optimizer."""

    parameters: int
    sparsity: float
    memcpy_mb_s: float
    speeds: tuple[Speed, ...]
    bytes_per_parameter: dict[str, float]


@click.command(cls=Script)
@json_option("Write the numbers there.")
def main(target: Path | None) -> None:
    """Check, fold and merge updates of 25 million parameters, 90 % pruned, and do a whole round in a fresh process.

    Exits with 1 unless checking and folding take 1,000 MB/s of dense fp32, and a round at most 16 bytes a parameter.
    """
    task = _task()
    model = _model(task)
    speeds = tuple(_speed(chain, task, model) for chain in _CHAINS)
    memory = {name: _in_fresh_process(optimizer) for name, optimizer in _OPTIMIZERS.items()}
    merging = Merging(task.table.parameters, _SPARSITY, _memcpy(task.table), speeds, memory)
    write_json(merging, target)
    _show(merging)
    settle(_claims(merging))


def _claims(merging: Merging) -> dict[str, bool | None]:
    claims: dict[str, bool | None] = {
        f"{row.chain}: {row.both_mb_s:,.0f} MB/s checked and folded, at least {_LEAST_MB_S:,.0f}": row.both_mb_s
        >= _LEAST_MB_S
        for row in merging.speeds
    }
    for optimizer, memory in merging.bytes_per_parameter.items():
        claims[f"{optimizer}: {memory:.1f} bytes a parameter, at most {_MOST_BYTES:.0f}"] = memory <= _MOST_BYTES
    return claims


def _speed(chain: str, task: Task, model: GlobalModel) -> Speed:
    codec, key, table, was = parse_codec(chain), Key(_SEED, 1, "agent-0"), task.table, model.checkpoint
    blob = _update(chain, key, table, was.mask)
    aggregate = Aggregate(table, was.weights, was.mask)

    def check() -> None:
        update = decode_update(blob, table, was.mask, codec, key)
        check_update(update, table)
        norms_of(update, was.weights, table)

    decoded = decode_update(blob, table, was.mask, codec, key)
    checking = _seconds(check)
    folding = _seconds(lambda: aggregate.add(decoded, _EXAMPLES))
    merging = _seconds(lambda: aggregate.result(was.exact))
    megabytes = 4e-6 * table.parameters
    taken = (checking, folding, checking + folding, merging)
    return Speed(chain, *(round(megabytes / seconds, 1) for seconds in taken))


def _in_fresh_process(optimizer: ServerOptimizer | None) -> float:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_memory, optimizer).result()


def _memory(optimizer: ServerOptimizer | None) -> float:
    """The peak of a round, in bytes a parameter."""
    return_large_arrays()
    task, idle_mb, chain = _task(), peak_memory_mb(), _CHAINS[0]
    with tempfile.TemporaryDirectory() as folder:
        updates = Directory(Path(folder, "updates"))
        model = _model(task, optimizer)
        for number in range(_AGENTS):
            agent = f"agent-{number}"
            updates.write(agent, _update(chain, Key(_SEED, 1, agent), task.table, model.checkpoint.mask))
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        _round(task, model, chain, Aggregation(optimizer=optimizer), updates, Directory(Path(folder, "checkpoints")))
    return round((peak_memory_mb() - idle_mb) * 1e6 / task.table.parameters, 1)


def _round(
    task: Task, model: GlobalModel, chain: str, aggregation: Aggregation, updates: Directory, checkpoints: Directory
) -> None:
    """Accept the updates, merge them, and keep the next model, as the aggregator does."""
    merger = Merger(
        task,
        large_network(),
        _RUN,
        _SEED,
        parse_model_codec("fp16"),
        parse_codec(chain),
        updates,
        None,
        None,
        aggregation,
    )
    accepted = {}
    for number in range(_AGENTS):
        agent = f"agent-{number}"
        blob = updates.read(agent) or b""
        submit = Submit(
            run=_RUN,
            round=1,
            update=content_of(blob),
            examples=_EXAMPLES,
            local_steps=1,
            loss=1.0,
            train_hundredths=100,
        )
        accepted[agent] = take_update(merger, updates, model, agent, submit, blob, task.training)
    model = merger.merge(model, accepted, ()).model
    save_checkpoint(checkpoints, model.checkpoint)


def _task() -> Task:
    return large_task(Training(steps_per_round=1), _SPARSITY)


def _model(task: Task, optimizer: ServerOptimizer | None = None) -> GlobalModel:
    """The model after the first round, in which an `optimizer` stood still."""
    drawn = Keyed(_SEED, "weights")
    weights = {
        spec.name: drawn.uniform(spec.size, -0.02, 0.02).astype(np.float32).reshape(spec.shape) for spec in task.table
    }
    mask = full_mask(task.table)
    state = NO_STATE if optimizer is None else server_step(optimizer, weights, weights, {}, mask, task.table)[1]
    return new_model(weights, task, _RUN, 1, Values.FP16, mask, state)


def _update(chain: str, key: Key, table: TensorTable, mask: Mask) -> bytes:
    codec, delta = parse_codec(chain), dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]]()
    drawn = Keyed(_SEED, key.agent)
    for spec in table.of(TensorClass.PRUNABLE, TensorClass.DENSE):
        whole = drawn.uniform(spec.size, -0.01, 0.01).astype(np.float32)
        delta[spec.name] = take_kept(whole, mask[spec.name].reshape(-1)) if spec.name in mask else whole
    statistics: Weights = {}
    return encode_update(
        codec.compress(delta, codec.init(table), key), statistics, mask, table, codec, mask_is_known=True
    )


def _memcpy(table: TensorTable) -> float:
    source, copy = np.ones(table.parameters, np.float32), np.zeros(table.parameters, np.float32)
    return round(4e-6 * table.parameters / _seconds(lambda: np.copyto(copy, source)), 1)


def _seconds(work: Callable[[], object], repetitions: int = 5) -> float:
    """Of processor time, the least of some repetitions."""
    taken = []
    for _ in range(repetitions):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return max(min(taken), 1e-9)


def _show(merging: Merging) -> None:
    title = f"{merging.parameters / 1e6:.1f} million parameters, {merging.sparsity:.0%} pruned, MB/s of dense fp32"
    memory = ", ".join(f"{each:.1f} ({optimizer})" for optimizer, each in merging.bytes_per_parameter.items())
    caption = f"Memory is copied at {merging.memcpy_mb_s:,.0f} MB/s. A round takes {memory} "
    table = Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        caption=f"{caption}bytes a parameter.",
        caption_justify="left",
    )
    for heading in ("chain", "check", "fold", "both", "merged model"):
        table.add_column(heading, justify="left" if heading == "chain" else "right")
    for row in merging.speeds:
        speeds = (row.check_mb_s, row.fold_mb_s, row.both_mb_s, row.result_mb_s)
        table.add_row(row.chain, *(f"{speed:,.0f}" for speed in speeds))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
