"""Evaluation of a task's model through its inference graph: any weights, no TensorFlow.

The graph's signature ``serving_default`` takes a batch of examples ``x`` and the rows of the tensor table
``w0`` … ``wN``, and returns ``y``. How many examples a batch has was decided when the task was built.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.data import Dataset, fit_to, load_npz
from fedprune.errors import TaskError
from fedprune.model.losses import Objective
from fedprune.model.tensors import Array, Weights
from fedprune.runtime.tflite import default_runtime, foreign_errors
from fedprune.task.bundle import Bundle, Task

SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Evaluation:
    """A model's scores on some examples: see `Objective`. Penalties (L1, L2, FedProx's) are no part of `loss`."""

    examples: int
    accuracy: float | None
    loss: float


@dataclass(frozen=True)
class LossScale:
    """What losses on some examples can be: `constant` is that of the best answer that is the same for all examples,
    `ceiling` the largest there can be. See `Objective`."""

    constant: float
    ceiling: float


class InferenceGraph:
    """A bundle's inference graph: loaded once, run with any weights.

    Weights are set once for many batches: the interpreter's own signature runner would copy them for each.
    """

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        """Raises `TaskError` if the graph does not fit the bundle's task, `ExportError` if nothing here can run it."""
        self._interpreter: Any = default_runtime().interpreter(bundle.inference_graph, threads)
        inputs, outputs = self._signature()
        _check_signature(bundle.task, inputs, outputs)
        self._x, self._y = inputs["x"]["index"], outputs["y"]["index"]
        self._weights = {spec.name: inputs[f"w{row}"]["index"] for row, spec in enumerate(bundle.task.tensors)}
        self._batch = np.zeros(inputs["x"]["shape"], np.float32)

    def load(self, weights: Weights) -> None:
        """The weights to predict with from now on; that they fit the tensor table is the caller's care."""
        with foreign_errors("inference graph"):
            for name, index in self._weights.items():
                self._interpreter.set_tensor(index, weights[name])

    def predict(self, x: Array) -> Iterator[Array]:
        """For float32 `[examples, ...]` the outputs, float32 `[≤ batch, outputs]`, batch after batch in order."""
        for start in range(0, len(x), len(self._batch)):
            examples = x[start : start + len(self._batch)]
            self._batch[: len(examples)] = examples
            with foreign_errors("inference graph"):
                self._interpreter.reset_all_variables()  # an LSTM would go on where the last batch left it
                self._interpreter.set_tensor(self._x, self._batch)
                self._interpreter.invoke()
                outputs: Array = self._interpreter.get_tensor(self._y)
            yield outputs[: len(examples)]

    def _signature(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Inputs and outputs by name. The runner must not outlive this call: while it does, the interpreter refuses."""
        with foreign_errors("inference graph"):
            runner = self._interpreter.get_signature_runner(SIGNATURE)
            return runner.get_input_details(), runner.get_output_details()


class Evaluator:
    """Scores weights on held-out examples, which stay in memory."""

    def __init__(self, bundle: Bundle, held_out: Path, *, threads: int) -> None:
        """`held_out` is an .npz with x and y.

        Raises `DataError` if it cannot be used or does not fit the task, `TaskError` or `ExportError` if the graph
        cannot be run.
        """
        task = bundle.task
        self._data = fit_to(load_npz(held_out), task.input_shape, task.outputs, task.training.loss)
        self._objective = task.objective
        self._outputs = task.outputs
        self._graph = InferenceGraph(bundle, threads=threads)

    @property
    def loss_scale(self) -> LossScale:
        constant = self._objective.constant_loss(self._data.y, self._outputs)
        return LossScale(constant, self._objective.ceiling)

    def evaluate(self, weights: Weights) -> Evaluation:
        """Weights must fit the task's tensor table. Raises `ExportError` if the runtime fails."""
        self._graph.load(weights)
        outputs = np.concatenate(list(self._graph.predict(self._data.x)))
        return score(outputs, self._data, self._objective)


def score(outputs: Array, data: Dataset, objective: Objective) -> Evaluation:
    """Score `outputs`, float32 `[examples, outputs]`, against `data` that fit the task."""
    return Evaluation(len(data), objective.accuracy(outputs, data.y), objective.mean_loss(outputs, data.y))


def _check_signature(task: Task, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    batch = next(iter(inputs["x"]["shape"].tolist()), 0) if "x" in inputs else 0
    expected = {f"w{row}": (spec.shape, spec.dtype) for row, spec in enumerate(task.tensors)}
    expected["x"] = ((batch, *task.input_shape), "float32")
    if batch < 1 or {name: _form(details) for name, details in inputs.items()} != expected:
        raise TaskError(f"task {task.name!r}: the inference graph does not take the tensor table; build the task again")
    if {name: _form(details) for name, details in outputs.items()} != {"y": ((batch, task.outputs), "float32")}:
        raise TaskError(
            f"task {task.name!r}: the inference graph does not give {task.outputs} outputs; build the task again"
        )


def _form(details: dict[str, Any]) -> tuple[tuple[int, ...], str]:
    shape: NDArray[np.int32] = details["shape"]
    return tuple(shape.tolist()), np.dtype(details["dtype"]).name
