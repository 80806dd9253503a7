"""Pictures of 96 x 96 pixels, whose class is a shape or a texture: in any colour, at any place, in any light."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedprune.data import Dataset

SHAPE = (96, 96, 3)

_Plane = NDArray[np.float32]
_Inside = NDArray[np.bool_]
_Shape = Callable[[_Plane, _Plane], _Inside]
_NOISE = 0.07
"""Standard deviation of each pixel; colours go from 0 to 1."""


def _disc(x: _Plane, y: _Plane) -> _Inside:
    inside: _Inside = np.square(x) + np.square(y) < 0.81
    return inside


def _square(x: _Plane, y: _Plane) -> _Inside:
    return (abs(x) < 0.8) & (abs(y) < 0.8)


def _triangle(x: _Plane, y: _Plane) -> _Inside:
    return (y > -0.6) & (3**0.5 * abs(x) + y < 1.0)


def _ring(x: _Plane, y: _Plane) -> _Inside:
    return _disc(x, y) & (np.hypot(x, y) > 0.4)


def _cross(x: _Plane, y: _Plane) -> _Inside:
    return (np.minimum(abs(x), abs(y)) < 0.25) & (np.maximum(abs(x), abs(y)) < 0.9)


def _striped_disc(x: _Plane, y: _Plane) -> _Inside:
    return _disc(x, y) & (np.sin(12 * x) > 0)


def _checkered_disc(x: _Plane, y: _Plane) -> _Inside:
    return _disc(x, y) & (np.sin(10 * x) * np.sin(10 * y) > 0)


def _dotted_square(x: _Plane, y: _Plane) -> _Inside:
    return _square(x, y) & (np.cos(10 * x) + np.cos(10 * y) > 0)


CLASSES: tuple[_Shape, ...] = (
    _disc, _square, _triangle, _ring, _cross, _striped_disc, _checkered_disc, _dotted_square,
)  # fmt: skip
"""Where a thing is, in coordinates of its own that go from -1 to 1."""


def pictures(seed: int, count: int) -> Dataset:
    """`count` pictures of one thing each.

    x is float32 `[count, 96, 96, 3]` from 0 to 1, y class numbers of `CLASSES`, as many of each as there can be. Equal
    seeds give equal pictures.
    """
    random = np.random.default_rng(seed)
    y = random.permutation(np.arange(count) % len(CLASSES))
    x = np.empty((count, *SHAPE), np.float32)
    for picture, label in zip(x, y, strict=True):
        picture[:] = _picture(CLASSES[label], random)
    return Dataset(x, y.astype(np.int64), "pictures")


def _picture(shape: _Shape, random: np.random.Generator) -> NDArray[np.float64]:
    rows, columns = np.mgrid[-1:1:96j, -1:1:96j].astype(np.float32)
    size = random.uniform(0.37, 0.62)
    across, down = random.uniform(size - 1, 1 - size, 2)
    turn = random.uniform(0, 2 * np.pi)
    u, v = (columns - across) / size, (rows - down) / size
    inside = shape(u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn))[..., None]
    ground = random.uniform(0.0, 0.6, 3)
    thing = ground + random.uniform(0.12, 0.35, 3)  # brighter than the ground
    angle, light = random.uniform(0, 2 * np.pi), random.uniform(0.0, 0.35)
    shade = 1 - light * (1 + np.cos(angle) * rows + np.sin(angle) * columns)[..., None] / 2
    noisy = np.where(inside, thing, ground) * shade + random.normal(0.0, _NOISE, SHAPE)
    clipped: NDArray[np.float64] = np.clip(noisy, 0.0, 1.0)
    return clipped
