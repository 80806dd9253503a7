"""The training graph of a device: which is chosen, that it is written once, and kept only while it is right."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from keras_bundles import bundle_of, convolutional, graph_of, perceptron, proven, seeded

from edge_agent.trainers import device_graph
from edge_agent.trainers.device_graph import choose_graph, prepare_device_graph
from fedprune.errors import TaskError
from fedprune.keras.stack import keras
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.runtime.self_check import ProvenGraph, RuntimeUnfit, SelfCheck, Sketch, run_self_check
from fedprune.runtime.tflite import default_runtime
from fedprune.runtime.training_graph import TrainingGraph
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle

KEPT, WRITTEN, CHECKED = "training-graph.tflite", "training-graph.json", "self-check.json"


def squashed() -> Any:
    """`perceptron`, with another function."""
    model = perceptron()
    model.layers[1].activation = keras.activations.tanh
    return model


def of(build: Any, *batch_sizes: int) -> Bundle:
    """A task whose own batch size is the last one."""
    schedule = ConstantSparsity(begin_step=0, frequency=1, target_sparsity=0.5)
    bundle = bundle_of(seeded(build()), schedule, mask=MaskPolicy.SHARED, batch_size=(batch_sizes or (16,))[-1])
    task = bundle.task
    graphs = tuple(proven(bundle.network, task.tensors, task.training.loss, size) for size in batch_sizes)
    return replace(bundle, graphs=graphs or bundle.graphs)


# Which graph

SIZES = {8: 100, 16: 200, 32: 400, 64: 800}
"""Batch sizes that were proven, and what they take."""


def chosen(batch_size: int, examples: int, room: int) -> int:
    graphs = [ProvenGraph(size, "0" * 64, memory, SelfCheck(())) for size, memory in SIZES.items()]
    return choose_graph(reversed(graphs), batch_size, examples, room).batch_size


@pytest.mark.parametrize(
    ("batch_size", "examples", "room", "size"),
    [
        (32, 1000, 10_000, 32),
        (64, 1000, 10_000, 64),
        (48, 1000, 10_000, 32),
        (100, 1000, 10_000, 64),
        (4, 1000, 10_000, 8),  # none is as small: the smallest
        (64, 33, 10_000, 64),  # all examples in one batch
        (64, 32, 10_000, 32),
        (64, 9, 10_000, 16),
        (64, 8, 10_000, 8),
        (64, 1, 10_000, 8),
        (64, 1000, 800, 64),
        (64, 1000, 799, 32),
        (64, 1000, 100, 8),
        (64, 1000, 99, 8),  # none has room: the smallest
        (32, 1000, 250, 16),
        (64, 9, 150, 8),
    ],
)
def test_the_batch_size_suits_task_examples_and_memory(batch_size: int, examples: int, room: int, size: int) -> None:
    assert chosen(batch_size, examples, room) == size


@pytest.mark.parametrize(("room", "examples", "size"), [("all", 100, 16), ("all", 5, 8), ("little", 100, 4)])
def test_a_device_takes_what_suits_it(room: str, examples: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = of(perceptron, 4, 8, 16)
    memory_mb = 4000.0 if room == "all" else bundle.graphs[0].memory_bytes / 1e6
    monkeypatch.setattr(device_graph, "device_memory_mb", lambda: memory_mb)

    graph = prepare_device_graph(bundle, examples, None, threads=1)()

    assert (graph.batch_size, graph.input_shapes) == (size, ((8, 8, 1),))


def test_what_no_device_of_this_size_can_train_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = of(perceptron)
    memory_mb = bundle.graphs[0].memory_bytes / 1e6
    monkeypatch.setattr(device_graph, "device_memory_mb", lambda: 0.9 * memory_mb)

    with pytest.raises(TaskError, match=r"batches of 16 take \d+ MB, and this device has \d+; build the"):
        prepare_device_graph(bundle, 50, None, threads=1)


def test_a_sender_that_understates_the_memory_is_refused(device: Device) -> None:
    bundle = of(perceptron)
    lying = replace(bundle, graphs=(msgspec.structs.replace(bundle.graphs[0], memory_bytes=1),))

    with pytest.raises(TaskError, match="writes another training graph"):
        device.start(lying)


def test_a_sender_that_understates_the_memory_of_a_remembered_graph_is_refused(device: Device) -> None:
    bundle = of(perceptron)
    device.start(bundle)
    lying = replace(bundle, graphs=(msgspec.structs.replace(bundle.graphs[0], memory_bytes=1),))

    with pytest.raises(TaskError, match="writes another training graph"):
        device.start(lying)


def test_a_sender_that_names_a_remembered_graph_of_another_network_is_refused(device: Device) -> None:
    """Of one tensor table, so that the graph would run."""
    bundle, other = of(perceptron), of(squashed)
    device.start(bundle)
    lying = replace(other, graphs=bundle.graphs)

    with pytest.raises(TaskError, match="writes another training graph"):
        device.start(lying)


# On the disk


class Device:
    """A device with a state directory, which counts what it writes and checks, and whose runtime may be changed."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.disk = Directory(path)
        self.written = self.checked = 0
        write = device_graph.write_training_graph
        monkeypatch.setattr(device_graph, "run_self_check", self._check)
        monkeypatch.setattr(device_graph, "write_training_graph", lambda *given: self._write(write, *given))
        self._patch = monkeypatch

    def start(self, bundle: Bundle) -> tuple[int, int]:
        """How many graphs a new process writes, and how many self-checks it runs, that trains `bundle`."""
        before = self.written, self.checked
        prepare_device_graph(bundle, 50, self.disk, threads=1)
        return self.written - before[0], self.checked - before[1]

    def upgrade(self, version: str) -> None:
        """Let the runtime be of another version."""
        runtime = replace(default_runtime(), version=version)
        graph = device_graph.TrainingGraph
        self._patch.setattr(
            device_graph, "TrainingGraph", lambda *given, **options: graph(*given, runtime=runtime, **options)
        )

    def _check(self, *given: Any) -> None:
        self.checked += 1
        run_self_check(*given)

    def _write(self, write: Any, *given: Any) -> Any:
        self.written += 1
        return write(*given)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(tmp_path, monkeypatch)


def test_a_graph_is_written_and_checked_once(device: Device) -> None:
    first, second = of(perceptron), of(convolutional)

    assert [device.start(first), device.start(first)] == [(1, 1), (0, 0)]
    assert device.disk.read(KEPT) == graph_of(first)
    assert [device.start(second), device.start(second)] == [(1, 1), (0, 0)]


def test_another_version_of_the_runtime_is_checked_again(device: Device) -> None:
    bundle = of(perceptron)
    device.start(bundle)

    device.upgrade("99.0")

    assert [device.start(bundle), device.start(bundle)] == [(0, 1), (0, 0)]


def test_another_self_check_of_one_graph_is_run(device: Device) -> None:
    bundle = of(perceptron)
    device.start(bundle)
    (graph,) = bundle.graphs
    (probe,) = graph.self_check.probes
    answers = {
        name: msgspec.structs.replace(sketch, tolerance=2 * sketch.tolerance) for name, sketch in probe.answers.items()
    }
    other = msgspec.structs.replace(graph, self_check=SelfCheck((msgspec.structs.replace(probe, answers=answers),)))

    assert device.start(replace(bundle, graphs=(other,))) == (0, 1)


@pytest.mark.parametrize(
    "damaged", [b"", b"noise", lambda graph: graph[:-1], lambda graph: bytes([graph[0] ^ 1]) + graph[1:]]
)
def test_a_graph_that_was_damaged_is_written_anew(device: Device, damaged: Any) -> None:
    bundle = of(perceptron)
    device.start(bundle)
    device.disk.write(KEPT, damaged if isinstance(damaged, bytes) else damaged(graph_of(bundle)))

    assert [device.start(bundle), device.start(bundle)] == [(1, 0), (0, 0)]
    assert device.disk.read(KEPT) == graph_of(bundle)


@pytest.mark.parametrize("record", [b"", b"{", b"\xff", b"[]", b'{"source": "", "sha256": "", "memory_bytes": 1}'])
def test_a_graph_of_which_nothing_is_remembered_is_written_anew(device: Device, record: bytes) -> None:
    bundle = of(perceptron)
    device.start(bundle)
    device.disk.write(WRITTEN, record)

    assert [device.start(bundle), device.start(bundle)] == [(1, 0), (0, 0)]


@pytest.mark.parametrize("record", [b"", b"{", b"\xff", b"[]", b'{"graph": "", "runtime": "", "version": ""}'])
def test_what_is_not_remembered_is_checked_again(device: Device, record: bytes) -> None:
    bundle = of(perceptron)
    device.start(bundle)
    device.disk.write(CHECKED, record)

    assert [device.start(bundle), device.start(bundle)] == [(0, 1), (0, 0)]


def test_a_failed_self_check_is_not_remembered(device: Device) -> None:
    right = of(perceptron)
    (graph,) = right.graphs
    (probe,) = graph.self_check.probes
    other = msgspec.structs.replace(probe, answers=probe.answers | {"g0": Sketch(1e-5, (1.0, 2.0, 3.0))})
    wrong = replace(right, graphs=(msgspec.structs.replace(graph, self_check=SelfCheck((other,))),))

    for checked in (1, 2):
        with pytest.raises(RuntimeUnfit):
            device.start(wrong)
        assert device.checked == checked
    assert CHECKED not in device.disk.names()


def test_the_graph_of_another_version_is_refused_in_one_line_and_not_kept(device: Device) -> None:
    bundle = of(perceptron)
    other = replace(bundle, graphs=(msgspec.structs.replace(bundle.graphs[0], sha256="0" * 64),))

    with pytest.raises(TaskError, match=r"writes another training graph .*; install that version, or") as caught:
        device.start(other)

    assert "\n" not in str(caught.value)
    assert device.disk.names() == []


def test_a_graph_that_was_put_on_the_disk_is_not_run(device: Device) -> None:
    """Whoever can write there, or what another task left."""
    first, second = of(perceptron), of(convolutional)
    device.disk.write(KEPT, graph_of(second))

    graph = prepare_device_graph(first, 50, device.disk, threads=1)()

    assert graph.trained == TrainingGraph(graph_of(first), first.task.tensors, threads=1).trained
    assert hashlib.sha256(device.disk.read(KEPT) or b"").hexdigest() == first.graphs[0].sha256


def test_a_task_without_graphs_is_for_the_keras_trainer() -> None:
    with pytest.raises(TaskError, match=r"has no training graph; train it with the keras trainer"):
        prepare_device_graph(replace(of(perceptron), graphs=()), 50, None, threads=1)
