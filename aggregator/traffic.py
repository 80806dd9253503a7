"""The bytes of a round, counted in one place each way, by what they are for."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum


class Traffic(StrEnum):
    """What bytes are for. A chunk counts with its envelope; a mask counts as part of the model that brings it."""

    MODEL = "model"
    UPDATE = "update"
    TASK = "task"
    CONTROL = "control"
    """Everything else: manifests, messages of both sides, presence."""


class TrafficCount:
    """MQTT payload bytes by kind, in one direction."""

    def __init__(self) -> None:
        self._counts: Counter[Traffic] = Counter()

    def add(self, kind: Traffic, size: int) -> None:
        self._counts[kind] += size

    def take(self) -> dict[str, int]:
        """What was counted since the last time."""
        counts, self._counts = self._counts, Counter()
        return {kind.value: counts[kind] for kind in Traffic if counts[kind]}
