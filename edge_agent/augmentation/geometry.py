"""Random flips, rotations, translations and zooms of the images of a batch.

Each function draws one factor for each image, uniformly from the layer's range, and changes `images`, float32 `[batch,
rows, columns, channels]`, in place. A pixel of the new image at (x, y) is what the old one has at (a x + b y + c, d x +
e y + f), as in Keras' `transform`; its centre is ((columns - 1) / 2, (rows - 1) / 2).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge_agent.augmentation.resampling import resample
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array
from fedprune.network.augmentation import RandomFlip, RandomRotation, RandomTranslation, RandomZoom, Range

_TERMS = 12
"""Terms of the sine's and the cosine's series: up to pi / 4 the next one is below 1e-27."""


def random_flip(images: Array, layer: RandomFlip, keyed: Keyed) -> None:
    """Mirrors; left to right and top to bottom are drawn one by one, as in tf_keras (Keras 3 draws both as one)."""
    for mirrors, axis in ((layer.horizontal, 1), (layer.vertical, 0)):
        if mirrors:
            for image, draw in zip(images, keyed.uniform(len(images), 0.0, 1.0), strict=True):
                if draw < 0.5:
                    image[...] = np.flip(image, axis).copy()


def random_rotation(images: Array, layer: RandomRotation, keyed: Keyed) -> None:
    """Turns about the centre."""
    x, y = _places(images)
    for image, turns in zip(images, _draw(images, layer.turns, keyed), strict=True):
        cosine, sine = cosine_and_sine(turns)
        center_x, center_y = (image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2
        offset_x = center_x - (cosine * center_x - sine * center_y)
        offset_y = center_y - (sine * center_x + cosine * center_y)
        from_x = x * cosine - (y * sine - offset_x)
        from_y = x * sine + (y * cosine + offset_y)
        image[...] = resample(image, from_y, from_x, layer)


def random_translation(images: Array, layer: RandomTranslation, keyed: Keyed) -> None:
    """Moves down and to the right, by parts of height and width."""
    x, y = _places(images)
    down, right = (_draw(images, drawn, keyed) for drawn in (layer.height, layer.width))
    for image, part_y, part_x in zip(images, down, right, strict=True):
        rows, columns, _ = image.shape
        image[...] = resample(image, y - part_y * rows, x - part_x * columns, layer)


def random_zoom(images: Array, layer: RandomZoom, keyed: Keyed) -> None:
    """Zooms about the centre: out where the factor is positive."""
    x, y = _places(images)
    high = _draw(images, layer.height, keyed)
    wide = high if layer.width is None else _draw(images, layer.width, keyed)
    for image, factor_y, factor_x in zip(images, high, wide, strict=True):
        rows, columns, _ = image.shape
        from_y = y * (1.0 + factor_y) - (rows - 1) / 2 * factor_y
        from_x = x * (1.0 + factor_x) - (columns - 1) / 2 * factor_x
        image[...] = resample(image, from_y, from_x, layer)


def cosine_and_sine(turns: float) -> tuple[float, float]:
    """Cosine and sine of an angle in full turns, to 1e-15: additions and products alone, so equal on every machine.

    Example:
        >>> cosine_and_sine(0.75)
        (0.0, -1.0)
    """
    quarter = math.floor(4.0 * turns + 0.5)
    angle = 2.0 * math.pi * (turns - 0.25 * quarter)  # between -pi / 4 and pi / 4
    series = [0.0, 0.0]  # of the cosine and of the sine
    for even in (0, 1):
        term = angle if even else 1.0
        for number in range(1, _TERMS):
            series[even] += term
            term *= -angle * angle / ((2 * number + even) * (2 * number + even - 1))
    cosine, sine = series
    return ((cosine, sine), (-sine, cosine), (-cosine, -sine), (sine, -cosine))[quarter % 4]


def _places(images: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The columns of an image's pixels, `[1, columns]`, and the rows, `[rows, 1]`."""
    _, rows, columns, _ = images.shape
    return np.arange(columns, dtype=np.float64)[np.newaxis], np.arange(rows, dtype=np.float64)[:, np.newaxis]


def _draw(images: Array, drawn: Range, keyed: Keyed) -> list[float]:
    """A factor for each image."""
    return [float(factor) for factor in keyed.uniform(len(images), *drawn)]
