"""Layers that the task leaves out of pruning: their kernels are trained, and stay dense. Needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from fedprune.errors import TaskError
from fedprune.model.tensors import TensorClass, TensorSpec
from fedprune.runtime.tflite import one_line

_SHOWN = 20
"""Layers that are named, of those that there are."""


def without_excluded(table: tuple[TensorSpec, ...], names: Collection[str]) -> tuple[TensorSpec, ...]:
    """The tensor table with the kernels of the named layers dense.

    Raises `TaskError` for a layer that has no kernel which is pruned.

    Example:
        >>> row = TensorSpec("first/kernel", (4, 2), "float32", TensorClass.PRUNABLE, "first")
        >>> without_excluded((row,), ["first"])[0].kind.value
        'dense'
    """
    pruned = {spec.layer for spec in table if spec.kind is TensorClass.PRUNABLE}
    for name in sorted(set(names) - pruned):
        known = ", ".join(sorted(pruned)[:_SHOWN]) or "none"
        raise TaskError(
            f"pruning.excluded: no kernel of layer {one_line(name)!r} is pruned; correct it in task.toml "
            f"(layers whose kernels are: {known})"
        )
    return tuple(_dense(spec) if spec.layer in names else spec for spec in table)


def _dense(spec: TensorSpec) -> TensorSpec:
    return msgspec.structs.replace(spec, kind=TensorClass.DENSE) if spec.kind is TensorClass.PRUNABLE else spec
