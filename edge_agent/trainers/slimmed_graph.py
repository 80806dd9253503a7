"""The training graph of a network that has lost units: written on the device, and compared before it is used.

No bundle can have its digest, nor what tf_keras answers. What it has is what the whole graph was proven and checked by:
on the same probes the smaller graph must give what the whole one gives with these units masked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np

from edge_agent.trainers.device_graph import chosen_graph, remembered
from edge_agent.trainers.slimming import MOST_DRAWS, RELATIVE, SlimmedDiffers
from fedprune.graph.training import write_training_graph
from fedprune.model.tensors import Array, TensorSpec
from fedprune.runtime.self_check import Case, Probe, SelfCheck, draw_case, outputs_of, sums_of
from fedprune.runtime.training_graph import TrainingGraph
from fedprune.system.disk import Disk
from fedprune.task.bundle import Bundle
from fedprune.task.forms import Form

_COMPARED = "slimmed-graph.json"
_NOISE = np.float32(0.9)
"""All that random layers are given to draw from, since the smaller network has fewer places for it."""

_Loader = Callable[[], TrainingGraph]
_Answers = dict[str, tuple[tuple[float, ...], float]]
"""For each output of a graph its sums under random signs, and its norm."""


class _Compared(msgspec.Struct, frozen=True):
    """The comparison that has passed: the SHA-256 (hex) of the smaller graph, and of the whole one with its
    self-check."""

    graph: str
    whole: str
    runtime: str
    version: str


def prepare_slimmed_graph(
    whole: Bundle, slimmed: Bundle, form: Form, load_whole: _Loader, examples: int, disk: Disk | None, *, threads: int
) -> _Loader:
    """Write the graph of the `slimmed` task, for batches as large as the whole one's; the result loads it.

    The comparison is made once: the disk remembers it. Raises `SlimmedDiffers` if it fails, `TaskError` if the graph
    cannot be written, `ExportError` if the runtime fails, `StorageError` if the disk refuses.
    """
    proven, task = chosen_graph(whole, examples), slimmed.task
    blob = write_training_graph(slimmed.network, task.table, task.objectives, proven.batch_size).blob
    load = partial(TrainingGraph, blob, task.tensors, threads=threads)
    runtime = load().runtime
    graph, told = (hashlib.sha256(each).hexdigest() for each in (blob, msgspec.json.encode(proven)))
    compared = _Compared(graph, told, runtime.name, runtime.version)
    if disk is None or remembered(disk, _COMPARED, _Compared) != compared:
        compare_graphs(load_whole, load, form, whole.task.tensors, proven.self_check)
        if disk is not None:
            disk.write(_COMPARED, msgspec.json.encode(compared))
    return load


def compare_graphs(
    load_whole: _Loader, load_slimmed: _Loader, form: Form, tensors: Sequence[TensorSpec], self_check: SelfCheck
) -> None:
    """Compare loss, gradients and statistics on each probe; where they differ, on other batches like it.

    A difference may be as large as the probe's tolerance, within which the whole graph has passed, or `RELATIVE` of
    what the whole graph gives. The two graphs are loaded one after the other: a device has no room for both. `tensors`
    are the whole table's. Raises `SlimmedDiffers`, and `ExportError` if the runtime fails.
    """
    probes, worst = list(self_check.probes), ("", 0.0)
    for draw in range(MOST_DRAWS):
        masked, slimmed = _Masked(form, tensors, draw), _Slimmed(form, tensors, draw)
        expected = masked.answers(load_whole(), probes)
        found = slimmed.answers(load_slimmed(), probes)
        excesses = [_excess(*each) for each in zip(probes, expected, found, strict=True)]
        probes = [probe for probe, (_, excess) in zip(probes, excesses, strict=True) if not excess <= 1.0]
        if not probes:
            return
        worst = max(excesses, key=lambda each: each[1])
    output, excess = worst
    name = "the loss" if output == "loss" else f"the gradient of {tensors[int(output[1:])].name[:80]}"
    raise SlimmedDiffers(
        f"without the units that are gone {name} is {excess:.2g} times as far off as it may be; fedprune or the "
        "runtime is at fault, please report it"
    )


@dataclass(frozen=True, eq=False)
class _Masked:
    """The whole network, of whose units those of `form` are left. `tensors` are the whole table's."""

    form: Form
    tensors: Sequence[TensorSpec]
    draw: int

    def answers(self, graph: TrainingGraph, probes: Sequence[Probe]) -> list[_Answers]:
        return [self._answer(graph, probe) for probe in probes]

    def _answer(self, graph: TrainingGraph, probe: Probe) -> _Answers:
        seed = probe.seed + self.draw
        drawn = draw_case(graph, self.tensors, seed, probe.examples, probe.scale)
        weights = self._weights(self.form.cut_all(drawn.weights))
        noise = [np.full_like(array, _NOISE) for array in drawn.noise]
        step = Case(weights, drawn.x, drawn.y, noise, np.ones_like(drawn.importance)).run(graph)
        outputs = {name: self._left(name, array) for name, array in outputs_of(step, self.tensors).items()}
        return {name: (sums_of(array, seed, name), float(np.linalg.norm(array))) for name, array in outputs.items()}

    def _weights(self, left: dict[str, Array]) -> dict[str, Array]:
        return dict(self.form.expanded(left))

    def _left(self, output: str, array: Array) -> Array:
        """What the smaller network has of an output."""
        return array if output == "loss" else self.form.cut(self.tensors[int(output[1:])].name, array)


class _Slimmed(_Masked):
    """The network without the other units."""

    def _weights(self, left: dict[str, Array]) -> dict[str, Array]:
        return left

    def _left(self, output: str, array: Array) -> Array:  # noqa: ARG002
        return array


def _excess(probe: Probe, expected: _Answers, found: _Answers) -> tuple[str, float]:
    """The output that differs most, and by how many times what it may. Numbers that float32 has no room for, of the
    masked network, tell nothing."""
    excesses = {"": 0.0}
    for output, (sums, norm) in expected.items():
        if np.isfinite(norm):
            tolerance = max(probe.answers[output].tolerance, RELATIVE * norm)
            excess = float(np.abs(np.subtract(sums, found[output][0])).max()) / tolerance
            excesses[output] = excess if excess == excess else np.inf  # NaN would be no maximum
    return max(excesses.items(), key=lambda item: item[1])
