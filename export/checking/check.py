"""What would fail or be slow on a device, found on the workstation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from export.checking.costs import RoundBytes, drawn_inputs, round_bytes, step_seconds
from export.checking.devices import (
    BASIS,
    BYTES_A_PARAMETER,
    DEVICES,
    PROCESS_MB,
    SHARE_FOR_A_BATCH,
    DeviceClass,
)
from export.converter import ConverterProcess, Job
from export.report import Format
from fedprune.codecs import Codec
from fedprune.data import Dataset
from fedprune.errors import ExportError, FedpruneError
from fedprune.runtime.self_check import ProvenGraph
from fedprune.system.paths import path_text
from fedprune.task.bundle import Bundle, read_bundle
from fedprune.task.gathering import load_to_look

SLOW_S = 600.0
"""A round that takes longer misses the first deadline unless rounds.deadline_s is set."""

_FEW_EXAMPLES = 32
_CALIBRATED = 50
"""Examples with which int8 is tried."""

Verdict = Literal["good", "look", "fails"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: it is good, a person should look at it, or it would fail."""

    what: str
    verdict: Verdict
    says: str


class DeviceRow(msgspec.Struct, frozen=True):
    """A device class: the batch that it would take, and estimates of memory and time. `batch_size` is 0 and the seconds
    are None where nothing trains there."""

    device: str
    verdict: Verdict
    batch_size: int
    memory_mb: float
    step_s: float | None
    round_s: float | None
    says: str


class Check(msgspec.Struct, frozen=True):
    """The output of ``--json``. `basis` says what the devices' estimates are from; `step_s` are this machine's by batch
    size."""

    task: str
    findings: tuple[Finding, ...]
    devices: tuple[DeviceRow, ...] = ()
    bytes_a_round: RoundBytes | None = None
    step_s: dict[int, float] = {}
    basis: str = BASIS

    @property
    def fails(self) -> bool:
        """True if something would fail: on a device only if on all that were looked at."""
        rows = [row.verdict == "fails" for row in self.devices]
        return any(finding.verdict == "fails" for finding in self.findings) or (bool(rows) and all(rows))


def check_task(
    name: str,
    build: Callable[[], bytes],
    data: Path | None,
    codec: Codec,
    devices: Sequence[DeviceClass] = DEVICES,
    formats: Sequence[Format] = tuple(Format),
    on_step: Callable[[str], None] = lambda _: None,
) -> Check:
    """Build the task and look at it from all sides; what would fail is a finding and no error.

    The exports to `formats` are tried, which takes most of the time. `on_step` is called with what is begun.
    """
    with _warnings() as warnings:
        try:
            bundle = read_bundle(build())
        except FedpruneError as error:
            return Check(name, (Finding("build", "fails", str(error)),))
    findings = [_model(bundle), *(Finding("build", "look", line) for line in warnings), _graphs(bundle)]
    if data is not None:
        on_step(f"Reading {path_text(data)}")
    examples, of_data = _data(bundle, data)
    findings += of_data
    if formats:
        on_step(f"Trying exports: {', '.join(formats)}")
    findings += _exports(bundle, examples, formats)
    on_step("Measuring a step of training here")
    steps: dict[int, float] = {}
    rows = tuple(_device(bundle, device, examples, steps) for device in devices)
    return Check(name, tuple(findings), rows, round_bytes(bundle, codec, _final_sparsity(bundle)), steps)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the build warns of."""
    lines: list[str] = []

    class _Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    listener, log = _Listener(logging.WARNING), logging.getLogger("export")
    propagates, log.propagate = log.propagate, False
    log.addHandler(listener)
    try:
        yield lines
    finally:
        log.removeHandler(listener)
        log.propagate = propagates


def _final_sparsity(bundle: Bundle) -> float:
    schedule = bundle.task.pruning.schedule
    return schedule.target_sparsity if schedule.end_step < 0 else schedule.sparsity_in_force(schedule.end_step)


def _model(bundle: Bundle) -> Finding:
    table = bundle.task.table
    shapes = ", ".join("x".join(map(str, shape)) or "a number" for shape in bundle.task.input_shapes)
    outputs = ", ".join("x".join(map(str, output.shape)) for output in bundle.task.outputs)
    return Finding(
        "model", "good", f"{shapes} to {outputs}; {table.parameters:,} weights, {table.prunable:,} may be pruned"
    )


def _graphs(bundle: Bundle) -> Finding:
    if not bundle.graphs:
        return Finding(
            "training",
            "fails",
            "no training graph was proven: only devices with TensorFlow, and 1.5 GB of memory, can train it",
        )
    sizes = ", ".join(str(graph.batch_size) for graph in bundle.graphs)
    return Finding("training", "good", f"without TensorFlow in batches of {sizes}")


def _data(bundle: Bundle, path: Path | None) -> tuple[Dataset | None, list[Finding]]:
    if path is None:
        return None, [Finding("data", "look", "not looked at; name a device's examples with --data")]
    try:
        data = load_to_look(path, bundle)
    except FedpruneError as error:
        return None, [Finding("data", "fails", str(error))]
    few = len(data) < _FEW_EXAMPLES
    found = [Finding("data", "look" if few else "good", f"{len(data):,} examples{', which are few' if few else ''}")]
    names = getattr(bundle.task.data, "labels", ())
    if names and data.class_numbers is not None:
        seen = set(data.class_numbers.tolist())
        if missing := [name for number, name in enumerate(names) if number not in seen]:
            found.append(Finding("labels", "look", f"no example of {', '.join(missing)[:200]}"))
    return data, found


def _exports(bundle: Bundle, examples: Dataset | None, formats: Sequence[Format]) -> Iterator[Finding]:
    """Each format of the initial model; a conversion that crashes costs its format alone."""
    x = list(drawn_inputs(bundle.network, _CALIBRATED))
    if examples is not None:
        x = [array[:_CALIBRATED] for array in examples.inputs.values()]
    weights = {name: np.asarray(array) for name, array in bundle.initial_weights().items()}
    with ConverterProcess(Job(bundle.network, bundle.task.tensors, weights, x, x)) as converter:
        for form in formats:
            try:
                size = len(converter.convert(form))
            except FedpruneError as error:
                yield Finding(f"export {form}", "fails", str(error))
            else:
                yield Finding(f"export {form}", "good", f"{size / 1000:,.1f} kB before pruning")


def _device(bundle: Bundle, device: DeviceClass, examples: Dataset | None, steps: dict[int, float]) -> DeviceRow:
    """`steps` remembers this machine's seconds by batch size."""
    graph = _chosen(bundle, device)
    if graph is None:
        return DeviceRow(device.name, "fails", 0, PROCESS_MB, None, None, "nothing trains there without TensorFlow")
    held = 0 if examples is None else sum(x.nbytes for x in examples.inputs.values())
    memory_mb = PROCESS_MB + (graph.memory_bytes + BYTES_A_PARAMETER * bundle.task.table.parameters + held) / 1e6
    try:
        if graph.batch_size not in steps:
            steps[graph.batch_size] = step_seconds(bundle, graph.batch_size)
    except ExportError as error:
        return DeviceRow(device.name, "fails", graph.batch_size, memory_mb, None, None, str(error))
    step_s = device.times * steps[graph.batch_size]
    round_s = step_s * bundle.task.training.steps_per_round
    row = DeviceRow(device.name, "good", graph.batch_size, memory_mb, step_s, round_s, "")
    if memory_mb > device.free_mb:
        says = f"has about {device.free_mb:.0f} MB: take a smaller model or batch_size"
        return msgspec.structs.replace(row, verdict="fails", says=says)
    if round_s > SLOW_S:
        says = f"longer than the first deadline of {SLOW_S:.0f} s: set rounds.deadline_s, or lower steps_per_round"
        return msgspec.structs.replace(row, verdict="look", says=says)
    return row


def _chosen(bundle: Bundle, device: DeviceClass) -> ProvenGraph | None:
    """The graph of the batch that the device would take: the largest of those that it has room for, or the smallest."""
    by_size = sorted(bundle.graphs, key=lambda graph: graph.batch_size)
    allowed = [graph for graph in by_size if graph.batch_size <= bundle.task.training.batch_size] or by_size[:1]
    room = device.memory_mb * 1e6 * SHARE_FOR_A_BATCH
    fitting = [graph for graph in allowed if graph.memory_bytes <= room]
    return fitting[-1] if fitting else next(iter(allowed), None)
