"""The report of a demo: `result.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from aggregator.book import Book, RoundRecord
from fedprune.task.bundle import Bundle


class RoundResult(msgspec.Struct, frozen=True):
    """One round, counted from 1. Bytes are MQTT payloads, summed over the agents, `mqtt_up` and `mqtt_down` those of
    whole packets, of so many messages; seconds are wall time.

    The demo's model is a classifier, which always has an `accuracy`, one of the task's `metrics`; `loss` is None where
    its outputs are not finite. `train_seconds` is the slowest agent's training: the rest of `seconds` is overhead,
    evaluation included. `bytes_written` is what the aggregator had written to disks. `left_out` counts updates that the
    merge did without, `suspects` are agents that stand apart (see `RoundRecord`).
    """

    round: int
    agents: int
    accuracy: float
    loss: float | None
    metrics: dict[str, float | None]
    sparsity: float
    bytes_up: int
    bytes_down: int
    bytes_up_by_kind: dict[str, int]
    bytes_down_by_kind: dict[str, int]
    mqtt_up: int
    mqtt_down: int
    messages_up: int
    messages_down: int
    seconds: float
    train_seconds: float
    kept: bool
    left_out: int
    suspects: tuple[str, ...]
    bytes_written: int | None


class ModelResult(msgspec.Struct, frozen=True):
    """The final global model. `prunable` counts the scalars that may be pruned, `sparsity` is theirs. Exported files
    have `exported_parameters`: fewer where units were removed."""

    parameters: int
    exported_parameters: int
    prunable: int
    sparsity: float
    accuracy: float


class PeakMemory(msgspec.Struct, frozen=True):
    """High-water marks in MB, as the kernel reports them; of the agents, the largest."""

    aggregator: float
    agent_idle: float
    agent: float


class ExportResult(msgspec.Struct, frozen=True):
    """One exported file; `path` is relative to the demo's directory.

    `accuracy` is None where no runtime here runs the file, `p50_ms` where the benchmark failed with it.
    """

    path: str
    format: str
    bytes: int
    bytes_compressed: int
    accuracy: float | None
    p50_ms: float | None


class DemoResult(msgspec.Struct, frozen=True):
    settings: dict[str, Any]
    source: str
    rounds: list[RoundResult]
    model: ModelResult
    peak_memory_mb: PeakMemory
    exports: list[ExportResult]


def round_result(record: RoundRecord) -> RoundResult:
    fields = {name: getattr(record, name) for name in RoundResult.__struct_fields__}
    return RoundResult(**{**fields, "round": record.round + 1})


def model_result(bundle: Bundle, last: RoundResult, exports: Path) -> ModelResult:
    table = bundle.task.table
    exported = msgspec.json.decode((exports / "exports.json").read_bytes())["parameters"]
    return ModelResult(table.parameters, exported, table.prunable, last.sparsity, last.accuracy)


def peak_memory(book: Book, records: Sequence[RoundRecord]) -> PeakMemory:
    updates = book.updates()
    return PeakMemory(
        aggregator=max(record.peak_memory_mb for record in records),
        agent_idle=max(update.idle_memory_mb for update in updates),
        agent=max(update.peak_memory_mb for update in updates),
    )


def export_results(out: Path, exports: Path, benchmark: Path) -> list[ExportResult]:
    """Join what the export and the benchmark wrote down of each file."""
    described = msgspec.json.decode((exports / "exports.json").read_bytes())
    measured = {Path(row["path"]).name: row for row in msgspec.json.decode(benchmark.read_bytes())["models"]}
    return [
        ExportResult(
            path=str((exports / entry["path"]).relative_to(out)),
            format=entry["format"],
            bytes=entry["bytes"],
            bytes_compressed=entry["bytes_compressed"],
            accuracy=entry["metrics"].get("accuracy"),
            p50_ms=measured[entry["path"]].get("latency_ms", {}).get("p50"),
        )
        for entry in described["exports"]
    ]
