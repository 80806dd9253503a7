"""The self-check: a runtime that computes what TensorFlow does passes with room to spare, one that does not is found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_mutants import mutants

from export.architecture import tensor_table
from export.training_graph.build import make_training_graph
from export.training_graph.probes import make_self_check
from fedprune.errors import ExportError
from fedprune.losses import Loss, Objective
from fedprune.self_check import (
    Case,
    RuntimeDiffers,
    SelfCheck,
    draw_case,
    furthest,
    outputs_of,
    run_self_check,
)
from fedprune.tensorflow_stack import keras
from fedprune.tensors import TensorSpec
from fedprune.training_graph import TrainingGraph

L = keras.layers
BATCH, CLASSES = 6, 3
Tensors = tuple[TensorSpec, ...]


def varied() -> Any:
    """All kinds of operators and constants: both normalisations, kinks, pooling, dropout, penalties, joins, strides."""
    x = L.Input((8, 8, 2))
    y = L.Conv2D(5, 3, strides=2, padding="same", use_bias=False)(x)
    y = L.ReLU(6.0)(L.BatchNormalization()(y))
    y = L.Add()([y, L.LeakyReLU()(L.DepthwiseConv2D(3, padding="same", depthwise_regularizer="l1")(y))])
    y = L.Concatenate()([L.MaxPooling2D(3, 2, padding="same")(y), L.AveragePooling2D(2, padding="same")(y)])
    y = L.Dropout(0.3)(L.SeparableConv2D(5, 2, activation="tanh")(y))
    y = L.BatchNormalization()(L.Dense(7, "sigmoid")(L.Flatten()(y)))
    return keras.Model(x, L.Dense(CLASSES, kernel_regularizer="l2")(y))


Made = tuple[bytes, Tensors, SelfCheck]


@pytest.fixture(scope="module")
def made() -> Made:
    model = varied()
    objective = Objective(Loss.CATEGORICAL_CROSSENTROPY, from_logits=True)
    graph = make_training_graph(model, objective.loss, BATCH)
    return graph, tensor_table(model), make_self_check(model, tensor_table(model), objective, graph)


def run(graph: bytes, tensors: Tensors, case: Case | None = None) -> dict[str, Any]:
    loaded = TrainingGraph(graph, tensors, threads=1)
    return outputs_of((case or draw_case(loaded, tensors, 1234, BATCH - 1)).run(loaded), tensors)


def test_the_graph_passes_with_room_to_spare(made: Made) -> None:
    graph, tensors, self_check = made
    loaded = TrainingGraph(graph, tensors, threads=1)

    run_self_check(loaded, tensors, self_check)

    assert [probe.examples for probe in self_check.probes] == [BATCH, 2, 1]
    for probe in self_check.probes:
        assert furthest(loaded, tensors, probe)[1] < 0.25
        assert set(probe.answers) == set(run(graph, tensors))


def test_every_mistake_is_found(made: Made) -> None:
    """Whatever constant or operator is another one, unless that changes nothing: some never see a negative number."""
    graph, tensors, self_check = made
    right, missed, found = run(graph, tensors), [], 0
    for what, mutant in mutants(graph):
        try:
            wrong = run(mutant, tensors)
        except ExportError:  # a graph that the runtime refuses: nobody would train with it
            continue
        if all(np.allclose(wrong[name], right[name], rtol=1e-4, atol=1e-6) for name in right):
            continue
        try:
            run_self_check(TrainingGraph(mutant, tensors, threads=1), tensors, self_check)
        except RuntimeDiffers:
            found += 1
        else:
            missed.append(what)

    assert not missed
    assert found > 100
