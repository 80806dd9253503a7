"""The self-check: runtimes that compute what TensorFlow does pass, those that do not are found."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from graph_mutants import mutants, with_newer_operators
from keras_bundles import bundle_of, graph_of, perceptron, seeded, varied
from training_networks import NETWORKS, ONE_OF_EACH, ONE_OF_OTHERS, training_graph

from edge_agent.trainers import choice, device_graph
from edge_agent.trainers.choice import make_trainer
from edge_agent.trainers.keras import KerasTrainer
from edge_agent.trainers.litert import LiteRTTrainer
from export.architecture import tensor_table
from export.proof.probes import make_self_check
from export.proof.reference import Reference
from fedprune.errors import TaskError
from fedprune.model.losses import Loss, Objective
from fedprune.model.tensors import TensorSpec
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.runtime.self_check import RuntimeUnfit, SelfCheck, Sketch, run_self_check
from fedprune.runtime.training_graph import TrainingGraph
from fedprune.task.bundle import Bundle

BATCH = 6
FEWER = 10
"""Mutants of each layer, of all kinds; `make test-all` takes all, hundreds of a recurrent one. More of them are found
in the networks of the zoo, which have every layer too (test_zoo.py)."""
Tensors = tuple[TensorSpec, ...]


Made = tuple[bytes, Tensors, SelfCheck]


@pytest.fixture(scope="module")
def made() -> Made:
    model = varied()
    objective = Objective(Loss.CATEGORICAL_CROSSENTROPY, from_logits=True)
    graph, tensors = training_graph(model, objective.loss, BATCH), tensor_table(model)
    return graph, tensors, make_self_check(Reference(model, [objective]), tensors, graph, briefly=False)


def test_the_graph_passes(made: Made) -> None:
    graph, tensors, self_check = made
    loaded = TrainingGraph(graph, tensors, threads=1)

    run_self_check(loaded, tensors, self_check)

    assert [probe.examples for probe in self_check.probes] == [BATCH, BATCH, BATCH, 2, 1]
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


@pytest.mark.parametrize(
    ("name", "most"),
    [
        *((name, FEWER) for name in ONE_OF_EACH),
        *(pytest.param(name, None, marks=pytest.mark.slow) for name in ONE_OF_EACH + ONE_OF_OTHERS),
    ],
)
def test_every_mistake_in_a_layer_is_found(name: str, most: int | None) -> None:
    model = NETWORKS[name]()
    objective, tensors = Objective(Loss.CATEGORICAL_CROSSENTROPY, from_logits=True), tensor_table(model)
    graph = training_graph(model, objective.loss, BATCH)
    self_check = make_self_check(Reference(model, [objective]), tensors, graph, briefly=False)

    tried, missed = 0, []
    for what, mutant in mutants(graph, tensors, most):
        tried += 1
        with suppress(RuntimeUnfit):
            run_self_check(TrainingGraph(mutant, tensors, threads=1), tensors, self_check)
            missed.append(what)
    # Of steps that are left out little can be seen in a few examples: one mistake in fifty may hide there.
    assert len(missed) <= (max(1, tried // 50) if "masked" in name else 0), missed


def of(build: Any) -> Bundle:
    schedule = ConstantSparsity(begin_step=0, frequency=1, target_sparsity=0.5)
    return bundle_of(seeded(build()), schedule, mask=MaskPolicy.SHARED)


def wrong() -> Bundle:
    """A bundle of whose training graph the runtime here cannot compute what the self-check says."""
    right = of(perceptron)
    (graph,) = right.graphs
    (probe,) = graph.self_check.probes
    answers = probe.answers | {"g0": Sketch(1e-5, (1.0, 2.0, 3.0))}
    other = SelfCheck((msgspec.structs.replace(probe, answers=answers),))
    return with_self_check(right, other)


def with_self_check(bundle: Bundle, self_check: SelfCheck) -> Bundle:
    return replace(bundle, graphs=(msgspec.structs.replace(bundle.graphs[0], self_check=self_check),))


def test_a_trainer_whose_runtime_differs_is_refused_in_one_line() -> None:
    with pytest.raises(RuntimeUnfit) as caught:
        LiteRTTrainer(wrong(), examples=50, threads=1)

    said = str(caught.value)
    assert said.startswith("ai-edge-litert ")
    assert "computes something else on this device than TensorFlow: the " in said
    assert said.endswith("train with the keras trainer, or another version of the runtime")
    assert "\n" not in said


def test_auto_takes_keras_where_litert_is_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choice, "device_memory_mb", lambda: 900.0)
    assert isinstance(make_trainer("auto", of(perceptron), examples=50, threads=1), LiteRTTrainer)
    assert not caplog.records

    with caplog.at_level(logging.WARNING):
        assert isinstance(make_trainer("auto", wrong(), examples=50, threads=1), KerasTrainer)

    (record,) = caplog.records
    assert "taking the keras trainer: ai-edge-litert " in record.getMessage()
    with pytest.raises(RuntimeUnfit):
        make_trainer("litert", wrong(), examples=50, threads=1)
    monkeypatch.setattr(choice, "_is_installed", lambda name: name == "litert")
    with pytest.raises(RuntimeUnfit):
        make_trainer("auto", wrong(), examples=50, threads=1)


def test_auto_takes_keras_where_litert_lacks_an_operator(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choice, "device_memory_mb", lambda: 900.0)
    right = of(perceptron)
    blob = with_newer_operators(graph_of(right))
    # Where the device keeps what it wrote: as if its own writer wrote what its runtime has not.
    monkeypatch.setattr(device_graph, "_written", lambda *_: blob)

    with caplog.at_level(logging.WARNING):
        assert isinstance(make_trainer("auto", right, examples=50, threads=1), KerasTrainer)

    (record,) = caplog.records
    assert "this runtime has no " in record.getMessage()
    with pytest.raises(RuntimeUnfit, match=r"no \w+ version 99; train with the keras trainer, or another version"):
        make_trainer("litert", right, examples=50, threads=1)


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
    for self_check in foreign(bundle.graphs[0].self_check):
        with pytest.raises(TaskError, match=r"does not fit .*; build the task again"):
            LiteRTTrainer(with_self_check(bundle, self_check), examples=50, threads=1)
