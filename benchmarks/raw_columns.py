"""Does a regression of raw columns need anybody to scale them? `python -m benchmarks.raw_columns [--seeds 1,2,3]`

Agents of unequal size learn a number from columns as they are, on LiteRT and in this process, by statistics that they
gather first. Beside them: one device that has all of their examples and makes as many epochs, and the same federation
without normalisation. Two data sets: the heated rooms of `docs/examples/tabular`, and scikit-learn's diabetes (442
patients, raw). Printed is the root mean squared error of the best round's model on held-out examples.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import msgspec
import numpy as np

from aggregator.settings import AS_USUAL
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.demo.rerun import seeds_option
from benchmarks.unequal_work.simulation import Federation
from benchmarks.unproven import unproven_graph
from fedprune.data import Arrays, Dataset, save_npz
from fedprune.data.description import Standard
from fedprune.data.normalization import normalized
from fedprune.errors import DataError
from fedprune.model.losses import Loss
from fedprune.model.metrics import Metric
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable
from fedprune.network.description import Call, Network
from fedprune.network.layers import Activation, AnyLayer, Dense, Function
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.task.bundle import Bundle, Fill, Pruning, SeededWeights, Task, Uniform, read_bundle, write_bundle
from fedprune.task.gathering import completed, own_statistics, with_data
from fedprune.task.outputs import Output
from fedprune.task.training import Adam, Training

_AGENTS = 6
_ROUNDS, _EPOCHS = 60, 5
_UNITS = 32
_BATCH_SIZES = (8, 16, 32)
_RMSE = Metric.ROOT_MEAN_SQUARED_ERROR
_FEDERATED = Standard(statistics="federated")
ALLOWED = 1.05
"""The most that a federation's error may be, relative to that of all examples on one device."""


class Result(msgspec.Struct, frozen=True):
    """Errors in the units of the data. `raw` is None where nothing finite came of it."""

    data: str
    seed: int
    pooled: float
    federated: float
    raw: float | None

    @property
    def ratio(self) -> float:
        return self.federated / self.pooled


@click.command(cls=Script)
@seeds_option("1,2,3")
@json_option("Write the numbers there.")
def main(seeds: tuple[int, ...], target: Path | None) -> None:
    """Compare federated statistics with pooled data, and with none."""
    results = [compare(name, seed) for name in SOURCES for seed in seeds]
    for each in results:
        raw = "nothing" if each.raw is None else f"{each.raw:.4g}"
        click.echo(
            f"{each.data}, seed {each.seed}: pooled {each.pooled:.4g}, federated {each.federated:.4g} "
            f"({each.ratio:.3f}), not normalised {raw}"
        )
    write_json(results, target)


def compare(name: str, seed: int, rounds: int = _ROUNDS) -> Result:
    """A data set's errors. Raises `DataError` where scikit-learn is not installed."""
    whole = SOURCES[name](seed)
    order = np.random.default_rng(seed).permutation(len(whole))
    held_out, rest = whole.take(order[: len(whole) // 5]), order[len(whole) // 5 :]
    sizes = np.cumsum(np.linspace(1, 3, _AGENTS) / np.linspace(1, 3, _AGENTS).sum() * len(rest)).astype(int)[:-1]
    shares = {f"agent-{index}": whole.take(part) for index, part in enumerate(np.split(rest, sizes))}
    gathering = _bundle(whole.x.shape[1], Arrays(normalize=_FEDERATED, targets=_FEDERATED), seed)
    federated = _error(_completed(gathering, shares), shares, held_out, seed, rounds)
    alone = {"agent-0": whole.take(rest)}
    pooled = _error(_completed(gathering, alone), alone, held_out, seed, rounds)
    raw = _error(_bundle(whole.x.shape[1], Arrays(), seed), shares, held_out, seed, rounds)
    return Result(name, seed, pooled, federated, raw if math.isfinite(raw) else None)


def _completed(bundle: Bundle, shares: Mapping[str, Dataset]) -> Bundle:
    """The task with the statistics that these devices give."""
    given = [(own_statistics(bundle.task, data), 1.0) for data in shares.values()]
    return with_data(bundle, completed(bundle.task, [each for each in given if not each[0].is_empty]))


def _error(bundle: Bundle, shares: Mapping[str, Dataset], held_out: Dataset, seed: int, rounds: int) -> float:
    """The smallest, of the federation of these agents."""
    ready = {name: normalized(Dataset(data.x.copy(), data.y), bundle.task.data) for name, data in shares.items()}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "held-out.npz"
        save_npz(path, held_out)
        records = Federation(bundle, ready, AS_USUAL, seed, path).records(rounds)
    errors = [record.metrics.get(_RMSE) for record in records]
    return min((error for error in errors if error is not None), default=math.nan)


def _bundle(columns: int, data: Arrays, seed: int) -> Bundle:
    names = ("first", "second", "last")
    sizes = (columns, _UNITS, _UNITS, 1)
    layers: list[AnyLayer] = []
    tensors: list[TensorSpec] = []
    initial: list[Fill | Uniform] = []
    for name, takes, units in zip(names, sizes, sizes[1:], strict=False):
        layers.append(Dense(name=name, units=units, kernel=f"{name}/kernel", bias=f"{name}/bias"))
        layers.append(Activation(name=f"{name}-relu", function=Function.RELU))
        tensors.append(TensorSpec(f"{name}/kernel", (takes, units), "float32", TensorClass.PRUNABLE, name))
        tensors.append(TensorSpec(f"{name}/bias", (units,), "float32", TensorClass.DENSE, name))
        initial += [Uniform(math.sqrt(6.0 / (takes + units))), Fill(0.0)]
    layers.pop()
    calls = tuple(Call(number, (number,)) for number in range(len(layers)))
    network = Network("regression", ((columns,),), tuple(layers), calls, (len(layers),))
    training = Training(
        epochs_per_round=_EPOCHS, batch_size=_BATCH_SIZES[-1], optimizer=Adam(0.003), loss=Loss.MEAN_SQUARED_ERROR
    )
    task = Task(
        name="raw columns",
        input_shapes=network.inputs,
        outputs=(Output((1,), from_logits=False, metrics=(_RMSE,)),),
        tensors=tuple(tensors),
        training=training,
        pruning=Pruning(ConstantSparsity(target_sparsity=0.0, begin_step=1, frequency=1)),
        members={},
        data=data,
        initial=SeededWeights(seed, tuple(initial)),
    )
    graphs = tuple(unproven_graph(network, TensorTable(tuple(tensors)), task.objectives, size) for size in _BATCH_SIZES)
    return read_bundle(write_bundle(task, network=network, weights=None, graphs=graphs))


def _rooms(seed: int) -> Dataset:
    random = np.random.default_rng(seed)
    count = 1600
    outside, inside = random.uniform(-10, 18, count), random.normal(20, 1.5, count)
    humidity, wind = random.uniform(30, 80, count), random.gamma(2, 2, count)
    window = random.integers(0, 2, count)
    watts = 45 * (inside - outside) * (1 + 0.05 * wind) * (1 + 0.6 * window) + 2 * humidity
    watts += random.normal(0, 30, count)
    x = np.stack([outside, inside, humidity, wind, window], axis=1)
    return Dataset(x.astype(np.float32), watts.astype(np.float32).reshape(-1, 1))


def _diabetes(_: int) -> Dataset:
    """Efron et al. 2004, "Least angle regression"; raw."""
    try:
        from sklearn.datasets import load_diabetes
    except ImportError as error:
        raise DataError("diabetes: it comes with scikit-learn; install it (`pip install scikit-learn`)") from error
    found = load_diabetes(scaled=False)
    return Dataset(np.asarray(found.data, np.float32), np.asarray(found.target, np.float32).reshape(-1, 1))


SOURCES: Mapping[str, Callable[[int], Dataset]] = {"rooms": _rooms, "diabetes": _diabetes}


if __name__ == "__main__":
    main()
