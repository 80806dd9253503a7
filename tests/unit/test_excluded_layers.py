"""Layers that a task leaves out of pruning."""

from __future__ import annotations

import pytest

from export.excluded_layers import without_excluded
from fedprune.errors import TaskError
from fedprune.model.tensors import TensorClass, TensorSpec

_TABLE = (
    TensorSpec("first/kernel", (4, 2), "float32", TensorClass.PRUNABLE, "first"),
    TensorSpec("first/bias", (2,), "float32", TensorClass.DENSE, "first"),
    TensorSpec("last/kernel", (2, 3), "float32", TensorClass.PRUNABLE, "last"),
)


def test_kernels_of_excluded_layers_are_dense_and_all_else_stays() -> None:
    found = without_excluded(_TABLE, ("first",))

    assert [spec.kind for spec in found] == [TensorClass.DENSE, TensorClass.DENSE, TensorClass.PRUNABLE]
    assert [spec.name for spec in found] == [spec.name for spec in _TABLE]


def test_a_layer_that_has_no_pruned_kernel_is_named_with_those_that_have() -> None:
    with pytest.raises(TaskError, match=r"no kernel of layer 'frist' is pruned.*first, last"):
        without_excluded(_TABLE, ("frist",))
