"""The record of a round that was merged: what the book keeps of it, and people are told."""

from __future__ import annotations

import math
from collections.abc import Mapping

from aggregator.book import MOST_NAMES, AcceptedUpdate, RoundRecord
from aggregator.round_merge import MergedRound
from aggregator.traffic import TrafficCount
from fedprune.model.tensors import TensorTable, sparsity
from fedprune.system.usage import peak_memory_mb


def round_record(
    round_: int,
    updates: Mapping[str, AcceptedUpdate],
    merged: MergedRound,
    table: TensorTable,
    suspects: list[str],
    counts: Mapping[str, int],
    up: TrafficCount,
    down: TrafficCount,
    *,
    seconds: float,
) -> RoundRecord:
    """The record of a round with `updates`, which took so many seconds. `counts` are those of messages and members, by
    the record's own names; `up` and `down` what went over the network meanwhile."""
    evaluation = merged.evaluation
    taken = [update for agent, update in updates.items() if agent not in merged.left_out] or [*updates.values()]
    return RoundRecord(
        round=round_,
        agents=len(updates),
        evaluated_version=merged.evaluated_version,
        loss=evaluation.loss if math.isfinite(evaluation.loss) else None,
        metrics=dict(evaluation.metrics),
        spreads=merged.spreads,
        sparsity=sparsity(merged.model.checkpoint.weights, table),
        bytes_up=sum(up.by_kind.values()),
        bytes_down=sum(down.by_kind.values()),
        seconds=seconds,
        train_seconds=max(update.train_seconds for update in updates.values()),
        train_loss=sum(update.loss * update.weight for update in taken) / sum(update.weight for update in taken),
        ignored=counts.get("ignored", 0),
        refused=counts.get("refused", 0),
        capped=counts.get("capped", 0),
        peak_memory_mb=peak_memory_mb(),
        kept=merged.kept,
        left_out=len(merged.left_out),
        outliers=tuple(merged.named[:MOST_NAMES]),
        suspects=tuple(suspects[:MOST_NAMES]),
        delta_norm=merged.norms.delta,
        statistics_norm=merged.norms.statistics,
        bytes_up_by_kind=up.by_kind,
        bytes_down_by_kind=down.by_kind,
        mqtt_up=up.mqtt_bytes(down),
        mqtt_down=down.mqtt_bytes(up),
        messages_up=up.messages,
        messages_down=down.messages,
        led_astray=counts.get("led_astray", 0),
    )
