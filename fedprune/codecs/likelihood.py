"""How likely each alive place is to be sent, next to the others of its tensor: logarithms of odds, as small integers.

They follow from where weights have moved since the run began, which all sides know (`fedprune.codecs.moved`), and from
what the agent itself has sent in its last updates (`fedprune.codecs.history`); those of a model's delta from how much
of each row and column the last deltas sent (`fedprune.codecs.model_history`). All tables were fitted to updates and
deltas of CNN-108k by the preset `frugal`. They are integers, and what is computed of them is, so that all machines
agree.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.history import MOST_UPDATES, BusyLines, Recalled, times_before
from fedprune.codecs.links import Places

LogOdds = NDArray[np.int16]
"""In quarters of a power of two."""

_SHARED = ((-3, 2), (-14, -6, -4, -3, -2, -1, -1, -1, -1, 0, 0, 0, 0, 1, 1, 2, 3, 4),
           (-13, -8, -5, -3, -3, -2, -2, -2, 0, -1, 0, 0, 1, 1, 2, 2, 4, 4))  # fmt: skip
"""Of a place that has not moved and of one that has; of one in a row, and in a column, of which nothing has moved, or
some sixteenths have. Where nothing is known of the agent."""

_BESIDE = ((-1, 1), (-10, -4, -2, -2, -1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1),
           (-10, -6, -3, -2, -1, 0, -1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1))  # fmt: skip
"""The same beside what is known of the agent."""

_SENT = (-6, -3, 0, 5, 9, 14, 18, 28,
         -9, -1, 7, 12, 14, 18, 18, 18,
         -6, 5, 10, 12, 13, 13, 13, 13,
         -2, 8, 8, 9, 9, 9, 9, 9,
         1, 7, 7, 7, 7, 7, 7, 7,
         1, 4, 4, 4, 4, 4, 4, 4,
         1, 2, 2, 2, 2, 2, 2, 2,
         1, 1, 1, 1, 1, 1, 1, 1)  # fmt: skip
"""Of a place that the agent sent last in its last update, in the one before, ..., by how often it had sent it before:
what was just sent is not owed any more, what was often sent is sent again. Of one that it has not sent it is 0."""

_OWN_ROW = (-7, -4, -4, -3, -2, -1, -1, -1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3)
_OWN_COLUMN = (-8, -9, -6, -5, -3, -3, -2, -1, -1, -1, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3)
"""Of one in a row, and in a column, of which the agent has sent nothing, or so many times some 32nds."""

_RATES = (1, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1024, 1448, 2048, 2896, 4096, 5793)
"""Shares of a line's alive places that a delta sends, in parts of 2^`_RATE_BITS`, half a power of two apart."""

_RATE_BITS = 13

_BUSY_ROW = (-17, -9, -8, -8, -8, -6, -5, -3, -2, -1, 0, 1, 3, 4, 6, 7, 8, 10, 10, 13)
_BUSY_COLUMN = (-14, -11, -11, -9, -7, -6, -5, -3, -2, 0, 2, 4, 6, 7, 9, 11, 12, 13, 13, 15)
"""Of one in a row, and in a column, of which the model's last deltas sent less than the first of these shares, or
from each of them on."""


class PlaceOdds:
    """The alive places of a tensor, row by row, and the logarithms of their odds.

    Args:
        mask: where the tensor's weights are kept, in its shape.
        moved: where they have moved, in the same shape.

    Example:
        >>> mask, moved = np.ones((2, 2), np.bool_), np.array([[True, False], [False, False]])
        >>> places = PlaceOdds(mask, moved)
        >>> places.shared.tolist(), places.of_agent(np.array([1, 0, 0, 0], np.uint8)).tolist()
        ([1, -16, -18, -30], [-2, -18, -16, -36])
    """

    def __init__(self, mask: Places, moved: Places) -> None:
        self._width = mask.shape[-1] if mask.ndim else 1
        self._index = np.flatnonzero(mask).astype(np.int32)
        self._moved = moved.reshape(-1)[self._index]
        self.size = self._index.size

    def alive(self, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The alive values of an array in the tensor's shape."""
        return array.reshape(-1)[self._index]

    @cached_property
    def shared(self) -> LogOdds:
        """The logarithms of the odds as all agents have them."""
        return self._of_moved(*map(_table, _SHARED))

    def of_agent(self, recalled: Recalled) -> LogOdds:
        """The same of an agent, of which it is `recalled` what it has sent in the alive places."""
        sent = np.flatnonzero(recalled)
        times = times_before(recalled[sent]).astype(np.int64) + 1
        log_odds = self._beside_history + self._of_lines(sent, times, 32, _table(_OWN_ROW), _table(_OWN_COLUMN))
        log_odds[sent] += _table(_SENT)[(recalled[sent] - 1) // 2]
        return log_odds

    def of_lines(self, lines: BusyLines) -> LogOdds:
        """The same of a model, whose last deltas have sent so much of each row and column."""
        log_odds = np.zeros(self.size, np.int16)
        for line, alive, counts, table in (
            (self._rows, self._alive_in_rows, lines.rows, _BUSY_ROW),
            (self._columns, self._alive_in_columns, lines.columns, _BUSY_COLUMN),
        ):
            rates = (counts[: alive.size] << _RATE_BITS) // (lines.each * alive)
            log_odds += _table(table)[np.searchsorted(np.array(_RATES), rates, side="right")][line]
        return log_odds

    @cached_property
    def _beside_history(self) -> LogOdds:
        return self._of_moved(*map(_table, _BESIDE))

    def _of_moved(self, of_itself: LogOdds, of_rows: LogOdds, of_columns: LogOdds) -> LogOdds:
        moved = np.flatnonzero(self._moved)
        once = np.ones(moved.size, np.int64)
        return of_itself[self._moved.view(np.uint8)] + self._of_lines(moved, once, 16, of_rows, of_columns)

    def _of_lines(
        self, places: NDArray[np.intp], times: NDArray[np.int64], parts: int, of_rows: LogOdds, of_columns: LogOdds
    ) -> LogOdds:
        """The logarithms of odds by how often something was in each row and column: at these alive places, so many
        times each. They are of nothing, and of each of the `parts` that it makes of the line's alive places."""
        log_odds = np.zeros(self.size, np.int16)
        for line, alive, table in (
            (self._rows, self._alive_in_rows, of_rows),
            (self._columns, self._alive_in_columns, of_columns),
        ):
            count = np.zeros(alive.size, np.int64)
            np.add.at(count, line[places], times)
            log_odds += table[np.where(count > 0, np.minimum(1 + parts * count // alive, table.size - 1), 0)][line]
        return log_odds

    @cached_property
    def _rows(self) -> NDArray[np.int32]:
        """The row of each alive place: all axes but the last."""
        return self._index // self._width

    @cached_property
    def _columns(self) -> NDArray[np.int32]:
        return self._index % self._width

    @cached_property
    def _alive_in_rows(self) -> NDArray[np.int64]:
        return np.maximum(np.bincount(self._rows), 1)

    @cached_property
    def _alive_in_columns(self) -> NDArray[np.int64]:
        return np.maximum(np.bincount(self._columns), 1)


def _table(values: tuple[int, ...]) -> LogOdds:
    return np.array(values, np.int16)


assert len(_SENT) == MOST_UPDATES**2
assert len(_BUSY_ROW) == len(_BUSY_COLUMN) == len(_RATES) + 1
