"""The memory that an update takes beside what is trained: a device that holds a large model has little else."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from edge_agent.trainers import Trained
from edge_agent.updates import prepare_update, take_delta
from fedprune.codecs import Key, parse_codec
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable, Weights
from fedprune.pruning.masks import apply_mask

SIDE = 1000
TABLE = TensorTable(
    (
        TensorSpec("kernel", (SIDE, SIDE), "float32", TensorClass.PRUNABLE, "dense"),
        TensorSpec("bias", (SIDE,), "float32", TensorClass.DENSE, "dense"),
    )
)

CODECS = ("mask | feedback(2) | fp32", "mask | feedback(2) | fp16", "mask | feedback(2) | int8")


def drawn(name: str) -> Weights:
    return {spec.name: Keyed(1, name, spec.name).uniform(spec.size, -1, 1).reshape(spec.shape) for spec in TABLE}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("density", "most"), [(0.2, 14.0), (1.0, 22.0)], ids=["80 % pruned", "dense"])
def test_an_update_takes_few_bytes_a_parameter(density: float, most: float, codec: str) -> None:
    mask = {"kernel": Keyed(1, "mask").uniform(SIDE * SIDE, 0.0, 1.0).reshape(SIDE, SIDE) < density}
    base, residual = apply_mask(drawn("base"), mask), apply_mask(drawn("residual"), mask)
    trained = Trained(apply_mask(drawn("trained"), mask), mask, {}, 1.0, 1.0, 1)

    tracemalloc.start()
    try:
        prepare_update(take_delta(base, trained, TABLE), residual, TABLE, parse_codec(codec), Key(1, 0, "pi-1"), mask)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak <= most * TABLE.parameters


@pytest.mark.parametrize("codec", CODECS)
def test_what_an_update_is_made_of_stays_as_it_is(codec: str) -> None:
    mask = {"kernel": drawn("mask")["kernel"] > 0}
    trained = Trained(apply_mask(drawn("trained"), mask), mask, {}, 1.0, 1.0, 1)
    for array in trained.weights.values():
        array.flags.writeable = False
    residual = drawn("residual")
    before = {name: array.copy() for name, array in residual.items()}

    prepare_update(
        take_delta(trained.weights, trained, TABLE), residual, TABLE, parse_codec(codec), Key(1, 0, "pi-1"), mask
    )

    for name, array in before.items():
        np.testing.assert_array_equal(residual[name], array)
