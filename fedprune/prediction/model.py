"""An exported model with its preprocessing and its labels: raw data in, answers out. Needs a runtime, no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from fedprune.data import Dataset, fit_to
from fedprune.data.normalization import inputs_of, normalize
from fedprune.data.unlabelled import Unlabelled, read_unlabelled
from fedprune.model.tensors import Array, Inputs
from fedprune.prediction.metadata import Metadata, Output, read_metadata
from fedprune.runtime.tflite import Interpreter, default_runtime, predict, predict_by_names

_BATCH = 64
"""Examples that are read before they are answered."""

_HALF = 0.5


class Answer(msgspec.Struct, frozen=True):
    """What one output says of an example.

    `values`, nested as `[*places, outputs]`, are probabilities of classes, or the numbers that were learned. `label` is
    the likeliest class, by its name or else its number, and `probability` its own; None where the output has no class
    for each example.
    """

    output: str
    values: Any
    label: str | None = None
    probability: float | None = None


class Prediction(msgspec.Struct, frozen=True):
    """The answers of all outputs to the example at `place`; none, and a `fault`, where it could not be read."""

    place: str
    answers: tuple[Answer, ...] = ()
    fault: str = ""

    @property
    def label(self) -> str | None:
        """Of the first output."""
        return self.answers[0].label if self.answers else None


class ExportedModel:
    """A file that `fedprune export` wrote, loaded."""

    def __init__(self, metadata: Metadata, interpreter: Interpreter) -> None:
        self.metadata = metadata
        self._interpreter = interpreter

    def predict(self, data: Path | str) -> Iterator[Prediction]:
        """Answer every example of `data`: files or a directory of the task's form, without labels, or an `.npz`.

        Raises `DataError` where there are none, or they do not fit the model; `ExportError` if the runtime fails.
        """
        waiting: list[Unlabelled] = []
        for example in read_unlabelled(Path(data), self.metadata.data):
            waiting.append(example)
            if len(waiting) == _BATCH:
                yield from self._predict(waiting)
                waiting = []
        yield from self._predict(waiting)

    def answer(self, inputs: Mapping[str, Inputs]) -> list[tuple[Answer, ...]]:
        """Answer examples in memory, as an `.npz` would hold them, before normalisation.

        Args:
            inputs: float32 or int32 `[examples, ...]` by name: `x`, or `x_NAME` for each of several inputs.
        """
        metadata, normalization = self.metadata, inputs_of(self.metadata.data)
        given = dict(inputs)
        if normalization is not None and "x" in given:
            given["x"] = np.array(given["x"], np.float32)
            normalize(Dataset(given["x"], np.zeros(len(given["x"]), np.int64)), normalization)
        x = fit_to(Dataset(given, {}), [each.form for each in metadata.inputs], ()).inputs
        found = self._run([x[each.array] for each in metadata.inputs])
        columns = [
            [_answer(output, row, metadata.labels) for row in rows]
            for output, rows in zip(metadata.outputs, found, strict=True)
        ]
        return list(zip(*columns, strict=True))

    def _run(self, x: Sequence[Inputs]) -> list[Array]:
        """The file's answers, float32 `[examples, *places, outputs]` of each output."""
        metadata = self.metadata
        if len(metadata.inputs) == len(metadata.outputs) == 1:
            return [predict(self._interpreter, x[0])]
        named = {source.name: given for source, given in zip(metadata.inputs, x, strict=True)}
        return predict_by_names(self._interpreter, named, [output.name for output in metadata.outputs])

    def _predict(self, examples: Sequence[Unlabelled]) -> Iterator[Prediction]:
        """In the order in which they came."""
        usable = [example.inputs for example in examples if example.inputs is not None]
        names = usable[0] if usable else ()
        arrays = {name: cast(Inputs, np.stack([inputs[name] for inputs in usable])) for name in names}
        answers = iter(self.answer(arrays) if usable else [])
        for example in examples:
            if example.inputs is None:
                yield Prediction(example.place, fault=example.fault)
            else:
                yield Prediction(example.place, next(answers))


def load_model(path: Path | str, threads: int = 1) -> ExportedModel:
    """Load an exported file. Raises `ExportError` if it cannot be run here, or does not say what its inputs are.

    The three lines that it takes::

        from fedprune.prediction import load_model
        for prediction in load_model("int8.tflite").predict("recordings"):
            print(prediction.place, prediction.label)
    """
    path = Path(path)
    metadata = read_metadata(path)
    return ExportedModel(metadata, default_runtime().interpreter(path, threads))


def _answer(output: Output, values: Array, labels: Sequence[str]) -> Answer:
    activation = output.loss.rule.activation
    if output.from_logits and activation == "softmax":
        values = np.exp(values - values.max(axis=-1, keepdims=True))
        values /= values.sum(axis=-1, keepdims=True)
    elif output.from_logits and activation == "sigmoid":
        values = np.float32(1) / (np.float32(1) + np.exp(-values))
    chosen, probability = None, 0.0
    if values.ndim == 1 and activation == "softmax":
        chosen = int(values.argmax())
        probability = float(values[chosen])
    elif values.shape == (1,) and activation == "sigmoid":
        chosen = int(values[0] > _HALF)
        probability = float(values[0] if chosen else 1 - values[0])
    if chosen is None:
        return Answer(output.name, values.tolist())
    return Answer(output.name, values.tolist(), labels[chosen] if chosen < len(labels) else str(chosen), probability)
