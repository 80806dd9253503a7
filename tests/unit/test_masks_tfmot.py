"""Masks and schedules equal those of the installed TensorFlow Model Optimization."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl
from tensorflow_model_optimization.sparsity import keras as tfmot

from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, TensorClass, TensorSpec, TensorTable
from fedprune.pruning.masks import Allocation, full_mask, score_mask
from fedprune.pruning.schedules import ConstantSparsity, PolynomialDecay, Schedule

_SCHEDULES = [
    (
        PolynomialDecay(
            initial_sparsity=first, target_sparsity=last, begin_step=begin, end_step=end, frequency=every, power=power
        ),
        tfmot.PolynomialDecay(first, last, begin_step=begin, end_step=end, frequency=every, power=power),
    )
    for first, last, begin, end, every, power in [
        (0.0, 0.8, 0, 300, 1, 3.0),
        (0.1, 0.95, 7, 251, 5, 3.0),
        (0.5, 0.5, 3, 40, 4, 3.0),
        (0.25, 0.9, 100, 390, 100, 1.0),
        (0.0, 0.99, 11, 377, 2, 0.5),
        (0.3, 0.7, 0, 7, 3, 6.5),
    ]
] + [
    (
        ConstantSparsity(target_sparsity=sparsity, begin_step=begin, end_step=end, frequency=every),
        tfmot.ConstantSparsity(sparsity, begin_step=begin, end_step=end, frequency=every),
    )
    for sparsity, begin, end, every in [(0.8, 0, -1, 1), (0.35, 13, 200, 10), (0.0, 5, 5, 3)]
]


@pytest.mark.parametrize(("ours", "theirs"), _SCHEDULES)
def test_schedule_is_due_and_sparse_as_tfmots(ours: Schedule, theirs: tfmot.PruningSchedule) -> None:
    for step in range(400):
        is_due, sparsity = theirs(tf.constant(step))
        assert ours.is_due(step) == bool(is_due)
        if is_due:
            # TensorFlow's float32 power may differ from a correctly rounded one in the last place.
            np.testing.assert_array_max_ulp(np.float32(ours.sparsity_at(step)), sparsity.numpy(), maxulp=2)


@pytest.mark.parametrize(("ours", "theirs"), _SCHEDULES)
def test_uniform_mask_is_tfmots(ours: Schedule, theirs: tfmot.PruningSchedule) -> None:
    keyed = Keyed(2, "layers")
    for shape in [(3, 3, 1, 16), (3, 3, 16, 32), (129, 77), (10,), (1, 1)]:
        layer = keyed.uniform(int(np.prod(shape)), -1.0, 1.0).reshape(shape)
        for step in (s for s in range(0, 400, 13) if ours.is_due(s)):
            _assert_same_mask(layer, ours.sparsity_at(step), step, theirs)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.7, 0.99])
def test_ties_and_zeros_are_kept_as_tfmot_keeps_them(sparsity: float) -> None:
    schedule = tfmot.ConstantSparsity(sparsity, begin_step=0, frequency=1)
    coarse = np.round(Keyed(3, "ties").uniform(5000, -4.0, 4.0)).reshape(50, 100)
    _assert_same_mask(coarse, sparsity, 0, schedule)
    _assert_same_mask(np.where(np.abs(coarse) < 3.0, np.float32(0.0), coarse), sparsity, 0, schedule)
    _assert_same_mask(np.zeros((4, 5), np.float32), sparsity, 0, schedule)


@pytest.mark.parametrize("shape", [(128, 64), (84, 36), (16, 12)])
@pytest.mark.parametrize("block", [(1, 4), (4, 1), (2, 4)])
@pytest.mark.parametrize("sparsity", [0.3, 0.8])
def test_masks_of_blocks_are_tfmots(shape: tuple[int, int], block: tuple[int, int], sparsity: float) -> None:
    layer = Keyed(4, "blocks").uniform(shape[0] * shape[1], -1.0, 1.0).reshape(shape)
    table = TensorTable((TensorSpec("kernel", shape, "float32", TensorClass.PRUNABLE, "layer"),))

    ours = score_mask({"kernel": layer}, table, sparsity, Allocation.UNIFORM, full_mask(table), block)["kernel"]

    theirs = _tfmot_mask(layer, 0, tfmot.ConstantSparsity(sparsity, begin_step=0, frequency=1), block)
    np.testing.assert_array_equal(ours, theirs)


def _assert_same_mask(layer: Array, sparsity: float, step: int, theirs: tfmot.PruningSchedule) -> None:
    table = TensorTable((TensorSpec("kernel", layer.shape, "float32", TensorClass.PRUNABLE, "layer"),))
    ours = score_mask({"kernel": layer}, table, sparsity, Allocation.UNIFORM, full_mask(table))["kernel"]
    np.testing.assert_array_equal(ours, _tfmot_mask(layer, step, theirs))


def _tfmot_mask(
    layer: Array, step: int, schedule: tfmot.PruningSchedule, block: tuple[int, int] = (1, 1)
) -> np.ndarray:
    weight, mask, threshold = tf.Variable(layer), tf.Variable(tf.ones_like(layer)), tf.Variable(0.0)
    pruning = pruning_impl.Pruning(lambda: tf.constant(step), [(weight, mask, threshold)], schedule, block, "AVG")
    pruning.conditional_mask_update()
    return mask.numpy().astype(np.bool_)
