"""Kernels of attention in tasks whose units go: a head is removed by the mask, so its kernels must be pruned.

TF-MOT does not know attention, and elsewhere these kernels stay dense. Needs no TensorFlow.
"""

from __future__ import annotations

import msgspec

from fedprune.model.tensors import TensorClass, TensorSpec
from fedprune.network.description import Network
from fedprune.network.layers import MultiHeadAttention


def with_prunable_heads(table: tuple[TensorSpec, ...], network: Network) -> tuple[TensorSpec, ...]:
    """The tensor table with the kernels of attention prunable, if they are trained."""
    kernels = {
        kernel
        for layer in network.layers
        if isinstance(layer, MultiHeadAttention)
        for kernel in (layer.query_kernel, layer.key_kernel, layer.value_kernel, layer.output_kernel)
    }
    return tuple(_prunable(spec) if spec.name in kernels else spec for spec in table)


def _prunable(spec: TensorSpec) -> TensorSpec:
    return msgspec.structs.replace(spec, kind=TensorClass.PRUNABLE) if spec.kind is TensorClass.DENSE else spec
