"""Evaluation of a task's model through its inference graph: any weights, no TensorFlow."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fedprune.data import Dataset, Examples, fit_to, open_examples
from fedprune.data.room import IN_MEMORY, Room
from fedprune.data.stored_rows import Rows
from fedprune.graph.inference import inference_batch, write_inference_graph
from fedprune.model.forms import OutputForm
from fedprune.model.losses import Labels
from fedprune.model.metrics import Tally, metric_named
from fedprune.model.tensors import Array, Weights
from fedprune.network.description import Network
from fedprune.runtime.tflite import default_runtime, foreign_errors
from fedprune.task.bundle import Bundle
from fedprune.task.forms import Form
from fedprune.task.padding import Counted, counted_places

_log = logging.getLogger(__name__)

_SAMPLE_BYTES = 2**23
"""Bytes of the examples that tell what losses can be, where not all of them are in memory."""

_Rows = TypeVar("_Rows", Array, Labels)

_TOLERANCE = 1e-3
"""The most that a smaller network's answers may differ, relative to the largest: rounding is far below, a mistake far
above."""


@dataclass(frozen=True)
class Evaluation:
    """A model's scores on some examples: the mean loss (see `Objective`), without penalties (L1, L2, FedProx's), and
    the task's metrics, by name (`metric_name`) in its order. A metric that the examples do not define is None.

    Of several outputs `loss` is the sum of their losses, each times its weight. Each example counts once, or each place
    of it that is no padding: class and sample weights are for training.
    """

    examples: int
    loss: float
    metrics: Mapping[str, float | None]


Evaluate = Callable[[Weights, Form], Evaluation]
"""Scores weights that are in a form of the task."""


@dataclass(frozen=True)
class LossTally:
    """The sum of the losses of so many examples, or of places that are no padding."""

    total: float
    count: int

    def __add__(self, other: LossTally) -> LossTally:
        return LossTally(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> float:
        """0 of nothing but padding."""
        return self.total / max(self.count, 1)


@dataclass(frozen=True, eq=False)
class EvaluationTally:
    """The sums that an evaluation is computed of: those of two sets of examples add up to those of both."""

    examples: int
    losses: tuple[LossTally, ...]
    """Whose means add up to the loss."""
    metrics: Mapping[str, Tally]

    def __add__(self, other: EvaluationTally) -> EvaluationTally:
        losses = tuple(first + second for first, second in zip(self.losses, other.losses, strict=True))
        metrics = {name: tally + other.metrics[name] for name, tally in self.metrics.items()}
        return EvaluationTally(self.examples + other.examples, losses, metrics)

    @property
    def evaluation(self) -> Evaluation:
        metrics = {name: metric_named(name).result(tally) for name, tally in self.metrics.items()}
        return Evaluation(self.examples, sum(loss.mean for loss in self.losses), metrics)


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
        self.batch_size = inference_batch(network)
        self._batch = [
            np.zeros((self.batch_size, *shape), dtype)
            for shape, dtype in zip(network.inputs, network.input_dtypes, strict=True)
        ]
        self._interpreter: Any = None

    def load(self, weights: Weights) -> None:
        """The weights to predict with from now on; that they fit the tensor table is the caller's care.

        Raises `TaskError` if the graph would be too large, `ExportError` if nothing here can run it.
        """
        self.unload()  # there need not be room for two
        graph = write_inference_graph(self._network, weights, self.batch_size)
        self._interpreter = default_runtime().interpreter(graph, self._threads)

    def unload(self) -> None:
        """Let go of the weights, and of the memory that they take."""
        self._interpreter = None

    def predict(self, x: Sequence[Rows]) -> Iterator[tuple[Array, ...]]:
        """For each input's `[examples, ...]`, float32 or ids, each output's float32 `[≤ batch, *places, outputs]`,
        batch after batch."""
        interpreter = self._interpreter
        sources, results = interpreter.get_input_details(), interpreter.get_output_details()
        for start in range(0, len(x[0]), self.batch_size):
            count = min(len(x[0]) - start, self.batch_size)
            with foreign_errors("inference graph"):
                for source, batch, examples in zip(sources, self._batch, x, strict=True):
                    batch[:count] = examples[start : start + count]
                    interpreter.set_tensor(source["index"], batch)
                interpreter.invoke()
                outputs: list[Array] = [interpreter.get_tensor(result["index"]) for result in results]
            yield tuple(output[:count] for output in outputs)

    def tally(self, examples: Iterable[Dataset], outputs: Sequence[OutputForm]) -> EvaluationTally:
        """Score the model's answers to batches of examples that fit the task: there is one at least.

        No more than a batch is held. Raises `ExportError` if the runtime fails.
        """
        total: EvaluationTally | None = None
        for part in examples:
            inputs = list(part.inputs.values())
            counted = counted_places(self._network, inputs)
            tally = score(self.predict(inputs), part, outputs, counted)
            total = tally if total is None else total + tally
        assert total is not None
        return total


class Evaluator:
    """Scores weights on held-out examples, which stay where `room` has put them."""

    def __init__(self, bundle: Bundle, held_out: Path, *, threads: int, room: Room = IN_MEMORY) -> None:
        """`held_out` is an .npz as `load_npz` reads it, or files of the form that the task's data have.

        Raises `DataError` if it cannot be used or does not fit the task, `TaskError` or `ExportError` if the graph
        cannot be run.
        """
        task = bundle.task
        self._data = fit_to(open_examples(held_out, task.data, room), bundle.network.input_forms, task.output_forms)
        self._network = bundle.network
        self._forms = task.output_forms
        self._whole, self._threads = bundle.forms.whole, threads
        self._form, self._answers_in_form = self._whole, True
        self._graph = InferenceGraph(bundle.network, threads=threads)
        self._graph.load(bundle.initial_weights())  # what cannot be evaluated is told before the first round

    @property
    def loss_scale(self) -> LossScale:
        objectives = [form.objective for form in self._forms]
        sample = _sample(self._data)
        counted = counted_places(self._network, list(sample.inputs.values()))
        labels = [_those(places, sample.labels[form.array]) for form, places in zip(self._forms, counted, strict=True)]
        constants = (
            form.objective.constant_loss(wanted, form.shape[-1]) if len(wanted) else 0.0
            for form, wanted in zip(self._forms, labels, strict=True)
        )
        return LossScale(
            sum(objective.weight * constant for objective, constant in zip(objectives, constants, strict=True)),
            sum(objective.weight * objective.ceiling for objective in objectives),
        )

    def evaluate(self, weights: Weights, form: Form | None = None) -> Evaluation:
        """Weights must fit the tensor table of the task in that form, of the whole task without one.

        Raises `ExportError` if the runtime fails.
        """
        form = form or self._whole
        if form.name != self._form.name:
            self._take(form, weights)
        self._graph.load(weights if self._answers_in_form else form.expanded(weights))
        return self._graph.tally(self._data.parts(self._graph.batch_size), self._forms).evaluation

    def _take(self, form: Form, weights: Weights) -> None:
        """Evaluate in another form from now on, once its network has answered as the whole one does."""
        graphs = [InferenceGraph(each.network, threads=self._threads) for each in (self._whole, form)]
        first = list(next(iter(self._data.parts(graphs[0].batch_size))).inputs.values())
        answers = []
        for graph, own in zip(graphs, (form.expanded(weights), weights), strict=True):
            graph.load(own)
            answers.append(next(graph.predict(first)))
            graph.unload()
        self._form, self._answers_in_form = form, all(map(_are_alike, *answers))
        self._graph = graphs[1 if self._answers_in_form else 0]
        if not self._answers_in_form:
            _log.warning(
                "without the units that are gone the network answers differently here; models are evaluated with the "
                "whole one, which takes longer. fedprune or the runtime is at fault, please report it"
            )


def _sample(examples: Examples) -> Dataset:
    """All examples that are in memory; of others so many as fit, from all over the file."""
    if not (stored := examples.stored):
        return examples.in_memory
    most = max(1, _SAMPLE_BYTES // sum(math.prod(rows.row_shape) * rows.dtype.itemsize for rows in stored))
    return examples.take(np.linspace(0, len(examples) - 1, min(most, len(examples))).astype(np.int64))


def score(
    answers: Iterable[Sequence[Array]],
    data: Dataset,
    outputs: Sequence[OutputForm],
    counted: Sequence[Counted | None],
) -> EvaluationTally:
    """Score answers, for each output float32 `[≤ batch, *places, outputs]`, batch after batch, against `data` that fit
    the task. Of each output the places that are `counted` are looked at (`counted_places`).

    No more than a batch of outputs is held: of a segmentation all may take more memory than the examples. There is
    one batch at least.
    """
    done, total = 0, None
    for batch in answers:
        part = slice(done, done + len(batch[0]))
        labels = [data.labels[form.array][part] for form in outputs]
        kept = [None if places is None else places[part] for places in counted]
        done += len(batch[0])
        tally = _tally_of(batch, labels, outputs, kept)
        total = tally if total is None else total + tally
    assert total is not None
    return total


def _are_alike(expected: Array, found: Array) -> bool:
    """What is not finite, of a model that has exploded, tells nothing."""
    is_told = np.isfinite(expected)
    answers = expected[is_told]
    return bool(np.abs(found[is_told] - answers).max(initial=0.0) <= _TOLERANCE * np.abs(answers).max(initial=0.0))


def _tally_of(
    batch: Sequence[Array], labels: Sequence[Labels], outputs: Sequence[OutputForm], counted: Sequence[Counted | None]
) -> EvaluationTally:
    losses, metrics = list[LossTally](), dict[str, Tally]()
    for form, answers, wanted, places in zip(outputs, batch, labels, counted, strict=True):
        given, right = _those(places, answers), _those(places, wanted)
        mean = form.objective.mean_loss(given, right) if len(given) else 0.0
        losses.append(LossTally(form.objective.weight * mean * len(given), len(given)))
        if form.unit != (1.0,):
            given, right = _in_units(given, form.unit), _in_units(right, form.unit)
        for name, metric in form.named_metrics.items():
            metrics[name] = metric.tally(given, right, form.objective)
    return EvaluationTally(len(batch[0]), tuple(losses), metrics)


def _in_units(rows: _Rows, unit: Sequence[float]) -> Array:
    """Normalised numbers `[places, outputs]` in the user's units, but for where 0 is: errors are the same."""
    return rows.astype(np.float32) * np.array(unit, np.float32)


def _those(counted: Counted | None, rows: _Rows) -> _Rows:
    """The rows `[examples, *places, ...]` of all places that count, one below the other `[places, ...]`; all rows, as
    they are, where each place does."""
    return rows if counted is None else rows[counted]
