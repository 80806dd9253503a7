"""Augmentation of a batch of images, in numpy: equal draws give equal bits on every machine and for every trainer.

No function of the C library decides about a number, and no sum is taken in an order of the processor's: sine and cosine
are polynomials, coordinates are float64, pixels float32, and each operation is one that IEEE 754 rounds. (numpy on
32-bit Arm takes numbers below 1e-38 for 0, which pixels and their differences are not.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edge_agent.augmentation.contrast import random_contrast
from edge_agent.augmentation.geometry import random_flip, random_rotation, random_translation, random_zoom
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array
from fedprune.network import augmentation as kinds


def augment(images: Array, layers: Sequence[kinds.AnyAugmentation], keyed: Keyed) -> Array:
    """`images`, float32 `[batch, rows, columns, channels]`, after each of `layers`, as a copy of that shape.

    The layers are Keras' (Keras 3, "Image augmentation layers"), with draws from `keyed` for each image.
    """
    augmented = np.array(images, np.float32)
    for layer in layers:
        _LAYERS[type(layer)](augmented, layer, keyed)
    return augmented


_LAYERS: dict[type, Callable[[Array, Any, Keyed], None]] = {
    kinds.RandomContrast: random_contrast,
    kinds.RandomFlip: random_flip,
    kinds.RandomRotation: random_rotation,
    kinds.RandomTranslation: random_translation,
    kinds.RandomZoom: random_zoom,
}
"""Each changes a batch in place."""
