"""The parent's end of a worker: start it, ask it, say how it ended, end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from benchmarks.latency.shapes import Shape, format_shapes
from benchmarks.latency.worker import PATIENCE_SECONDS, Block, Failed, Ready, Reply
from fedprune.errors import ExportError
from fedprune.runtime.tflite import one_line
from fedprune.system.paths import path_text

_WORKER = "benchmarks.latency.worker"


class WorkerProcess:
    """A process that has loaded one model. Its methods raise ExportError if the model fails or crashes the process."""

    def __init__(self, model: Path, num_threads: int, shapes: Sequence[Shape] = ()) -> None:
        self._model = model
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 closed in __exit__
        arguments = [str(model), str(num_threads), *([format_shapes(shapes)] if shapes else [])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _WORKER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            process_group=0,  # Ctrl-C is the parent's alone, which then ends its workers
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._complaints.close()

    def load(self) -> Ready:
        """Wait until the model is loaded."""
        reply = self._receive()
        assert isinstance(reply, Ready)
        return reply

    def time(self, runs: int) -> Block:
        """Have `runs` inferences timed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{runs}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._crash() from None
        reply = self._receive()
        assert isinstance(reply, Block)
        return reply

    def cpu_seconds(self) -> float:
        """The processor time that it has used; 0 once it has ended, when it counts as its parent's."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _receive(self) -> Ready | Block:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._crash()
        reply: Reply = msgspec.json.decode(line, type=Reply)
        if isinstance(reply, Failed):
            raise ExportError(reply.error)
        return reply

    def _crash(self) -> ExportError:
        code = self._process.wait()
        if code == -signal.SIGALRM:
            return ExportError(f"{path_text(self._model)}: gave no answer for {PATIENCE_SECONDS} s; try fewer runs")
        ending = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        hint = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return ExportError(
            f"{path_text(self._model)}: the process that ran it ended with {ending}{hint}{self._last_words()}"
        )

    def _last_words(self) -> str:
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").split("\n")
        said = [line for line in lines if line.strip()]
        return f" ({one_line(said[-1])})" if said else ""
