"""Give several models turns on this device: a worker process for each, short blocks of runs in rotation.

A model that is measured after another meets a warmer chip and other neighbours. In rotation all of them meet the
same, so their ratios are better known than their latencies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.latency.process import WorkerProcess
from benchmarks.latency.results import Failed, Measured, Report, compare, summarise
from benchmarks.latency.this_machine import read_machine
from benchmarks.latency.worker import Block, Ready
from fedprune.errors import ExportError

_MIN_BLOCKS = 10
_MAX_BLOCK_RUNS = 100


class Settings(msgspec.Struct, frozen=True):
    """Named as in TFLite's benchmark_model. Warm-up runs are not timed."""

    num_threads: int = 1
    num_runs: int = 100
    warmup_runs: int = 10


def measure(models: Sequence[Path], settings: Settings, on_turn: Callable[[Path], None] = lambda _: None) -> Report:
    """Measure the latency of TFLite models, several of them in turns.

    A model that fails to load, or crashes its process, is reported in its row; the others go on. A model may be
    given twice: the ratio then shows what the machine's noise is worth. `on_turn` is called with the model whose
    turn begins, `turns(settings)` times for each that does not fail.
    """
    courses = [_course(model, settings) for model in models]
    outcomes: dict[int, _Finished | Failed] = {}
    with ExitStack() as stack:
        for course in courses:
            stack.enter_context(closing(course))
        for turn in range(turns(settings)):
            for position in _rotation(len(models), turn):
                if position not in outcomes:
                    on_turn(models[position])
                    try:
                        next(courses[position])
                    except StopIteration as end:
                        outcomes[position] = end.value
                    except ExportError as error:
                        outcomes[position] = Failed(str(models[position]), str(error))
    return _report(settings, [outcomes[position] for position in range(len(models))])


def turns(settings: Settings) -> int:
    """The number of turns that a model has: to load, to warm up, and one for each block."""
    return 2 + len(_block_sizes(settings.num_runs))


@dataclass(frozen=True)
class _Finished:
    model: Path
    ready: Ready
    blocks: list[Block]

    @property
    def latencies(self) -> list[list[float]]:
        return [block.latencies_ms for block in self.blocks]


def _course(model: Path, settings: Settings) -> Generator[None, None, _Finished]:
    """One model's way through the benchmark, a turn at a time."""
    with WorkerProcess(model, settings.num_threads) as worker:
        ready = worker.load()
        yield
        worker.time(settings.warmup_runs)
        blocks = []
        for runs in _block_sizes(settings.num_runs):
            yield
            blocks.append(worker.time(runs))
    return _Finished(model, ready, blocks)


def _block_sizes(runs: int) -> list[int]:
    """Blocks of nearly equal size: enough of them to be paired, none so long that the others cool down."""
    blocks = min(runs, max(_MIN_BLOCKS, math.ceil(runs / _MAX_BLOCK_RUNS)))
    return [runs // blocks + (number < runs % blocks) for number in range(blocks)]


def _rotation(count: int, turn: int) -> list[int]:
    """Everybody, beginning with another one each turn, so that nobody always follows the same pause."""
    return [(turn + offset) % count for offset in range(count)]


def _report(settings: Settings, outcomes: Sequence[_Finished | Failed]) -> Report:
    finished = [outcome for outcome in outcomes if isinstance(outcome, _Finished)]
    return Report(
        machine=read_machine(),
        runtime=finished[0].ready.runtime if finished else None,
        num_threads=settings.num_threads,
        num_runs=settings.num_runs,
        warmup_runs=settings.warmup_runs,
        reference=str(finished[0].model) if finished else None,
        models=tuple(
            _measured(outcome, finished[0]) if isinstance(outcome, _Finished) else outcome for outcome in outcomes
        ),
    )


def _measured(outcome: _Finished, reference: _Finished) -> Measured:
    return Measured(
        path=str(outcome.model),
        bytes=outcome.ready.bytes,
        init_ms=outcome.ready.init_ms,
        latency_ms=summarise(outcome.latencies),
        peak_memory_mb=outcome.blocks[-1].peak_memory_mb,
        ratio=None if outcome is reference else compare(outcome.latencies, reference.latencies),
    )
