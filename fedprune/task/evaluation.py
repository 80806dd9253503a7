"""Evaluation of a task's model through its inference graph: any weights, no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedprune.data import Dataset, fit_to, load_npz
from fedprune.graph.inference import inference_batch, write_inference_graph
from fedprune.model.losses import Objective
from fedprune.model.metrics import Metric, Tally
from fedprune.model.tensors import Array, Inputs, Weights
from fedprune.network.description import Network
from fedprune.runtime.tflite import default_runtime, foreign_errors
from fedprune.task.bundle import Bundle


@dataclass(frozen=True)
class Evaluation:
    """A model's scores on some examples: the mean loss (see `Objective`), without penalties (L1, L2, FedProx's), and
    the task's metrics, by name in its order. A metric that the examples do not define is None."""

    examples: int
    loss: float
    metrics: Mapping[str, float | None]


@dataclass(frozen=True, eq=False)
class EvaluationTally:
    """The sums that an evaluation is computed of: those of two sets of examples add up to those of both."""

    examples: int
    loss: float
    """The sum of the examples' losses."""
    metrics: Mapping[Metric, Tally]

    def __add__(self, other: EvaluationTally) -> EvaluationTally:
        metrics = {metric: tally + other.metrics[metric] for metric, tally in self.metrics.items()}
        return EvaluationTally(self.examples + other.examples, self.loss + other.loss, metrics)

    @property
    def evaluation(self) -> Evaluation:
        metrics = {str(metric): metric.result(tally) for metric, tally in self.metrics.items()}
        return Evaluation(self.examples, self.loss / self.examples, metrics)


@dataclass(frozen=True)
class LossScale:
    """What losses on some examples can be: `constant` is that of the best answer that is the same for all examples,
    `ceiling` the largest there can be. See `Objective`."""

    constant: float
    ceiling: float


class InferenceGraph:
    """A network's inference graph, written anew for each model's weights."""

    def __init__(self, network: Network, *, threads: int) -> None:
        self._network = network
        self._threads = threads
        self._batch = np.zeros((inference_batch(network), *network.inputs[0]), network.input_dtype)
        self._interpreter: Any = None

    def load(self, weights: Weights) -> None:
        """The weights to predict with from now on; that they fit the tensor table is the caller's care.

        Raises `TaskError` if the graph would be too large, `ExportError` if nothing here can run it.
        """
        self._interpreter = None  # there need not be room for two
        graph = write_inference_graph(self._network, weights, len(self._batch))
        self._interpreter = default_runtime().interpreter(graph, self._threads)

    def predict(self, x: Inputs) -> Iterator[Array]:
        """For `[examples, ...]`, float32 or ids, the outputs, float32 `[≤ batch, *places, outputs]`, batch after
        batch."""
        (source,), (result,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        for start in range(0, len(x), len(self._batch)):
            examples = x[start : start + len(self._batch)]
            self._batch[: len(examples)] = examples
            with foreign_errors("inference graph"):
                self._interpreter.set_tensor(source["index"], self._batch)
                self._interpreter.invoke()
                outputs: Array = self._interpreter.get_tensor(result["index"])
            yield outputs[: len(examples)]


class Evaluator:
    """Scores weights on held-out examples, which stay in memory."""

    def __init__(self, bundle: Bundle, held_out: Path, *, threads: int) -> None:
        """`held_out` is an .npz with x and y.

        Raises `DataError` if it cannot be used or does not fit the task, `TaskError` or `ExportError` if the graph
        cannot be run.
        """
        task = bundle.task
        self._data = fit_to(
            load_npz(held_out), task.input_shape, task.output_shape, task.training.loss, bundle.network.vocabulary
        )
        self._objective, self._metrics = task.objective, task.metrics
        self._outputs = task.outputs
        self._graph = InferenceGraph(bundle.network, threads=threads)
        self._graph.load(bundle.initial_weights())  # what cannot be evaluated is told before the first round

    @property
    def loss_scale(self) -> LossScale:
        constant = self._objective.constant_loss(self._data.y, self._outputs)
        return LossScale(constant, self._objective.ceiling)

    def evaluate(self, weights: Weights) -> Evaluation:
        """Weights must fit the task's tensor table. Raises `ExportError` if the runtime fails."""
        self._graph.load(weights)
        return score(self._graph.predict(self._data.x), self._data, self._objective, self._metrics).evaluation


def score(answers: Iterable[Array], data: Dataset, objective: Objective, metrics: Iterable[Metric]) -> EvaluationTally:
    """Score outputs, float32 `[≤ batch, *places, outputs]`, batch after batch, against `data` that fit the task.

    No more than a batch of outputs is held: of a segmentation all may take more memory than the examples. There is
    one batch at least.
    """
    metrics, done, total = tuple(metrics), 0, None
    for outputs in answers:
        labels = data.y[done : done + len(outputs)]
        done += len(outputs)
        tally = EvaluationTally(
            len(outputs),
            objective.mean_loss(outputs, labels) * len(outputs),
            {metric: metric.tally(outputs, labels, objective) for metric in metrics},
        )
        total = tally if total is None else total + tally
    assert total is not None
    return total
