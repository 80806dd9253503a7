"""Give several models turns on this device: a worker process for each, short blocks of runs in rotation.

A model that is measured after another meets a warmer chip and other neighbours. In rotation all of them meet the
same, so their ratios are better known than their latencies. A model takes part once for each number of threads.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.latency.conditions import Observation, Watch, summarise_conditions
from benchmarks.latency.journal import Broken, Entry, Journal, Observed, Plan, Timed
from benchmarks.latency.judgement import judge
from benchmarks.latency.operators import find_sparse_kernels
from benchmarks.latency.process import WorkerProcess
from benchmarks.latency.results import Failed, Measured, Report, compare, medians, summarise
from benchmarks.latency.shapes import Shape
from benchmarks.latency.this_machine import read_machine
from benchmarks.latency.worker import Block, Ready
from fedprune.errors import ConfigurationError, ExportError
from fedprune.runtime.tflite import one_line
from fedprune.system.paths import path_text

MOST_ROWS = 64
"""Models times numbers of threads: each is a process, of 50 MB and more."""
_MIN_BLOCKS = 20
_MAX_BLOCK_RUNS = 100


class Settings(msgspec.Struct, frozen=True):
    """Named as in TFLite's benchmark_model, but that there may be several numbers of threads. Warm-up runs are not
    timed; without shapes inputs have the models' own."""

    num_threads: tuple[int, ...] = (1,)
    num_runs: int = 100
    warmup_runs: int = 10
    input_layer_shape: tuple[Shape, ...] = ()


@dataclass
class _Row:
    """A model on a number of threads, and what is known of it so far."""

    model: Path
    num_threads: int
    sha256: str | None
    ready: Ready | None = None
    blocks: list[Block] = field(default_factory=list)
    error: str | None = None

    @property
    def latencies(self) -> list[list[float]]:
        return [block.latencies_ms for block in self.blocks]


def measure(
    models: Sequence[Path],
    settings: Settings,
    on_turn: Callable[[Path], None] = lambda _: None,
    journal: Path | None = None,
    *,
    resume: bool = False,
) -> Report:
    """Measure the latency of TFLite models, several of them in turns.

    A model that fails to load, or crashes its process, is reported in its row; the others go on. A model may be
    given twice: the ratio then shows what the machine's noise is worth. `on_turn` is called with the model whose
    turn begins, `turns(settings)` times for each row that does not fail. What was measured goes into `journal` at once;
    with `resume` the blocks that it holds of the same benchmark are taken over, and have no turns.

    Raises:
        ConfigurationError: there are more than `MOST_ROWS` rows.
        StorageError: the journal cannot be written, or is of another benchmark.
    """
    began = datetime.now(UTC).replace(microsecond=0)
    digests = [_digest(model) for model in models]
    rows = [
        _Row(model, threads, digest)
        for model, digest in zip(models, digests, strict=True)
        for threads in settings.num_threads
    ]
    if len(rows) > MOST_ROWS:
        raise ConfigurationError(f"{len(rows)} models times numbers of threads: give at most {MOST_ROWS} at a time")
    with ExitStack() as stack:
        log = None if journal is None else Journal(journal, _plan(models, digests, settings), resume=resume)
        if log is not None:
            stack.callback(log.close)
        observations = [] if log is None else _take_over(rows, log.entries, _block_sizes(settings.num_runs))
        _Session(rows, settings, observations, on_turn, lambda entry: None if log is None else log.append(entry)).run()
    return _report(began, settings, rows, observations)


def turns(settings: Settings) -> int:
    """The number of turns that a row has: to load, to warm up, and one for each block."""
    return 2 + len(_block_sizes(settings.num_runs))


def _digest(model: Path) -> str | None:
    """None for what cannot be read: its worker says why."""
    if not model.is_file():
        return None
    try:
        with model.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _plan(models: Sequence[Path], digests: Sequence[str | None], settings: Settings) -> Plan:
    return Plan(
        machine=read_machine(),
        models=tuple(path_text(model) for model in models),
        sha256=tuple(digests),
        num_threads=settings.num_threads,
        num_runs=settings.num_runs,
        warmup_runs=settings.warmup_runs,
        input_layer_shape=settings.input_layer_shape,
    )


def _take_over(rows: Sequence[_Row], entries: Sequence[Entry], sizes: Sequence[int]) -> list[Observation]:
    """Put what a journal holds into the rows. They are compared block by block, so a block that only some had
    is measured again."""
    blocks: list[dict[int, Block]] = [{} for _ in rows]
    observations = []
    for entry in entries:
        match entry:
            case Timed(row, number, block):
                if 0 <= number < len(sizes) and len(block.latencies_ms) == sizes[number]:
                    blocks[row][number] = block
            case Broken(row, error):
                rows[row].error = error
            case Observed(observation):
                observations.append(observation)
    whole = [found for each, found in zip(rows, blocks, strict=True) if each.error is None]
    common = 0
    while whole and all(common in found for found in whole):
        common += 1
    for each, found in zip(rows, blocks, strict=True):
        if each.error is None:
            each.blocks = [found[number] for number in range(common)]
    return observations


class _Session:
    """The turns of all rows, from their processes' beginning to their end."""

    def __init__(
        self,
        rows: Sequence[_Row],
        settings: Settings,
        observations: list[Observation],
        on_turn: Callable[[Path], None],
        enter: Callable[[Entry], None],
    ) -> None:
        self._rows = rows
        self._settings = settings
        self._observations = observations
        self._on_turn = on_turn
        self._enter = enter
        self._watch = Watch()
        self._workers: dict[int, WorkerProcess] = {}

    def run(self) -> None:
        self._look()
        with ExitStack() as stack:
            courses = {
                position: stack.enter_context(closing(self._course(position)))
                for position, row in enumerate(self._rows)
                if row.error is None
            }
            turn = 0
            while courses:
                for position in _rotation(len(self._rows), turn):
                    if position in courses and not self._take_turn(position, courses[position]):
                        del courses[position]
                self._look()
                turn += 1

    def _take_turn(self, position: int, course: Generator[None, None, None]) -> bool:
        """False if it was the row's last one."""
        row = self._rows[position]
        self._on_turn(row.model)
        try:
            next(course)
        except ExportError as error:
            row.error = str(error)
            self._enter(Broken(position, row.error))
            return False
        except StopIteration:
            return False
        return True

    def _course(self, position: int) -> Generator[None, None, None]:
        """One row's way through the benchmark, a turn at a time."""
        row, sizes = self._rows[position], _block_sizes(self._settings.num_runs)
        with WorkerProcess(row.model, row.num_threads, self._settings.input_layer_shape) as worker:
            self._workers[position] = worker
            row.ready = worker.load()
            yield
            worker.time(self._settings.warmup_runs)
            for number in range(len(row.blocks), len(sizes)):
                yield
                row.blocks.append(worker.time(sizes[number]))
                self._enter(Timed(position, number, row.blocks[-1]))

    def _look(self) -> None:
        own = sum(os.times()[:4]) + sum(worker.cpu_seconds() for worker in self._workers.values())
        self._observations.append(self._watch.look(own))
        self._enter(Observed(self._observations[-1]))


def _block_sizes(runs: int) -> list[int]:
    """Blocks of nearly equal size: enough of them to be paired, none so long that the others cool down."""
    blocks = min(runs, max(_MIN_BLOCKS, math.ceil(runs / _MAX_BLOCK_RUNS)))
    return [runs // blocks + (number < runs % blocks) for number in range(blocks)]


def _rotation(count: int, turn: int) -> list[int]:
    """Everybody, beginning with another one each turn, so that nobody always follows the same pause."""
    return [(turn + offset) % count for offset in range(count)]


def _report(began: datetime, settings: Settings, rows: Sequence[_Row], observations: Sequence[Observation]) -> Report:
    finished = [row for row in rows if row.error is None]
    conditions = summarise_conditions(observations)
    return Report(
        time=began,
        machine=read_machine(),
        runtime=finished[0].ready.runtime if finished and finished[0].ready else None,
        num_threads=settings.num_threads,
        num_runs=settings.num_runs,
        warmup_runs=settings.warmup_runs,
        reference=path_text(finished[0].model) if finished else None,
        models=tuple(_described(row, finished) for row in rows),
        conditions=conditions,
        flags=judge(conditions, [(_name(row, settings), medians(row.latencies)) for row in finished]),
    )


def _name(row: _Row, settings: Settings) -> str:
    name = one_line(row.model.name)
    return name if len(settings.num_threads) == 1 else f"{name} on {row.num_threads} threads"


def _described(row: _Row, finished: Sequence[_Row]) -> Measured | Failed:
    if row.error is not None:
        return Failed(path_text(row.model), row.num_threads, row.error)
    assert row.ready is not None
    assert row.sha256 is not None
    first = next(other for other in finished if other.num_threads == row.num_threads)
    on_fewest = next(other for other in finished if other.model == row.model)
    return Measured(
        path=path_text(row.model),
        num_threads=row.num_threads,
        bytes=row.ready.bytes,
        sha256=row.sha256,
        input_shapes=row.ready.input_shapes,
        init_ms=row.ready.init_ms,
        latency_ms=summarise(row.latencies),
        medians_ms=medians(row.latencies),
        peak_memory_mb=max(block.peak_memory_mb for block in row.blocks),
        ratio=None if first is row else compare(row.latencies, first.latencies),
        scaling=None if on_fewest.num_threads == row.num_threads else compare(row.latencies, on_fewest.latencies),
        sparse_kernels=find_sparse_kernels(row.model),
    )
