"""The training graph that a device writes for itself, from the description of the network.

It is one of those that were proven when the task was built, which its digest tells. The graph, and which runtime has
passed its self-check, are remembered on disk, so that each is made once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

import msgspec

from fedprune.errors import TaskError
from fedprune.graph.training import write_training_graph
from fedprune.runtime.self_check import ProvenGraph, RuntimeUnfit, run_self_check
from fedprune.runtime.training_graph import TrainingGraph
from fedprune.system.disk import Disk
from fedprune.system.usage import device_memory_mb
from fedprune.task.bundle import Bundle

_GRAPH = "training-graph.tflite"
_WRITTEN = "training-graph.json"
_CHECKED = "self-check.json"
_Record = TypeVar("_Record", bound=msgspec.Struct)
_SHARE_OF_MEMORY = 0.25
"""The part of a device's memory that the values of a batch may take."""


class _Written(msgspec.Struct, frozen=True):
    """What the graph on the disk was written from, and what was made of it.

    `source` is the SHA-256 (hex) of network, tensor table, losses and batch size. The graph's own digest would not do:
    a sender could give that of another task's graph, or understate the memory.
    """

    source: str
    sha256: str
    memory_bytes: int


class _Checked(msgspec.Struct, frozen=True):
    """`graph` is the SHA-256 (hex) of a training graph and its self-check."""

    graph: str
    runtime: str
    version: str


def prepare_device_graph(
    bundle: Bundle, examples: int, disk: Disk | None, *, threads: int
) -> Callable[[], TrainingGraph]:
    """Write and check the training graph for this device and its number of examples; the result loads it.

    A loaded graph takes two or three times the model's memory, so that it is loaded for each round anew. Without a disk
    nothing is remembered. Raises `TaskError` if the task has none; `RuntimeUnfit` if another comes out here, or none
    has room; what `run_self_check` does; `ExportError` if nothing here can run it; `StorageError` if the disk refuses.
    """
    if not bundle.graphs:
        raise TaskError(f"task {bundle.task.name!r} has no training graph; train it with the keras trainer")
    memory_mb, proven = device_memory_mb(), chosen_graph(bundle, examples)
    if proven.memory_bytes > memory_mb * 1e6:
        needed_mb = proven.memory_bytes / 1e6
        raise RuntimeUnfit(
            f"task {bundle.task.name!r}: batches of {proven.batch_size} take {needed_mb:.0f} MB, and this device has "
            f"{memory_mb:.0f}; build the task with a smaller batch size or model"
        )
    load = partial(TrainingGraph, _written(bundle, proven, disk), bundle.task.tensors, threads=threads)
    _check_runtime(bundle, proven, load(), disk)
    return load


def chosen_graph(bundle: Bundle, examples: int) -> ProvenGraph:
    """The proven graph that this device takes with so many examples."""
    room = int(device_memory_mb() * 1e6 * _SHARE_OF_MEMORY)
    return choose_graph(bundle.graphs, bundle.task.training.batch_size, examples, room)


def choose_graph(graphs: Iterable[ProvenGraph], batch_size: int, examples: int, room: int) -> ProvenGraph:
    """The graph of the largest batch that is no larger than `batch_size`, than the device's `examples` fill, and than
    `room` bytes; of the smallest if all are."""
    by_size = sorted(graphs, key=lambda graph: graph.batch_size)
    allowed = [graph for graph in by_size if graph.batch_size <= batch_size] or by_size[:1]
    filled = sum(graph.batch_size < examples for graph in allowed)  # the next one already holds all examples
    fitting = [graph for graph in allowed[: filled + 1] if graph.memory_bytes <= room]
    return (fitting or allowed)[-1 if fitting else 0]


def _written(bundle: Bundle, proven: ProvenGraph, disk: Disk | None) -> bytes:
    """The graph's bytes, from the disk if they are there."""
    task = bundle.task
    source = [bundle.network, task.tensors, task.objectives, proven.batch_size]
    expected = _Written(_digest(msgspec.json.encode(source)), proven.sha256, proven.memory_bytes)
    if disk is not None and remembered(disk, _WRITTEN, _Written) == expected:
        kept = disk.read(_GRAPH)
        if kept is not None and _digest(kept) == proven.sha256:
            return kept
    written = write_training_graph(bundle.network, task.table, task.objectives, proven.batch_size)
    if (_digest(written.blob), written.memory_bytes) != (proven.sha256, proven.memory_bytes):
        raise RuntimeUnfit(
            f"task {task.name!r}: this version of fedprune writes another training graph than the one that built the "
            "task; install that version, or build the task again"
        )
    if disk is not None:
        disk.write(_GRAPH, written.blob)
        disk.write(_WRITTEN, msgspec.json.encode(expected))
    return written.blob


def _check_runtime(bundle: Bundle, proven: ProvenGraph, graph: TrainingGraph, disk: Disk | None) -> None:
    """Run the self-check unless it has passed. The last one is remembered: a device serves one federation at a time."""
    checked = _Checked(_digest(msgspec.json.encode(proven)), graph.runtime.name, graph.runtime.version)
    if disk is None or remembered(disk, _CHECKED, _Checked) != checked:
        run_self_check(graph, bundle.task.tensors, proven.self_check)
        if disk is not None:
            disk.write(_CHECKED, msgspec.json.encode(checked))


def remembered(disk: Disk, name: str, kind: type[_Record]) -> _Record | None:
    """A record on the disk. None if there is nothing that can be read: then what it tells of is made again."""
    try:
        return msgspec.json.decode(disk.read(name) or b"", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()
