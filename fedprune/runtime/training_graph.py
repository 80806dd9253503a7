"""A task's training graph at run time: loss and gradients of any weights on any batch, without TensorFlow.

Its signature ``train`` takes, all float32 but for ids,

===============  ==========================================================================================
``x0`` …         examples `[batch, ...]` for each of the model's inputs; int32 where they are ids, whose number the
                 tensor's name tells, and what fills padded steps
``y0`` …         targets `[batch, *places, outputs]` for each of its outputs: one-hot rows where labels are classes
``present``      `[batch, 1]`: 1 for an example, 0 for what fills the batch up
``importance``   `[batch, outputs of the model]`: how much each example counts in the loss of each output
``w0`` … ``wN``  the rows of the tensor table
``u0`` …         numbers uniform over [0, 1) for layers that draw, as dropout does
===============  ==========================================================================================

and returns ``loss`` `[1]` (the sum over outputs, of the weight of each times the mean over examples and places; and
regularisers), the gradient ``gR`` with respect to each row R that is trained, and the new moving statistics ``sR``. The
batch is fixed; fewer examples are filled up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedprune.errors import TaskError
from fedprune.model.tensors import Array, Inputs, TensorSpec, Weights
from fedprune.runtime.tflite import Runtime, default_runtime, foreign_errors

SIGNATURE = "train"
IDS_BELOW = "ids below "
"""The name of an input of ids, before their number."""
PADDED_WITH = ", padded with "
"""The end of an input's name where some of it is padding, before what fills that."""


@dataclass(frozen=True, eq=False)
class Step:
    """The outcome of a batch: gradients of the trained tensors, new values of the moving statistics."""

    loss: float
    gradients: dict[str, Array]
    statistics: dict[str, Array]


@dataclass(frozen=True, eq=False)
class Held:
    """What a training graph holds after a step: its own memory, to be read and changed in place.

    Nothing of it may be referred to any more when the next step runs.
    """

    weights: dict[str, Array]
    gradients: dict[str, Array]
    statistics: dict[str, Array]


class TrainingGraph:
    """A training graph, loaded once, run with any weights, which it holds: a device has no room for them twice."""

    def __init__(
        self, graph: bytes, tensors: Sequence[TensorSpec], *, threads: int, runtime: Runtime | None = None
    ) -> None:
        """Raises `TaskError` if the graph does not fit the tensor table, `ExportError` if nothing here can run it."""
        self.runtime = runtime or default_runtime()
        self._interpreter: Any = self.runtime.interpreter(graph, threads, advise=False)
        inputs, outputs = self._signature()
        _check(inputs, outputs, tensors)
        self._inputs = {name: details["index"] for name, details in inputs.items()}
        self._loss = outputs["loss"]["index"]
        rows = {spec.name: row for row, spec in enumerate(tensors)}
        self._weights = {name: self._inputs[f"w{row}"] for name, row in rows.items()}
        self._gradients = {name: outputs[f"g{row}"]["index"] for name, row in rows.items() if f"g{row}" in outputs}
        self._statistics = {name: outputs[f"s{row}"]["index"] for name, row in rows.items() if f"s{row}" in outputs}
        examples = [inputs[f"x{number}"] for number in range(_count(inputs, "x"))]
        told = [_told(details) for details in examples]
        self.vocabularies = tuple(vocabulary for vocabulary, _ in told)
        """The number of ids that each input may hold; None where it holds numbers."""
        self.paddings = tuple(padding for _, padding in told)
        """What fills padded steps of each input; None where there are none."""
        self._x = [np.zeros(details["shape"], details["dtype"]) for details in examples]
        self._y = [np.zeros(inputs[f"y{number}"]["shape"], np.float32) for number in range(_count(inputs, "y"))]
        self._importance = np.zeros(inputs["importance"]["shape"], np.float32)
        self.batch_size = len(self._importance)
        self.input_shapes: tuple[tuple[int, ...], ...] = tuple(array.shape[1:] for array in self._x)
        """The shapes of an example."""
        self.target_shapes: tuple[tuple[int, ...], ...] = tuple(array.shape[1:] for array in self._y)
        """The shapes of an example's targets, `[*places, outputs]`."""
        self.noise_shapes: tuple[tuple[int, ...], ...] = tuple(
            tuple(inputs[f"u{number}"]["shape"].tolist()) for number in range(_count(inputs, "u"))
        )
        """The shapes of the noise that `run` wants."""
        self.trained = tuple(self._gradients)
        """The names of the tensors that have gradients, in table order."""
        self.moved = tuple(self._statistics)
        """The names of the moving statistics, in table order."""

    def run(
        self,
        weights: Weights,
        x: Sequence[Inputs],
        y: Sequence[Array],
        noise: Sequence[Array] = (),
        importance: Array | None = None,
    ) -> Step:
        """A batch with given weights; what comes of it as copies. See `step`."""
        self.hold(weights)
        loss, held = self.step(x, y, noise, importance), self.held()
        return Step(loss, _copied(held.gradients), _copied(held.statistics))

    def hold(self, weights: Weights) -> None:
        """The weights to run with from now on; they are copied. Raises `ExportError` if the runtime fails."""
        with foreign_errors("training graph", advise=False):
            for name, index in self._weights.items():
                self._interpreter.set_tensor(index, weights[name])

    def held(self) -> Held:
        """The weights, and what the last step made of them."""
        return Held(self._views(self._weights), self._views(self._gradients), self._views(self._statistics))

    def step(
        self,
        x: Sequence[Inputs],
        y: Sequence[Array],
        noise: Sequence[Array] = (),
        importance: Array | None = None,
    ) -> float:
        """One batch of n examples, from 1 to the graph's batch.

        Args:
            x: for each input `[n, ...]`, float32 or ids.
            y: for each output the targets, float32 `[n, *places, outputs]`.
            noise: what `noise_shapes` says.
            importance: how much each example counts in the loss of each output, float32 `[n, outputs of the model]`;
                None: all count once.

        Returns the loss; weights stay as they are. That shapes and ids fit is the caller's care. Raises `ExportError`
        if the runtime fails.
        """
        count = len(x[0])
        for filled, given in (*zip(self._x, x, strict=True), *zip(self._y, y, strict=True)):
            filled[:count], filled[count:] = given, 0
        self._importance[:count], self._importance[count:] = 1.0 if importance is None else importance, 0.0
        present = np.zeros((self.batch_size, 1), np.float32)
        present[:count] = 1.0
        with foreign_errors("training graph", advise=False):
            for letter, arrays in (("x", self._x), ("y", self._y)):
                for number, array in enumerate(arrays):
                    self._set(f"{letter}{number}", array)
            self._set("present", present)
            self._set("importance", self._importance)
            for number, uniform in enumerate(noise):
                self._set(f"u{number}", uniform)
            self._interpreter.invoke()
            return float(self._interpreter.get_tensor(self._loss)[0])

    def _set(self, name: str, value: Inputs) -> None:
        self._interpreter.set_tensor(self._inputs[name], value)

    def _views(self, indices: dict[str, int]) -> dict[str, Array]:
        return {name: self._interpreter.tensor(index)() for name, index in indices.items()}

    def _signature(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Inputs and outputs by name. The runner must not outlive this call: while it does, the interpreter refuses."""
        with foreign_errors("training graph", advise=False):
            runner = self._interpreter.get_signature_runner(SIGNATURE)
            return runner.get_input_details(), runner.get_output_details()


def _copied(tensors: dict[str, Array]) -> dict[str, Array]:
    return {name: array.copy() for name, array in tensors.items()}


def _told(x: dict[str, Any]) -> tuple[int | None, float | None]:
    """The number of ids of an input, None where it is of numbers, and its padding. Raises `TaskError` if it is of
    neither."""
    name, _, filling = str(x["name"]).partition(PADDED_WITH)
    number = name.removeprefix(IDS_BELOW)
    padding = float(filling) if filling else None
    if x["dtype"] is np.float32:
        return None, padding
    if not number.isdecimal() or int(number) < 1:
        raise TaskError("the training graph takes integers, and does not tell which; build the task again")
    return int(number), padding


def _count(names: dict[str, Any], prefix: str) -> int:
    """Count the names `prefix`0, `prefix`1, … that there are."""
    return next(number for number in range(len(names) + 1) if f"{prefix}{number}" not in names)


def _check(inputs: dict[str, Any], outputs: dict[str, Any], tensors: Sequence[TensorSpec]) -> None:
    """Raise `TaskError` unless the graph takes and returns what the module's text says, for this tensor table."""
    shapes = {name: tuple(details["shape"].tolist()) for name, details in (inputs | outputs).items()}
    examples, targets, noises = (
        {f"{prefix}{number}" for number in range(_count(inputs, prefix))} for prefix in ("x", "y", "u")
    )
    dtypes = {name: details["dtype"] for name, details in (inputs | outputs).items()}
    rows = {f"{kind}{row}": spec.shape for row, spec in enumerate(tensors) for kind in "wgs"}
    weights = {f"w{row}" for row in range(len(tensors))}
    batch = next(iter(shapes.get("present", ())), 0)
    fits = (
        all(dtypes[name] is np.float32 for name in dtypes if name not in examples)
        and all(dtypes[name] in (np.float32, np.int32) for name in examples)
        and (batch >= 1 and bool(examples) and bool(targets))
        and set(inputs) == {"present", "importance"} | examples | targets | weights | noises
        and "loss" in outputs
        and set(outputs) - {"loss"} <= set(rows) - weights
        and all(shapes[name] == rows[name] for name in shapes if name in rows)
        and all(len(shapes[name]) >= 2 for name in targets)
        and (shapes["present"], shapes["loss"]) == ((batch, 1), (1,))
        and shapes["importance"] == (batch, len(targets))
        and all(shapes[name][:1] == (batch,) for name in examples | targets | noises)
    )
    if not fits:
        raise TaskError("the training graph does not take the task's tensor table; build the task again")
