"""The Keras model of an export, and what is made of it. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

from export.convert import convert
from export.converter import Job, Trial
from export.report import Format, RunsOn
from export.signature import signature_of
from export.units import in_units
from fedprune.errors import ExportError
from fedprune.keras.model import build_model
from fedprune.model.tensors import Array, Inputs, TensorTable
from fedprune.runtime.tflite import Runtime, available_runtimes, predict_by_names

_KERAS_BATCH = 256


class Workbench:
    """A `Converter` in this process."""

    def __init__(self, job: Job) -> None:
        """Raises `TaskError` if Keras cannot build the network."""
        self._job = job
        self._made = b""
        self._model, variables = build_model(job.network, TensorTable(job.tensors))
        for name, variable in variables.items():
            variable.assign(job.weights[name])

    def evaluate(self) -> list[Array]:
        x = self._job.x
        answers = self._model.predict(list(x) if len(x) > 1 else x[0], batch_size=_KERAS_BATCH, verbose=0)
        return list(answers) if isinstance(answers, list) else [answers]

    def convert(self, form: Format) -> bytes:
        made = convert(self._model, form, signature_of(self._job.network), self._job.calibration)
        self._made = made if self._job.units is None else in_units(made, self._job.units)
        return self._made

    def run(self) -> Trial:
        """Try every runtime on one example, and the first that runs it on all."""
        x = self._job.x
        tried = {runtime: self._try(runtime, [array[:1] for array in x]) for runtime in available_runtimes()}
        working = next((runtime for runtime, attempt in tried.items() if attempt.ok), None)
        answers = None if working is None else self._answers(working, x)
        return Trial(answers, tuple(tried.values()))

    def _try(self, runtime: Runtime, x: Sequence[Inputs]) -> RunsOn:
        try:
            self._answers(runtime, x)
        except ExportError as error:
            return RunsOn(runtime.name, runtime.version, ok=False, error=str(error))
        return RunsOn(runtime.name, runtime.version, ok=True, error="")

    def _answers(self, runtime: Runtime, x: Sequence[Inputs]) -> list[Array]:
        signature = signature_of(self._job.network)
        given = dict(zip(signature.inputs, x, strict=True))
        return predict_by_names(runtime.interpreter(self._made), given, signature.outputs)
