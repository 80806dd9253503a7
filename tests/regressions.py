"""A regression of raw columns whose statistics nobody has given, for tests of what gathers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.unproven import unproven_graph
from fedprune.data import Data, Dataset
from fedprune.data.description import Standard, Table
from fedprune.model.losses import Loss
from fedprune.model.metrics import Metric
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable
from fedprune.network import description
from fedprune.network.description import Call
from fedprune.network.layers import Activation, Dense, Function
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.task.bundle import Bundle, Fill, Pruning, SeededWeights, Task, Uniform, read_bundle, write_bundle
from fedprune.task.outputs import Output
from fedprune.task.training import Adam, Training

COLUMNS = ("outside", "pressure", "window")
FEDERATED = Standard(statistics="federated")
TABLE = Table(COLUMNS, "watts", normalize=FEDERATED, targets=FEDERATED)
UNITS = 16


def regression_bundle(data: Data = TABLE, batch_sizes: Sequence[int] = ()) -> Bundle:
    """Two dense layers that answer with a number; its training graphs, of these batches, pass here."""
    tensors = (
        TensorSpec("hidden/kernel", (len(COLUMNS), UNITS), "float32", TensorClass.PRUNABLE, "hidden"),
        TensorSpec("hidden/bias", (UNITS,), "float32", TensorClass.DENSE, "hidden"),
        TensorSpec("last/kernel", (UNITS, 1), "float32", TensorClass.PRUNABLE, "last"),
        TensorSpec("last/bias", (1,), "float32", TensorClass.DENSE, "last"),
    )
    metrics = (Metric.ROOT_MEAN_SQUARED_ERROR, Metric.MEAN_ABSOLUTE_ERROR)
    task = Task(
        name="regression",
        input_shapes=((len(COLUMNS),),),
        outputs=(Output((1,), from_logits=False, metrics=metrics),),
        tensors=tensors,
        training=Training(steps_per_round=10, optimizer=Adam(), loss=Loss.MEAN_SQUARED_ERROR),
        pruning=Pruning(schedule=ConstantSparsity(begin_step=0, end_step=10, frequency=10, target_sparsity=0.1)),
        members={},
        data=data,
        initial=SeededWeights(1, (Uniform(0.5), Fill(0.0), Uniform(0.5), Fill(0.0))),
    )
    network = description.Network(
        name="regression",
        inputs=((len(COLUMNS),),),
        layers=(
            Dense(name="hidden", units=UNITS, kernel="hidden/kernel", bias="hidden/bias"),
            Activation(name="relu", function=Function.RELU),
            Dense(name="last", units=1, kernel="last/kernel", bias="last/bias"),
        ),
        calls=(Call(0, (0,)), Call(1, (1,)), Call(2, (2,))),
        outputs=(3,),
    )
    graphs = tuple(unproven_graph(network, TensorTable(tensors), task.objectives, size) for size in batch_sizes)
    return read_bundle(write_bundle(task, network=network, weights=None, graphs=graphs))


def raw_columns(examples: int, seed: int) -> Dataset:
    """Columns on scales that are far apart, and watts in thousands."""
    random = np.random.default_rng(seed)
    outside = random.uniform(-10, 18, examples)
    pressure = random.normal(101_300, 800, examples)
    window = random.integers(0, 2, examples)
    watts = 4000 - 180 * outside * (1 + 0.4 * window) + 0.3 * (pressure - 101_300) + random.normal(0, 40, examples)
    return Dataset(np.float32(np.stack([outside, pressure, window], axis=1)), np.float32(watts).reshape(-1, 1))


def table_text(data: Dataset) -> str:
    """The rows of a CSV file."""
    rows = np.concatenate([data.x, data.y], axis=1).tolist()
    return "\n".join([",".join((*COLUMNS, "watts")), *(",".join(f"{value:.9g}" for value in row) for row in rows), ""])


def loading(data: Dataset) -> Callable[[Data], Dataset]:
    """What a device's files hold, before anything is done to it."""
    return lambda _: Dataset(data.x.copy(), data.y, data.origin)


def write_table(path: Path, examples: int, seed: int) -> Dataset:
    data = raw_columns(examples, seed)
    path.write_text(table_text(data))
    return data
