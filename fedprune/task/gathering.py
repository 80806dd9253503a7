"""The statistics that a task lacks: what devices are asked for, and the task once they are known.

They are gathered in a round of their own before the first one, with the codec `GATHERING`; a device's update is its
statistics. Then they are frozen: the task that holds them is another one, by its digest, and all rounds are of that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fedprune.data import Data, Dataset, Examples, fit_to, load_examples, read_examples
from fedprune.data.description import Normalization
from fedprune.data.normalization import inputs_of, lacks_statistics, targets_of, with_normalization
from fedprune.data.statistics import (
    MIN_EXAMPLES,
    ColumnStatistics,
    DeviceStatistics,
    Wanted,
    check_statistics,
    columns_of,
    pooled,
    statistics_of,
    unpack_statistics,
)
from fedprune.errors import ProtocolError
from fedprune.task.bundle import Bundle, Task, read_bundle, write_bundle


def is_incomplete(task: Task) -> bool:
    """True for a task whose statistics have yet to be gathered."""
    return lacks_statistics(task.data)


def own_statistics(task: Task, data: Examples) -> DeviceStatistics:
    """A device's statistics, of data as `statistics_for` takes them; empty of fewer than `MIN_EXAMPLES`."""
    return statistics_for(task, data) if len(data) >= MIN_EXAMPLES else DeviceStatistics()


def statistics_for(task: Task, data: Examples) -> DeviceStatistics:
    """The statistics that the task lacks, of data that fit it and were not normalised.

    Raises `DataError` for numbers that statistics cannot hold.
    """
    inputs, targets = wanted_of(task)
    return DeviceStatistics(
        None if inputs is None else statistics_of(data.inputs["x"], inputs),
        None if targets is None else statistics_of(data.labels["y"], targets),
    )


def checked_statistics(blob: bytes, task: Task, examples: int) -> DeviceStatistics:
    """The statistics of so many examples, whose bytes are anybody's. Raises `ProtocolError`."""
    statistics = unpack_statistics(blob)
    if statistics.is_empty:
        return statistics
    if examples < MIN_EXAMPLES:
        raise ProtocolError(
            f"its statistics are of {examples} examples; those of fewer than {MIN_EXAMPLES} stay at home"
        )
    inputs, targets = wanted_of(task)
    check_statistics(statistics.inputs, inputs, examples, "inputs")
    check_statistics(statistics.targets, targets, examples, "targets")
    return statistics


def completed(task: Task, given: Sequence[tuple[DeviceStatistics, float]]) -> Data:
    """The task's data with the statistics of all devices together, each with the share of it that counts.

    One of `given` at least is not empty.
    """
    data, (inputs, targets) = task.data, wanted_of(task)
    return with_normalization(
        data,
        _pooled(inputs, [(each.inputs, share) for each, share in given]) or inputs_of(data),
        _pooled(targets, [(each.targets, share) for each, share in given]) or targets_of(data),
    )


def load_to_look(path: Path, bundle: Bundle) -> Dataset:
    """The examples as the task's model takes them, to look at them before there is a run: the statistics that the task
    lacks are their own.

    Raises `DataError` for examples that cannot be used, or do not fit the task.
    """
    task, inputs, form = bundle.task, bundle.network.input_forms, bundle.task.data
    if is_incomplete(task):
        raw = fit_to(read_examples(path, form), inputs, task.output_forms)
        form = completed(task, [(statistics_for(task, raw), 1.0)])
    return fit_to(load_examples(path, form), inputs, task.output_forms)


def with_data(bundle: Bundle, data: Data) -> Bundle:
    """The bundle of the same task with other data."""
    weights = bundle.initial_weights() if bundle.task.initial is None else None
    task = msgspec.structs.replace(bundle.task, data=data)
    return read_bundle(
        write_bundle(task, network=bundle.network, weights=weights, graphs=bundle.graphs, head=bundle.head)
    )


def wanted_of(task: Task) -> tuple[Wanted | None, Wanted | None]:
    """What the task lacks: statistics of its only input, of its only output, or of both."""
    return (
        _wanted(inputs_of(task.data), task.input_shapes[0]),
        _wanted(targets_of(task.data), task.outputs[0].shape),
    )


def _wanted(normalization: Normalization | None, shape: Sequence[int]) -> Wanted | None:
    if normalization is None or not normalization.lacks_statistics:
        return None
    columns = columns_of(shape)
    return Wanted(normalization, columns, math.prod(shape) // columns)


def _pooled(wanted: Wanted | None, given: Sequence[tuple[ColumnStatistics | None, float]]) -> Normalization | None:
    there = [(statistics, share) for statistics, share in given if statistics is not None]
    return None if wanted is None else pooled(there, wanted)
