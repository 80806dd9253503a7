"""Random contrast of the images of a batch."""

from __future__ import annotations

import numpy as np

from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array
from fedprune.network.augmentation import RandomContrast


def random_contrast(images: Array, layer: RandomContrast, keyed: Keyed) -> None:
    """(x - mean) factor + mean, cut off at the layer's ends; the mean is over the places of a channel of an image.

    Keras 3 draws a factor for each image, as this does; tf_keras one for all of a batch. `images` are float32 `[batch,
    rows, columns, channels]`, and are changed in place.
    """
    factors = keyed.uniform(len(images), *layer.factor)
    low, high = np.array(layer.low, np.float32), np.array(layer.high, np.float32)
    for image, factor in zip(images, factors, strict=True):
        mean = _mean_of_channels(image)
        image -= mean
        image *= factor
        image += mean
        np.clip(image, low, high, out=image)


def _mean_of_channels(image: Array) -> Array:
    """float32 `[channels]`, of a running sum in float64, whose order is that of the pixels on every machine."""
    pixels = image.reshape(-1, image.shape[-1])
    total = np.cumsum(pixels, axis=0, dtype=np.float64)[-1]
    mean: Array = (total / len(pixels)).astype(np.float32)
    return mean
