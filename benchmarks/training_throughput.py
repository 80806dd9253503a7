"""The litert trainer's speed against compiled `fit`: `python -m benchmarks.training_throughput`"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from edge_agent.trainers import Work
from fedprune.data import Dataset
from fedprune.data.fashion_mnist import fashion_mnist
from fedprune.graph.training import write_training_graph
from fedprune.model.randomness import Keyed
from fedprune.pruning.masks import Allocation, apply_mask, full_mask, score_mask
from fedprune.runtime.tflite import default_runtime
from fedprune.runtime.training_graph import TrainingGraph
from fedprune.task.bundle import Bundle, read_bundle
from fedprune.task.training import Sgd, Training

_BATCH = 32
_STEPS = 200
_REPETITIONS = 5
_SPARSITY = 0.8
_OPTIMIZER = Sgd(learning_rate=0.05, momentum=0.9)
_LEAST_OF_FIT = {"CNN-108k": 0.5, "MLP 784-256-10": 1.0}
"""The models, and how much of fit's throughput is asked for."""


class StepParts(msgspec.Struct, frozen=True):
    """The parts of a step's time, in ms: computing the graph, copying its weights and gradients in and out, and
    all else (optimizer, masks, making the batch).
    """

    graph_ms: float
    copies_ms: float
    rest_ms: float


class LiteRTThroughput(msgspec.Struct, frozen=True):
    samples_per_s: float
    parts: StepParts


class Comparison(msgspec.Struct, frozen=True):
    """One model: samples/s of each repetition, in order; `ratio` is litert's median over fit's."""

    model: str
    litert: tuple[LiteRTThroughput, ...]
    fit_samples_per_s: tuple[float, ...]
    ratio: float


@click.command(cls=Script)
@json_option("Write the numbers there.")
def main(target: Path | None) -> None:
    """Train two models on Fashion-MNIST, one thread, batch 32: by the litert trainer, pruning included, and by `fit`.

    Each measurement is a process of its own; the two alternate. Exits with 1 unless the litert trainer reaches half of
    fit's throughput for the CNN, and all of it for the MLP.
    """
    comparisons = [_compare(model) for model in _LEAST_OF_FIT]
    write_json(comparisons, target)
    Console().print(_table(comparisons))
    settle(
        {
            f"{row.model}: {row.ratio:.2f}x of fit, at least {_LEAST_OF_FIT[row.model]}x": row.ratio
            >= _LEAST_OF_FIT[row.model]
            for row in comparisons
        }
    )


def _compare(model: str) -> Comparison:
    blob = _alone(_build, model)
    litert: list[LiteRTThroughput] = []
    fit: list[float] = []
    for _ in range(_REPETITIONS):
        litert.append(_alone(_train_litert, blob))
        fit.append(_alone(_fit, blob))
    ratio = statistics.median(run.samples_per_s for run in litert) / statistics.median(fit)
    return Comparison(model, tuple(litert), tuple(fit), ratio)


def _alone(work: Callable[[Any], Any], argument: Any) -> Any:
    """Call it in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, argument).result()


def _build(model: str) -> bytes:
    """The task bundle, as `fedprune task build` makes it."""
    from export.build import build_task
    from export.settings import ConstantSettings, ModelSettings, PruningSettings, TaskSettings

    with tempfile.TemporaryDirectory() as directory:
        if model == "CNN-108k":
            settings = ModelSettings(builtin="cnn-108k")
        else:
            _save_mlp(Path(directory) / "mlp.keras")
            settings = ModelSettings(file="mlp.keras")
        schedule = ConstantSettings(target_sparsity=_SPARSITY, begin_step=0, frequency=_STEPS)
        training = Training(steps_per_round=_STEPS, batch_size=_BATCH, optimizer=_OPTIMIZER)
        return build_task(TaskSettings("throughput", settings, training, PruningSettings(schedule)), Path(directory))


def _save_mlp(path: Path) -> None:
    from fedprune.keras.stack import keras

    layers = keras.layers
    keras.Sequential(
        [layers.Input((28, 28, 1)), layers.Flatten(), layers.Dense(256, activation="relu"), layers.Dense(10)]
    ).save(path)


def _train_litert(blob: bytes) -> LiteRTThroughput:
    """A round of the agent's own trainer from a pruned model, after a first one to warm up."""
    from edge_agent.trainers.litert import LiteRTTrainer

    bundle, data = read_bundle(blob), _examples()
    trainer = LiteRTTrainer(bundle, examples=len(data), threads=1)
    weights, table = bundle.initial_weights(), bundle.task.table
    mask = score_mask(weights, table, _SPARSITY, Allocation.LAMP, full_mask(table))
    work = Work(apply_mask(weights, mask), mask, 0, None, Keyed(0, "throughput"))
    trainer.train(work, data)
    step_s = trainer.train(work, data).seconds / _STEPS
    run_s, copies_s = _time_graph(bundle, data), _time_copies(bundle)
    parts = StepParts((run_s - copies_s) * 1e3, copies_s * 1e3, (step_s - run_s) * 1e3)
    return LiteRTThroughput(_BATCH / step_s, parts)


def _time_graph(bundle: Bundle, data: Dataset) -> float:
    """Seconds a batch takes, weights in and gradients out included."""
    graph = TrainingGraph(_graph(bundle), bundle.task.tensors, threads=1)
    weights, batch = bundle.initial_weights(), data.take(np.arange(_BATCH))
    (output,) = bundle.task.output_forms
    targets = output.objective.targets(batch.y, output.shape[-1])
    return _time(lambda: graph.run(weights, [batch.x], [targets]))


def _time_copies(bundle: Bundle) -> float:
    """Seconds that the copying in and out takes of it."""
    interpreter = default_runtime().interpreter(_graph(bundle), 1)
    inputs = [(entry["index"], np.zeros(entry["shape"], entry["dtype"])) for entry in interpreter.get_input_details()]
    outputs = [entry["index"] for entry in interpreter.get_output_details()]

    def copy() -> None:
        for index, array in inputs:
            interpreter.set_tensor(index, array)
        for index in outputs:
            interpreter.get_tensor(index)

    return _time(copy)


def _graph(bundle: Bundle) -> bytes:
    task = bundle.task
    return write_training_graph(bundle.network, task.table, task.objectives, _BATCH).blob


def _time(work: Callable[[], object]) -> float:
    """Mean seconds of a call."""
    work()
    began = time.perf_counter()
    for _ in range(_STEPS):
        work()
    return (time.perf_counter() - began) / _STEPS


def _fit(blob: bytes) -> float:
    """Samples/s of `fit`'s second epoch, the model as it is, without pruning."""
    from fedprune.keras.model import build_model
    from fedprune.keras.stack import keras, tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    bundle, data = read_bundle(blob), _examples()
    model, variables = build_model(bundle.network, bundle.task.table)
    for name, array in bundle.initial_weights().items():
        variables[name].assign(array)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(_OPTIMIZER.learning_rate, _OPTIMIZER.momentum), loss)
    model.fit(data.x, data.y, batch_size=_BATCH, verbose=0)
    began = time.perf_counter()
    model.fit(data.x, data.y, batch_size=_BATCH, verbose=0)
    return len(data) / (time.perf_counter() - began)


def _examples() -> Dataset:
    """As many as a round trains."""
    return fashion_mnist().train.take(np.arange(_STEPS * _BATCH))


def _table(comparisons: list[Comparison]) -> Table:
    table = Table(
        title=f"Training on one thread, batch {_BATCH}: medians of {_REPETITIONS} runs (lowest to highest)",
        title_justify="left",
        box=SIMPLE_HEAD,
        caption="A step on LiteRT: computing the graph, copying weights and gradients, optimizer and masks.",
        caption_justify="left",
    )
    for heading in ("model", "litert samples/s", "fit samples/s", "ratio", "graph ms", "copies ms", "rest ms"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in comparisons:
        table.add_row(
            row.model,
            _spread([run.samples_per_s for run in row.litert]),
            _spread(row.fit_samples_per_s),
            f"{row.ratio:.2f}x",
            *(
                f"{statistics.median(getattr(run.parts, part) for run in row.litert):.2f}"
                for part in StepParts.__struct_fields__
            ),
        )
    return table


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


if __name__ == "__main__":
    main()
