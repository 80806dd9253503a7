"""One network of the zoo: each part of it is measured in a process of its own, which may crash."""

from __future__ import annotations

import math
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.latency.measure import Settings
from benchmarks.latency.measure import measure as measure_latency
from benchmarks.latency.results import Measured as Latency
from benchmarks.zoo import training
from benchmarks.zoo.exports import export
from benchmarks.zoo.records import Criterion, Export, Measured, Speed
from export.report import DENSE_FORMATS, Format
from fedprune.errors import FedpruneError
from fedprune.task.bundle import Bundle, read_bundle

BATCH = 32
_PAIRS = 3
"""Both trainers take so many turns."""

_Result = TypeVar("_Result")


def measure(name: str, *, quick: bool) -> Measured:
    """All of a network; if `quick`, what needs no training and no conversion."""
    from benchmarks.zoo import build

    try:
        built, exactness = _alone(build.build_and_compare, name)
    except FedpruneError as error:
        return _refused(name, str(error))
    bundle = read_bundle(built.bundle)
    litert, keras = (None, None) if quick else _pair(built.bundle, can_train=bool(bundle.graphs))
    exports, latency = ((), None) if quick else _exports(built.bundle)
    return Measured(
        name=name,
        batch=BATCH,
        parameters=sum(spec.size for spec in bundle.task.tensors),
        graph=tuple(graph.batch_size for graph in bundle.graphs),
        refusals=built.warnings,
        build_seconds=round(built.build_seconds, 1),
        write_seconds=round(built.write_seconds, 3),
        exactness=exactness,
        litert_samples_s=litert.samples_s if litert else None,
        keras_samples_s=keras.samples_s if keras else None,
        litert_peak_mb=litert.peak_mb if litert else None,
        keras_peak_mb=keras.peak_mb if keras else None,
        exports=exports,
        latency_ms=latency,
        parity=None if quick or not bundle.graphs else _parity(name, bundle),
    )


def _refused(name: str, reason: str) -> Measured:
    return Measured(
        name=name,
        batch=BATCH,
        parameters=0,
        graph=(),
        refusals=(reason,),
        build_seconds=0.0,
        write_seconds=0.0,
        exactness=None,
        litert_samples_s=None,
        keras_samples_s=None,
        litert_peak_mb=None,
        keras_peak_mb=None,
        exports=(),
        latency_ms=None,
        parity=None,
    )


def measure_criterion(rows: Sequence[Measured], *, most: int | None) -> Criterion:
    """The criterion over the networks that were measured, and over mutants, `most` of each small network."""
    from benchmarks.zoo.build import PROVEN_SIZES
    from benchmarks.zoo.criterion import MUTATED, judge
    from export.proof.proof import MARGIN

    verdicts = [verdict for name in MUTATED for verdict in _alone(judge, name, most)]
    honest = [verdict for verdict in verdicts if not verdict.what]
    mutated = [verdict for verdict in verdicts if verdict.what]
    missed = [verdict for verdict in mutated if verdict.ratio <= MARGIN]
    largest = [row.exactness.largest_ratio for row in rows if row.exactness]
    return Criterion(
        honest=len(honest) + len(rows) * len(PROVEN_SIZES),
        false_refusals=sum(verdict.ratio > MARGIN for verdict in honest)
        + sum(size not in row.graph for row in rows for size in PROVEN_SIZES),
        mutants=len(mutated),
        kinds=len({verdict.what for verdict in mutated}),
        missed_mutants=len(missed),
        missed=tuple(f"{verdict.network}: {verdict.what}" for verdict in missed),
        missed_by_self_check=sum(verdict.passes_self_check for verdict in mutated),
        margin=MARGIN,
        largest_honest=max([*largest, *(verdict.ratio for verdict in honest)], default=math.nan),
        smallest_mutant=min((verdict.ratio for verdict in mutated), default=math.nan),
    )


def _alone(work: Callable[..., _Result], *arguments: Any) -> _Result:
    """Call it in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _pair(blob: bytes, *, can_train: bool) -> tuple[Speed | None, Speed]:
    """Both trainers, in turns."""
    litert, keras = [], []
    for _ in range(_PAIRS):
        if can_train:
            litert.append(_alone(training.litert_speed, blob))
        keras.append(_alone(training.keras_speed, blob))
    return (_middle(litert) if litert else None), _middle(keras)


def _middle(runs: Sequence[Speed]) -> Speed:
    return Speed(
        round(statistics.median(run.samples_s for run in runs), 1),
        round(statistics.median(run.peak_mb for run in runs), 1),
    )


def _parity(name: str, bundle: Bundle) -> float:
    """Networks with dropout are built again without."""
    from benchmarks.zoo import build

    drops = any(getattr(layer, "rate", 0.0) for layer, _ in bundle.network.steps())
    blob = _alone(build.build_without_dropout, name) if drops else bundle.blob
    return round(_alone(training.parity, blob), 2)


def _exports(blob: bytes) -> tuple[tuple[Export, ...], float | None]:
    """Every format, and the median latency of the fp32 file in ms."""
    with tempfile.TemporaryDirectory() as directory:
        found = export(blob, DENSE_FORMATS, Path(directory))
        file = Path(directory) / Format.FP32.file
        rows = measure_latency([file], Settings()).models if file.exists() else ()
        latencies = [row.latency_ms.p50 for row in rows if isinstance(row, Latency)]
    return found, (round(latencies[0], 3) if latencies else None)
