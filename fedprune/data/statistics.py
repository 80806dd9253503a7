"""Statistics of columns that each device gives of its own examples, and what they make together.

Devices give moments (Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
variances") or extremes. Their sums are correctly rounded (`math.fsum`), so that the order of devices changes no bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedprune.data.description import MAX_COLUMNS, MinMax, Normalization, Standard
from fedprune.data.stored_rows import Rows, in_parts
from fedprune.errors import DataError, ProtocolError

GATHERING = "statistics"
"""In the place of a codec: the update of the round is a device's statistics."""

MIN_EXAMPLES = 20
"""A device with fewer examples gives no statistics: they would tell of single ones."""

MOST_BYTES = 2**18
"""Of a device's statistics: 27 for each of `MAX_COLUMNS` inputs and as many targets, and the names of the fields."""

_LARGEST = 1e30
_RESOLUTION = 2.0**-22
"""A column that spreads by less than this part of its size is constant: float32 tells no more apart."""

_Counts = Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, le=2**53)], ...], msgspec.Meta(max_length=MAX_COLUMNS)]
_Values = Annotated[
    tuple[Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)], ...], msgspec.Meta(max_length=MAX_COLUMNS)
]
_Squares = Annotated[tuple[Annotated[float, msgspec.Meta(ge=0, le=1e77)], ...], msgspec.Meta(max_length=MAX_COLUMNS)]


class Moments(msgspec.Struct, frozen=True, tag_field="kind", tag="standard"):
    """Of each column the number of its values, their mean, and the sum of squared differences from it."""

    counts: _Counts
    means: _Values
    squares: _Squares


class Extremes(msgspec.Struct, frozen=True, tag_field="kind", tag="min-max"):
    """Of each column the number of its values, the smallest and the largest; 0 where there are no values."""

    counts: _Counts
    minima: _Values
    maxima: _Values


ColumnStatistics = Moments | Extremes


class DeviceStatistics(msgspec.Struct, frozen=True):
    """A device's statistics of what the task wants of it. Both are None where it has too few examples to give any."""

    inputs: ColumnStatistics | None = None
    targets: ColumnStatistics | None = None

    @property
    def is_empty(self) -> bool:
        return self.inputs is None and self.targets is None


@dataclass(frozen=True)
class Wanted:
    """The statistics that a task lacks: of so many columns, of which an example has `places` values each."""

    normalization: Normalization
    columns: int
    places: int


def columns_of(shape: Sequence[int]) -> int:
    """The columns or channels of an example that have statistics of their own: its last axis, or all numbers together
    where that is longer than `MAX_COLUMNS`.

    Example:
        >>> columns_of((96, 96, 3)), columns_of((100_000,))
        (3, 1)
    """
    return shape[-1] if shape and shape[-1] <= MAX_COLUMNS else 1


def statistics_of(values: Rows, wanted: Wanted) -> ColumnStatistics:
    """A device's own statistics.

    Args:
        values: `[examples, ..., columns]`. What is not a number is a missing value, and does not count.
        wanted: the statistics that are asked for.

    Raises:
        DataError: a value is beyond what statistics may hold.

    Example:
        >>> statistics_of(np.float32([[1, 5], [3, 5]]), Wanted(Standard(statistics="federated"), 2, 1))
        Moments(counts=(2, 2), means=(2.0, 5.0), squares=(2.0, 0.0))
    """
    columns = wanted.columns
    if any((np.abs(part) > _LARGEST).any() for part in _parts(values, columns)):
        raise DataError(f"a number is beyond {_LARGEST:g}, which statistics cannot hold; correct it")
    counts = sum(
        (np.count_nonzero(~np.isnan(part), axis=0) for part in _parts(values, columns)), np.zeros(columns, int)
    )
    nothing = np.zeros(columns)
    if isinstance(wanted.normalization, Standard):
        means = sum((np.nansum(part, axis=0) for part in _parts(values, columns)), nothing) / np.maximum(counts, 1)
        squares = sum((np.nansum(np.square(part - means), axis=0) for part in _parts(values, columns)), nothing)
        return Moments(_whole(counts), _floats(means), _floats(squares))
    lows = (np.where(np.isnan(part), np.inf, part).min(axis=0) for part in _parts(values, columns))
    highs = (np.where(np.isnan(part), -np.inf, part).max(axis=0) for part in _parts(values, columns))
    low, high, there = reduce(np.minimum, lows), reduce(np.maximum, highs), counts > 0
    return Extremes(_whole(counts), _floats(np.where(there, low, 0.0)), _floats(np.where(there, high, 0.0)))


def pack_statistics(statistics: DeviceStatistics) -> bytes:
    return msgspec.msgpack.encode(statistics)


def unpack_statistics(blob: bytes) -> DeviceStatistics:
    """Statistics of anybody's bytes: every number is finite and bounded. Raises `ProtocolError`."""
    try:
        return msgspec.msgpack.decode(blob, type=DeviceStatistics)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(f"its statistics: {error}") from error


def check_statistics(statistics: ColumnStatistics | None, wanted: Wanted | None, examples: int, of: str) -> None:
    """Raise `ProtocolError` unless a device's statistics are those that are wanted, of no more than its examples."""
    if wanted is None or statistics is None:
        if wanted is not None:
            raise ProtocolError(f"it gives no statistics of {of}, which the task asks for")
        if statistics is not None:
            raise ProtocolError(f"it gives statistics of {of}, which the task does not ask for")
        return
    kinds = {Standard: Moments, MinMax: Extremes}
    if not isinstance(statistics, kinds[type(wanted.normalization)]):
        raise ProtocolError(f"its statistics of {of} are of another kind than the task's")
    if {len(column) for column in msgspec.structs.astuple(statistics)} != {wanted.columns}:
        raise ProtocolError(f"its statistics of {of} are of other columns than the task's {wanted.columns}")
    if max(statistics.counts) > examples * wanted.places:
        raise ProtocolError(f"its statistics of {of} are of more values than its {examples} examples have")
    if isinstance(statistics, Extremes) and any(
        low > high for low, high in zip(statistics.minima, statistics.maxima, strict=True)
    ):
        raise ProtocolError(f"a minimum in its statistics of {of} is above the maximum")


def pooled(given: Sequence[tuple[ColumnStatistics, float]], wanted: Wanted) -> Normalization:
    """The normalisation by all devices' statistics together.

    A constant column is divided by 1, and one without any value is 0 before it.

    Args:
        given: statistics that were checked, each with the share of its values that counts, from 0 to 1.
        wanted: what they are of.

    Returns:
        The same for every order of `given`, to the last bit.

    Example:
        >>> first, second = Moments((2,), (1.0,), (2.0,)), Moments((2,), (5.0,), (2.0,))
        >>> pooled([(first, 1.0), (second, 1.0)], Wanted(Standard(statistics="federated"), 1, 1))
        Standard(mean=(3.0,), std=(2.23606797749979,), statistics='given')
    """
    columns = range(wanted.columns)
    if isinstance(wanted.normalization, Standard):
        moments = [(each, share) for each, share in given if isinstance(each, Moments)]
        pairs = [_pooled_moments(moments, column) for column in columns]
        return Standard(tuple(mean for mean, _ in pairs), tuple(std for _, std in pairs))
    extremes = [each for each, _ in given if isinstance(each, Extremes)]
    spans = [_pooled_extremes(extremes, column) for column in columns]
    return MinMax(tuple(low for low, _ in spans), tuple(high for _, high in spans))


def _pooled_moments(given: Sequence[tuple[Moments, float]], column: int) -> tuple[float, float]:
    """Mean and deviation of a column."""
    weights = [each.counts[column] * share for each, share in given]
    total = math.fsum(weights)
    if not total:
        return 0.0, 1.0
    means = [each.means[column] for each, _ in given]
    mean = math.fsum(weight * own for weight, own in zip(weights, means, strict=True)) / total
    within = [each.squares[column] * share for each, share in given]
    between = [weight * (own - mean) ** 2 for weight, own in zip(weights, means, strict=True)]
    std = min(math.sqrt(math.fsum([*within, *between]) / total), _LARGEST)
    return mean, 1.0 if _is_constant(std, mean) else std


def _pooled_extremes(given: Sequence[Extremes], column: int) -> tuple[float, float]:
    """Minimum and maximum of a column."""
    there = [each for each in given if each.counts[column]]
    low = min((each.minima[column] for each in there), default=0.0)
    high = max((each.maxima[column] for each in there), default=0.0)
    size = max(abs(low), abs(high))
    return low, low + max(1.0, _RESOLUTION * size) if _is_constant(high - low, size) else high


def _is_constant(spread: float, size: float) -> bool:
    return spread <= max(_RESOLUTION * abs(size), 1 / _LARGEST)


def _parts(values: Rows, columns: int) -> Iterator[NDArray[np.float64]]:
    """Rows `[rows, columns]`, some at a time."""
    return (part.reshape(-1, columns).astype(np.float64) for _, part in in_parts(values))


def _whole(values: NDArray[np.integer]) -> tuple[int, ...]:
    return tuple(int(value) for value in np.ravel(values))


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.ravel(values))
