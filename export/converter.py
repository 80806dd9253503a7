"""The parent's end of the process that converts: start it, ask it, say how it ended, end it.

TensorFlow's converter and the runtimes are C++ that may crash or hang, which then costs one format and not the export.
The process is kept from format to format, since TensorFlow takes seconds to load, and replaced when it has died.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Pipe
from types import TracebackType
from typing import Any, Protocol, Self

from export.report import Format, RunsOn
from fedprune.errors import ExportError, FedpruneError
from fedprune.model.tensors import Array, Inputs, TensorSpec, Weights
from fedprune.network.description import Network
from fedprune.runtime.tflite import one_line
from fedprune.task.units import Units

PATIENCE_SECONDS = 3600.0
"""For each answer of the process. Running 10,000 examples one by one through a large model takes most of it."""

_CHILD = "export.converter_child"
_LEAVE_OUT = "leave this format out with --formats, or build the task from other layers"
_LOOK_AROUND = "does TensorFlow work on this machine, and has it memory enough?"


@dataclass(frozen=True, eq=False)
class Job:
    """What is converted, and with what: `x` and `calibration` are `[examples, ...]` of each input, float32 or ids.

    Files answer in `units`, the Keras model does not.
    """

    network: Network
    tensors: tuple[TensorSpec, ...]
    weights: Weights
    x: Sequence[Inputs]
    calibration: Sequence[Inputs]
    units: Units | None = None


@dataclass(frozen=True)
class Evaluate:
    """Asks for the Keras model's answers to `x`."""


@dataclass(frozen=True)
class Convert:
    """Asks for the bytes of a file."""

    form: Format


@dataclass(frozen=True)
class Run:
    """Asks for a `Trial` of the file that was made last."""


@dataclass(frozen=True, eq=False)
class Trial:
    """The answers of a file to `x`, of each output, on the first runtime of this machine that runs it; None where none
    does."""

    answers: list[Array] | None
    runs_on: tuple[RunsOn, ...]


Request = Job | Evaluate | Convert | Run


class Converter(Protocol):
    """A Keras model, and the file that was last made of it. Methods raise `ExportError` where they fail."""

    def evaluate(self) -> list[Array]:
        """The Keras model's answers to the job's `x`, of each output."""

    def convert(self, form: Format) -> bytes:
        """The file in this format."""

    def run(self) -> Trial:
        """A trial of the file that was made last."""


class ConverterProcess:
    """A converter in a process of its own. What crashes or hangs there is an `ExportError` here."""

    def __init__(self, job: Job, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """The process starts with the first request. `patience_seconds` are for each conversion and each run."""
        self._job = job
        self._patience = patience_seconds
        self._child: _Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def evaluate(self) -> list[Array]:
        """See `Converter`. Raises `TaskError` if the model cannot be built."""
        answers: list[Array] = self._exchange(self._loaded(), Evaluate(), "evaluating the Keras model")
        return answers

    def convert(self, form: Format) -> bytes:
        content: bytes = self._ask(Convert(form), f"converting to {form}")
        return content

    def run(self) -> Trial:
        trial: Trial = self._ask(Run(), "running the file that was made")
        return trial

    def _ask(self, request: Convert | Run, doing: str) -> Any:
        return self._exchange(self._loaded(), request, doing, _LEAVE_OUT, self._patience)

    def _loaded(self) -> _Child:
        if self._child is None:
            self._child = child = _Child()
            try:
                self._exchange(child, self._job, "loading TensorFlow and building the model")
            except FedpruneError:
                self._end()  # it has no model, and could answer nothing
                raise
        return self._child

    def _exchange(
        self,
        child: _Child,
        request: Request,
        doing: str,
        advice: str = _LOOK_AROUND,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Any:
        try:
            child.connection.send(request)
            answered = child.connection.poll(patience_seconds)
            answer = child.connection.recv() if answered else None
        except (EOFError, OSError):
            ending = child.ending()
            self._end()
            raise ExportError(f"{doing} crashed ({ending}); {advice}") from None
        if not answered:
            self._end()
            raise ExportError(f"{doing} took longer than {patience_seconds:g} s and was ended; {advice}")
        if isinstance(answer, FedpruneError):
            raise answer
        return answer

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
        self._child = None


class _Child:
    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 closed in `kill`
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _CHILD, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._complaints,
                stderr=self._complaints,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C is the parent's alone, which then ends its child
            )

    def ending(self) -> str:
        """The end of a process that has closed its connection."""
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return "Killed, perhaps for want of memory"
        return signal.strsignal(-code) or f"signal {-code}" if code < 0 else f"exit code {code}{self._last_words()}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.connection.close()
        self._complaints.close()

    def _last_words(self) -> str:
        self._complaints.seek(0)
        said = [line for line in self._complaints.read().decode(errors="replace").split("\n") if line.strip()]
        return f": {one_line(said[-1])}" if said else ""
