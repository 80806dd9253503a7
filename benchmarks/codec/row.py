"""The figures of a chain."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

DRAWN, UPDATES, DELTAS = "drawn", "updates", "deltas"

MAGNITUDE_BYTES = 4
"""Of what ternary values have in common."""


class Row(msgspec.Struct, frozen=True):
    """A chain on updates of so many parameters: one that was `drawn`, or the `updates` or `deltas` of a federation, of
    which there were `messages`. Bytes and sparsity are means over these. Speeds are MB of dense fp32 a second.

    With `history`, which codes positions and signs together, the signs count among the positions.
    """

    of: str
    chain: str
    messages: int
    parameters: int
    sparsity: float
    encode_mb_s: float
    decode_mb_s: float
    memcpy_mb_s: float
    bytes: int
    position_bytes: int
    position_entropy_bytes: float
    value_bytes: int
    value_entropy_bytes: float

    @property
    def coder(self) -> str:
        """The chain's last word."""
        return self.chain.split()[-1]

    @property
    def milliseconds(self) -> float:
        """To encode and decode one."""
        return 4e-3 * self.parameters * (1 / self.encode_mb_s + 1 / self.decode_mb_s)

    @property
    def of_entropy(self) -> float:
        """The bytes of positions and signs of ternary values over their entropy."""
        coded = self.position_bytes + self.value_bytes - MAGNITUDE_BYTES
        return coded / (self.position_entropy_bytes + self.value_entropy_bytes)


def seconds(work: Callable[[], object], repetitions: int) -> float:
    """Of processor time, the least of so many."""
    times = []
    for _ in range(repetitions):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return max(min(times), 1e-9)


def mb_s(parameters: int, taken: float) -> float:
    return round(4e-6 * parameters / taken, 1)


def copy_mb_s(parameters: int, repetitions: int) -> float:
    """How fast memory of an update's size is copied."""
    source, copy = np.ones(parameters, np.float32), np.zeros(parameters, np.float32)
    return mb_s(parameters, seconds(lambda: np.copyto(copy, source), repetitions))


def entropy(vectors: Iterable[NDArray[Any]]) -> float:
    """Bytes of independent values that occur in each vector as often as these."""
    return sum(_entropy(vector) for vector in vectors)


def _entropy(values: NDArray[Any]) -> float:
    _, counts = np.unique(values, return_counts=True)
    return float(-(counts * np.log2(counts / max(1, values.size))).sum()) / 8
