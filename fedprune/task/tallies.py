"""The tallies of an evaluation as bytes: what an agent tells of the examples that it holds out.

The bytes are MessagePack, a list for each metric in the task's order. Counts are mostly 0, so that they are pairs: how
many zeros come first, and the count that follows them. Sums of numbers are themselves. Where several outputs have a
histogram of scores, neighbouring bins are sent as one: together they have no more bins than one alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import msgspec
import numpy as np

from fedprune.errors import ProtocolError
from fedprune.model.metrics import Metric, Tally, metric_named
from fedprune.task.bundle import Task

_LIST_BYTES = 5
"""Before the numbers of a list."""

_NUMBER_BYTES = 14
"""Of a count with the zeros before it, which is more than a sum takes."""

_MOST_COUNTED = 2**62
"""By one tally, or by a sum of tallies, which int64 holds."""

MOST_SUMMED = 2**18
"""Tallies that are summed at most: neither a round nor a part has more updates."""

_MOST_OF_EACH = _MOST_COUNTED // MOST_SUMMED
"""That one of them counts, 2^44: whoever forged them, all have room in their sum."""

_LARGEST_SUM = 1e100
"""Of errors, in a sum of tallies: squares of float32 numbers come to 2^256, times 2^62 of them."""

_LARGEST_OF_EACH = _LARGEST_SUM / MOST_SUMMED
"""That one of them sums up to."""


def pack_tallies(tallies: Mapping[str, Tally]) -> bytes:
    """The bytes of the tallies of a task's metrics, which are by name and in the task's order."""
    merged = _bins_sent_as_one(tallies)
    return pack_unpacked({name: _coarser(name, tally, merged) for name, tally in tallies.items()})


def pack_unpacked(tallies: Mapping[str, Tally]) -> bytes:
    """The bytes of tallies as `unpack_tallies` gives them, or of sums of such."""
    return msgspec.msgpack.encode([_packed(tally) for tally in tallies.values()])


def most_tallies_bytes(task: Task) -> int:
    """Of the tallies of a task's metrics, at most, however many examples they are of."""
    shapes = (
        metric.form(form.objective.loss, form.shape[-1])[1]
        for form in task.output_forms
        for metric in form.named_metrics.values()
    )
    return _LIST_BYTES + sum(_LIST_BYTES + _NUMBER_BYTES * math.prod(shape) for shape in shapes)


def unpack_tallies(blob: bytes, task: Task, examples: int) -> dict[str, Tally]:
    """The tallies of so many examples, whose bytes are anybody's.

    Raises `ProtocolError` unless they are those of the task's metrics, and of no more examples.
    """
    most_bytes = most_tallies_bytes(task)
    if len(blob) > most_bytes:  # each byte may be a list, which takes 70 times as many once it is read
        raise ProtocolError(f"its evaluation takes {len(blob)} bytes, and any of the task's {most_bytes} at most")
    try:
        lists = msgspec.msgpack.decode(blob, type=list[list[int | float]])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(f"its evaluation: {error}") from error
    names = task.metrics
    if len(lists) != len(names):
        raise ProtocolError(f"its evaluation has {len(lists)} metrics, the task {len(names)}")
    merged, tallies = _bins_sent_as_one(names), dict[str, Tally]()
    metrics = ((form, name, metric) for form in task.output_forms for name, metric in form.named_metrics.items())
    for (form, name, metric), numbers in zip(metrics, lists, strict=True):
        dtype, shape = metric.form(form.objective.loss, form.shape[-1])
        shape = _coarser(name, np.zeros(shape, np.int64), merged).shape
        most = min(examples * math.prod(form.shape), _MOST_COUNTED)
        tally = _sums(numbers, shape) if dtype == np.float64 else _counts(numbers, shape, most)
        if tally is None or not metric.is_plausible(tally):
            raise ProtocolError(f"its evaluation: {name} is none of {examples} examples")
        tallies[name] = tally
    if not have_room(tallies):
        raise ProtocolError(
            f"its evaluation counts more than {_MOST_OF_EACH}, or sums up to more than {_LARGEST_OF_EACH:.2g}: sums of "
            "all have no room for it"
        )
    return tallies


def have_room(tallies: Mapping[str, Tally]) -> bool:
    """True if sums of `MOST_SUMMED` such tallies hold whatever they come to."""
    return all(
        tally.sum() <= (_LARGEST_OF_EACH if tally.dtype == np.float64 else _MOST_OF_EACH) for tally in tallies.values()
    )


def _bins_sent_as_one(names: Iterable[str]) -> int:
    """The power of 2 that is no less than the number of histograms."""
    histograms = sum(metric_named(name) is Metric.AUC for name in names)
    return 1 << max(histograms - 1, 0).bit_length()


def _coarser(name: str, tally: Tally, merged: int) -> Tally:
    """A tally as it is sent: of a histogram so many neighbouring bins are merged."""
    return tally.reshape(2, -1, merged).sum(axis=2) if metric_named(name) is Metric.AUC else tally


def _packed(tally: Tally) -> list[int] | list[float]:
    flat = tally.ravel()
    if tally.dtype == np.float64:
        return [float(each) for each in flat]
    places = np.flatnonzero(flat).tolist()
    gaps = (place - before - 1 for before, place in pairwise((-1, *places)))
    return [number for gap, place in zip(gaps, places, strict=True) for number in (gap, int(flat[place]))]


def _sums(numbers: Sequence[float], shape: tuple[int, ...]) -> Tally | None:
    """None for what is no such tally."""
    if len(numbers) != math.prod(shape) or not all(0 <= each <= _LARGEST_OF_EACH for each in numbers):
        return None
    return np.array(numbers, np.float64).reshape(shape)


def _counts(numbers: Sequence[float], shape: tuple[int, ...], most: int) -> Tally | None:
    """None for what is no such tally, or counts more than `most`."""
    flat, place = np.zeros(math.prod(shape), np.int64), -1
    if len(numbers) % 2 or not all(isinstance(each, int) and each >= 0 for each in numbers):
        return None
    for gap, count in zip(numbers[::2], numbers[1::2], strict=True):
        place += int(gap) + 1
        if place >= len(flat) or not 1 <= count <= most:
            return None
        flat[place] = count
    return flat.reshape(shape) if sum(numbers[1::2]) <= min(3 * most, _MOST_COUNTED) else None
