"""The kernels that stay dense while others are pruned, and why. Needs no TensorFlow."""

from __future__ import annotations

from fedprune.model.tensors import TensorClass, TensorTable
from fedprune.network.description import Network
from fedprune.network.layers import Convolution, Dense, DepthwiseConvolution, TransposedConvolution

_SHOWN = 8
"""Layers that are named; of more there is the number."""
_DEPTHWISE = "TF-MOT does not prune depthwise kernels"
_WITH_KERNEL = Convolution | Dense | DepthwiseConvolution | TransposedConvolution
_OTHERS = "the task leaves them out, or TF-MOT does not prune the layers that they are of"


def unpruned(network: Network, table: TensorTable) -> list[str]:
    """A line for each reason, with the layers; none where all kernels that are trained are pruned.

    Example:
        >>> from fedprune.network.description import Call
        >>> from fedprune.model.tensors import TensorSpec
        >>> layer = DepthwiseConvolution(name="each", size=(3,), strides=(1,), multiplier=1, kernel="each/k")
        >>> spec = TensorSpec("each/k", (3, 2, 1), "float32", TensorClass.DENSE, "each")
        >>> unpruned(Network("net", ((5, 2),), (layer,), (Call(0, (0,)),), (1,)), TensorTable((spec,)))
        ['each (TF-MOT does not prune depthwise kernels)']
    """
    dense = {spec.name for spec in table.of(TensorClass.DENSE)}
    layers: dict[str, list[str]] = {}
    for layer in network.layers:
        if isinstance(layer, _WITH_KERNEL) and layer.kernel in dense:
            reason = _DEPTHWISE if isinstance(layer, DepthwiseConvolution) else _OTHERS
            layers.setdefault(reason, []).append(layer.name)
    return [f"{_listed(names)} ({reason})" for reason, names in layers.items()]


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
