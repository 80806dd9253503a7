"""What a network does about the scale of its input, before anything computes with it."""

from __future__ import annotations

from collections.abc import Iterator

from fedprune.network.description import Network
from fedprune.network.layers import (
    AnyLayer,
    BatchNormalization,
    Cropping,
    Dropout,
    GaussianNoise,
    LayerNormalization,
    Permute,
    Pooling,
    Rescaling,
    Reshape,
    Upsampling,
    ZeroPadding,
)

_NORMALIZING = (BatchNormalization, LayerNormalization)
_KEEPING = (Cropping, Dropout, GaussianNoise, Permute, Pooling, Reshape, Upsampling, ZeroPadding)
"""Layers after which numbers are on the scale that they came in. Augmentation is none of a network's calls."""


def pixel_scale(network: Network) -> float | None:
    """The scale of a Rescaling layer that takes the first input; None where there is none."""
    scales = (max(layer.scale) for layer in _first_to_compute(network) if isinstance(layer, Rescaling))
    return next(scales, None)


def normalizes(network: Network) -> bool:
    """True if a layer brings the first input to a scale of its own by mean and variance."""
    return any(isinstance(layer, _NORMALIZING) for layer in _first_to_compute(network))


def _first_to_compute(network: Network) -> Iterator[AnyLayer]:
    """The layers that take the first input's numbers, as they came or moved by layers that keep them."""
    kept = {0}
    for made, (layer, call) in enumerate(network.steps(), len(network.inputs)):
        if kept.isdisjoint(call.inputs):
            continue
        if isinstance(layer, _KEEPING):
            kept.add(made)
        else:
            yield layer
