"""One model in one process, so that its peak memory is its own and its crash is nobody else's.

Run as ``python -m benchmarks.latency.worker MODEL NUM_THREADS [SHAPES]``. It loads the model and writes `Ready` or
`Failed`; then, for every line on standard input that holds a number of runs, it times that many and writes a `Block`.
One JSON object a line. It ends with its standard input.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.latency.shapes import MAX_INPUT_ELEMENTS, Shape, parse_shapes, resize_inputs
from fedprune.errors import ExportError
from fedprune.model.randomness import Keyed
from fedprune.runtime.tflite import Interpreter, TensorDetails, default_runtime, foreign_errors
from fedprune.system.usage import peak_memory_mb

PATIENCE_SECONDS = 600
"""For loading, and for each block of runs."""

_SEED = 0
_SETTLE_SECONDS = 0.01
"""Untimed runs before each block: others had the caches and the core was perhaps asleep."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded and its inputs are filled. `init_ms` is for loading it, not for importing the runtime."""

    runtime: str
    bytes: int
    init_ms: float
    input_shapes: tuple[Shape, ...]


class Failed(msgspec.Struct, frozen=True, tag=True):
    error: str


class Block(msgspec.Struct, frozen=True, tag=True):
    """Latency of each run, and the process's peak memory so far (MB)."""

    latencies_ms: list[float]
    peak_memory_mb: float


Reply = Ready | Failed | Block


def main(model: Path, num_threads: int, shapes: Sequence[Shape] = ()) -> None:
    replies = _claim_stdout()
    try:
        with _patience():
            interpreter, ready = _load(model, num_threads, shapes)
        _reply(replies, ready)
        for request in sys.stdin:
            with _patience(), foreign_errors(str(model)):
                latencies = _time(interpreter, int(request))
            _reply(replies, Block(latencies, peak_memory_mb()))
    except ExportError as error:
        _reply(replies, Failed(str(error)))


@contextmanager
def _patience() -> Iterator[None]:
    """End the process if this takes too long: a model may loop for ever where no Python code is run."""
    signal.alarm(PATIENCE_SECONDS)
    yield
    signal.alarm(0)


def _claim_stdout() -> int:
    """Keep standard output for replies: what the runtime prints there goes to standard error."""
    replies = os.dup(1)
    os.dup2(2, 1)
    return replies


def _reply(replies: int, reply: Reply) -> None:
    with os.fdopen(os.dup(replies), "wb") as file:
        file.write(msgspec.json.encode(reply) + b"\n")


def _load(model: Path, num_threads: int, shapes: Sequence[Shape]) -> tuple[Interpreter, Ready]:
    runtime = default_runtime()
    start = time.perf_counter()
    interpreter = runtime.interpreter(model, num_threads, prepare=lambda loaded: resize_inputs(loaded, shapes))
    init_ms = (time.perf_counter() - start) * 1e3
    with foreign_errors(str(model)):
        inputs = interpreter.get_input_details()
        for position, details in enumerate(inputs):
            interpreter.set_tensor(details["index"], random_input(details, Keyed(_SEED, "benchmark", position)))
    return interpreter, Ready(
        runtime=f"{runtime.name} {runtime.version}",
        bytes=model.stat().st_size,
        init_ms=init_ms,
        input_shapes=tuple(tuple(details["shape"].tolist()) for details in inputs),
    )


def random_input(details: TensorDetails, stream: Keyed) -> NDArray[Any]:
    """Random values in an input's range.

    That is [0, 1) for floats, all values of the type where the input is quantised, and 0 or 1 otherwise (an index
    is valid in any table of two rows).

    Raises:
        ExportError: the input is not numeric, or larger than any model for a small device takes.
    """
    shape, dtype = tuple(int(size) for size in details["shape"]), np.dtype(details["dtype"])
    count = math.prod(shape)
    if count > MAX_INPUT_ELEMENTS or dtype.kind not in "fiub":
        raise ExportError(f"an input of {dtype}{list(shape)} cannot be filled with random numbers")
    if dtype.kind == "f":
        values: NDArray[Any] = stream.uniform(count, 0.0, 1.0)
    elif details["quantization"][0] > 0:
        values = stream.integers(count)
    else:
        values = stream.integers(count) % 2
    return values.astype(dtype).reshape(shape)


def _time(interpreter: Interpreter, runs: int) -> list[float]:
    invoke, clock = interpreter.invoke, time.perf_counter_ns
    settled = clock() + int(_SETTLE_SECONDS * 1e9)
    invoke()
    while clock() < settled:
        invoke()
    latencies = []
    for _ in range(runs):
        start = clock()
        invoke()
        latencies.append((clock() - start) / 1e6)
    return latencies


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *map(parse_shapes, sys.argv[3:]))
