"""Layers that stay on the devices: each has its own, which it trains and never sends.

FedPer keeps the last layers (Arivazhagan et al. 2019, "Federated learning with personalization layers",
arXiv 1912.00818), FedBN batch normalisation (Li et al. 2021, "FedBN", arXiv 2102.07623). Needs no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from fedprune.errors import TaskError
from fedprune.model.tensors import TensorClass, TensorSpec
from fedprune.network.description import Network
from fedprune.network.layers import BatchNormalization
from fedprune.runtime.tflite import one_line

BATCH_NORMALIZATION = "batch_normalization"
"""Stands for all layers of that kind, whatever they are called."""

_SHARED = (TensorClass.PRUNABLE, TensorClass.DENSE)
_SHOWN = 20
"""Layers that are named, of those that there are."""


def with_local_layers(
    table: tuple[TensorSpec, ...], network: Network, names: Collection[str]
) -> tuple[TensorSpec, ...]:
    """The tensor table with the tensors of the named layers local, and their kernels dense: masks are shared.

    Raises `TaskError` for a layer that there is not, or that is frozen, and if nothing would be shared.
    """
    normalized = {layer.mean for layer in network.layers if isinstance(layer, BatchNormalization)}
    labels = {spec.layer for spec in table}
    chosen = set(names) - {BATCH_NORMALIZATION}
    if BATCH_NORMALIZATION in names:
        chosen |= {spec.layer for spec in table if spec.name in normalized}
    for name in sorted(chosen - labels):
        known = ", ".join(sorted(labels)[:_SHOWN])
        raise TaskError(
            f"model.local: no layer {one_line(name)!r} has weights; correct it in task.toml (known: {known})"
        )
    if frozen := sorted(spec.layer for spec in table if spec.layer in chosen and spec.kind is TensorClass.FROZEN):
        raise TaskError(
            f"model.local: layer {one_line(frozen[0])!r} is frozen, and so the same on all devices; leave it out"
        )
    if not any(spec.kind in _SHARED and spec.layer not in chosen for spec in table):
        raise TaskError("model.local names all layers that are trained, so nothing would be shared; leave some out")
    return tuple(_local(spec) if spec.layer in chosen else spec for spec in table)


def _local(spec: TensorSpec) -> TensorSpec:
    if spec.kind is TensorClass.INTEGER:
        return spec
    kind = TensorClass.DENSE if spec.kind is TensorClass.PRUNABLE else spec.kind
    return msgspec.structs.replace(spec, kind=kind, local=True)
