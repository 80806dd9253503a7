"""Reports of benchmarks as tests need them: of a quiet machine."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from benchmarks.latency.conditions import Conditions
from benchmarks.latency.results import Latency, Measured, Report
from benchmarks.latency.this_machine import Machine
from fedprune.system.conditions import Reading

QUIET = Reading(
    load_average=0.1,
    governor="performance",
    frequency_mhz=1500.0,
    max_frequency_mhz=1500.0,
    temperature_c=45.0,
    throttling=(),
    available_memory_mb=700.0,
)
"""Of an idle Raspberry Pi."""


def quiet(**changes: Any) -> Conditions:
    """The conditions of a benchmark that nothing disturbed, but for the changes."""
    conditions = Conditions(QUIET, QUIET, QUIET, elapsed_s=10.0, others_cores=0.02, stolen_cores=0.0)
    return msgspec.structs.replace(conditions, **changes)


def measured(path: str, **changes: Any) -> Measured:
    row = Measured(
        path=path,
        num_threads=1,
        bytes=1000,
        sha256="0" * 64,
        input_shapes=((1, 28, 28, 1),),
        init_ms=1.5,
        latency_ms=Latency(min=0.9, p50=1.0, p90=1.1, p99=1.2, mean=1.0, std=0.1),
        medians_ms=(0.98, 1.0, 1.02, 1.0, 0.99, 1.01),
        peak_memory_mb=50.0,
        ratio=None,
        scaling=None,
        sparse_kernels=None,
    )
    return msgspec.structs.replace(row, **changes)


def report_of(*rows: Measured) -> Report:
    return Report(
        time=datetime(2026, 11, 26, 6, tzinfo=UTC),
        machine=Machine("Cortex-A72", 4, "aarch64", "Raspberry Pi 4", "Debian 12", "3.11.2", 64),
        runtime="ai-edge-litert 2.3.0",
        num_threads=(1,),
        num_runs=100,
        warmup_runs=10,
        reference=rows[0].path,
        models=rows,
        conditions=quiet(),
        flags=(),
    )
