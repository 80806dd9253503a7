"""Batch normalisation at several places: the proof knows each one's number of values, and layers of one name apart."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from training_networks import BATCH, CLASSES, Image, drawn, keras_step, one_hot, proof_of, randomised, training_graph

from export.architecture import tensor_table
from export.describing.model import describe
from export.proof.errors import NotProven
from export.proof.reference import Reference
from fedprune.graph.training import write_training_graph
from fedprune.keras.stack import keras
from fedprune.model.losses import Loss, Objective
from fedprune.model.tensors import TensorTable
from fedprune.network.layers import BatchNormalization
from fedprune.runtime.self_check import Case

L = keras.layers
SPARSE = Objective(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, from_logits=True)


def shared() -> Any:
    """One layer at two places, which have 63 and 12 values a channel and example."""
    normalization = L.BatchNormalization(momentum=0.7)
    x = L.Input(Image)
    y = normalization(L.Conv2D(3, 1)(x))
    z = normalization(L.Conv2D(3, 3, strides=2)(y))
    return keras.Model(x, L.Dense(CLASSES)(L.Flatten()(z)))


def nested() -> Any:
    """Layers of one name in two inner models, with other numbers of values and another momentum."""
    x = L.Input(Image)
    first = keras.Sequential(
        [L.Input(Image), L.Conv2D(3, 3, strides=2), L.BatchNormalization(momentum=0.7, name="norm")], name="first"
    )
    y = first(x)
    second = keras.Sequential(
        [L.Input(y.shape[1:]), L.Conv2D(3, 2), L.BatchNormalization(momentum=0.9, name="norm")], name="second"
    )
    return keras.Model(x, L.Dense(CLASSES)(L.Flatten()(second(y))))


MODELS = [shared, nested]


@pytest.mark.parametrize("build", MODELS)
def test_variances_move_in_float64_as_in_keras(build: Any) -> None:
    model = randomised(build())
    weights = {spec.name: array for spec, array in zip(tensor_table(model), model.get_weights(), strict=True)}
    x, y = drawn(2, *Image), one_hot(2)

    found = Reference(model, [SPARSE]).run(Case(weights, [x], [y], [], np.ones((len(x), 1), np.float32))).step

    for name, moved in keras_step(
        model, keras.losses.CategoricalCrossentropy(from_logits=True), x, y
    ).statistics.items():
        np.testing.assert_allclose(found.statistics[name], moved, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("build", MODELS)
def test_a_graph_that_moves_variances_as_no_fused_kernel_does_is_refused(build: Any) -> None:
    model = build()
    network, table = describe(model)
    judge = proof_of(model, SPARSE)
    judge.check(training_graph(model, SPARSE.loss, BATCH))

    biased = tuple(
        msgspec.structs.replace(layer, unbiased=False) if isinstance(layer, BatchNormalization) else layer
        for layer in network.layers
    )
    wrong = write_training_graph(msgspec.structs.replace(network, layers=biased), TensorTable(table), [SPARSE], BATCH)
    with pytest.raises(NotProven, match=r"moving_variance is .* times as far off"):
        judge.check(wrong.blob)
