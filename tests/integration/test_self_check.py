"""The self-check: runtimes that compute what TensorFlow does pass, those that do not are found."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from graph_mutants import mutants, with_newer_operators
from keras_bundles import bundle_of, convolutional, perceptron, seeded, varied

from edge_agent.trainers import choice, runtime_checks
from edge_agent.trainers.choice import make_trainer
from edge_agent.trainers.keras import KerasTrainer
from edge_agent.trainers.litert import LiteRTTrainer
from edge_agent.trainers.runtime_checks import check_runtime
from export.architecture import tensor_table
from export.training_graph.build import make_training_graph
from export.training_graph.probes import make_self_check
from fedprune.errors import TaskError
from fedprune.model.losses import Loss, Objective
from fedprune.model.tensors import TensorSpec
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.runtime.self_check import RuntimeUnfit, SelfCheck, run_self_check
from fedprune.runtime.training_graph import TrainingGraph
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle

BATCH = 6
Tensors = tuple[TensorSpec, ...]


Made = tuple[bytes, Tensors, SelfCheck]


@pytest.fixture(scope="module")
def made() -> Made:
    model = varied()
    objective = Objective(Loss.CATEGORICAL_CROSSENTROPY, from_logits=True)
    graph = make_training_graph(model, objective.loss, BATCH)
    return graph, tensor_table(model), make_self_check(model, tensor_table(model), objective, graph)


def test_the_graph_passes(made: Made) -> None:
    graph, tensors, self_check = made
    loaded = TrainingGraph(graph, tensors, threads=1)

    run_self_check(loaded, tensors, self_check)

    assert [probe.examples for probe in self_check.probes] == [BATCH, BATCH, 2, 1]
    for probe in self_check.probes:
        assert len(probe.answers) == 1 + len(loaded.trained) + len(loaded.moved)


def test_every_mistake_is_found(made: Made) -> None:
    graph, tensors, self_check = made
    missed, found = [], []
    for what, mutant in mutants(graph, tensors):
        try:
            run_self_check(TrainingGraph(mutant, tensors, threads=1), tensors, self_check)
        except RuntimeUnfit:
            found.append(what)
        else:
            missed.append(what)

    assert not missed
    assert len(set(found)) >= 20, "kinds of mistakes"


def of(build: Any, **changes: Any) -> Bundle:
    schedule = ConstantSparsity(begin_step=0, frequency=1, target_sparsity=0.5)
    return replace(bundle_of(seeded(build()), schedule, mask=MaskPolicy.SHARED), **changes)


def wrong() -> Bundle:
    """A bundle of whose training graph the runtime here cannot compute what the self-check says."""
    right = of(perceptron)
    graph = right.training_graph or b""
    return replace(right, training_graph=next(mutant for _, mutant in mutants(graph, right.task.tensors)))


class Device:
    """A device with a state directory, which counts its checks, and whose runtime may be changed."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.disk = Directory(path)
        self.made = 0
        self.version = "1.0"
        monkeypatch.setattr(runtime_checks, "run_self_check", self._check)

    def start(self, bundle: Bundle) -> int:
        """How many checks it takes to start a new process that trains `bundle`."""
        before = self.made
        graph = TrainingGraph(bundle.training_graph or b"", bundle.task.tensors, threads=1)
        graph.runtime = replace(graph.runtime, version=self.version)
        check_runtime(bundle, graph, self.disk)
        check_runtime(bundle, graph, self.disk)
        return self.made - before

    def _check(self, *arguments: Any) -> None:
        self.made += 1
        run_self_check(*arguments)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(tmp_path, monkeypatch)


def test_a_graph_is_checked_once_for_each_version_of_the_runtime(device: Device) -> None:
    first, second = of(perceptron), of(convolutional)

    assert [device.start(first), device.start(first)] == [1, 0]
    assert [device.start(second), device.start(second)] == [1, 0]
    device.version = "1.1"
    assert [device.start(second), device.start(second)] == [1, 0]


@pytest.mark.parametrize("record", [b"", b"{", b"\xff", b"[]", b'{"graph": "", "runtime": "", "version": ""}'])
def test_what_is_not_remembered_is_checked_again(device: Device, record: bytes) -> None:
    bundle = of(perceptron)
    device.start(bundle)
    (name,) = device.disk.names()
    device.disk.write(name, record)

    assert [device.start(bundle), device.start(bundle)] == [1, 0]


def test_a_failure_is_found_again_and_again(device: Device) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeUnfit):
            device.start(wrong())
    assert device.made == 2
    assert device.disk.names() == []


def test_a_trainer_whose_runtime_differs_is_refused_in_one_line() -> None:
    with pytest.raises(RuntimeUnfit) as caught:
        LiteRTTrainer(wrong(), threads=1)

    said = str(caught.value)
    assert said.startswith("ai-edge-litert ")
    assert "computes something else on this device than TensorFlow: the " in said
    assert said.endswith("train with the keras trainer, or another version of the runtime")
    assert "\n" not in said


def test_auto_takes_keras_where_litert_is_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choice, "device_memory_mb", lambda: 900.0)
    assert isinstance(make_trainer("auto", of(perceptron), threads=1), LiteRTTrainer)
    assert not caplog.records

    with caplog.at_level(logging.WARNING):
        assert isinstance(make_trainer("auto", wrong(), threads=1), KerasTrainer)

    (record,) = caplog.records
    assert "taking the keras trainer: ai-edge-litert " in record.getMessage()
    with pytest.raises(RuntimeUnfit):
        make_trainer("litert", wrong(), threads=1)
    monkeypatch.setattr(choice, "_is_installed", lambda name: name == "litert")
    with pytest.raises(RuntimeUnfit):
        make_trainer("auto", wrong(), threads=1)


def test_auto_takes_keras_where_litert_lacks_an_operator(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choice, "device_memory_mb", lambda: 900.0)
    right = of(perceptron)
    newer = replace(right, training_graph=with_newer_operators(right.training_graph or b""))

    with caplog.at_level(logging.WARNING):
        assert isinstance(make_trainer("auto", newer, threads=1), KerasTrainer)

    (record,) = caplog.records
    assert "this runtime has no " in record.getMessage()
    with pytest.raises(RuntimeUnfit, match=r"no \w+ version 99; train with the keras trainer, or another version"):
        make_trainer("litert", newer, threads=1)


def foreign(self_check: SelfCheck) -> list[SelfCheck]:
    """Self-checks of other graphs."""
    (probe,) = self_check.probes
    fewer = {name: sketch for name, sketch in probe.answers.items() if name != "g1"}
    changes: list[dict[str, Any]] = [
        {"answers": fewer},
        {"answers": fewer | {"g99": probe.answers["g1"]}},
        {"examples": 17},
    ]
    return [SelfCheck((msgspec.structs.replace(probe, **change),)) for change in changes]


def test_the_self_check_of_another_graph_is_refused() -> None:
    bundle = of(perceptron)
    assert bundle.self_check is not None
    for self_check in foreign(bundle.self_check):
        with pytest.raises(TaskError, match=r"does not fit .*; build the task again"):
            LiteRTTrainer(replace(bundle, self_check=self_check), threads=1)
