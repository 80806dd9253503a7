"""An image whose pixels come from other places of it, between pixels and beyond its edges too."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Array
from fedprune.network.augmentation import FillMode, Interpolation, RandomRotation, RandomTranslation, RandomZoom

_Places = NDArray[np.float64]
_Numbers = NDArray[np.intp]


def resample(
    image: Array, rows: _Places, columns: _Places, layer: RandomRotation | RandomTranslation | RandomZoom
) -> Array:
    """The values of an image at other places, as TensorFlow's ``ImageProjectiveTransformV3`` takes them.

    Args:
      image: float32 `[rows, columns, channels]`.
      rows: for each pixel of the result the row it comes from, counted in pixels; float64 `[rows, columns]`, or
        `[rows, 1]` where all of a row are equal.
      columns: the same of columns, `[rows, columns]` or `[1, columns]`.
      layer: the fill mode and the interpolation. `FillMode.WRAP` is TensorFlow's own, which counts the images beyond
        the edge as if they were `size` - 1 wide, and moves by `size` for each.

    Returns:
      float32 `[rows, columns, channels]`.
    """
    planes, margin = _planes(image, layer)
    sizes = image.shape[:2]
    inside = [
        _inside(places, size, layer.fill_mode) + margin for places, size in zip((rows, columns), sizes, strict=True)
    ]
    row, column = inside
    height, width = planes.shape[1:]
    flat = planes.reshape(len(planes), -1)

    def at(row: _Numbers, column: _Numbers) -> Array:
        taken: Array = flat.take(row * width + column, axis=1, mode="clip")
        return taken

    if layer.interpolation is Interpolation.NEAREST:
        taken = at(_number(row + 0.5, height), _number(column + 0.5, width))
    else:
        above, below, down = _neighbours(row, height)
        left, right, aside = _neighbours(column, width)
        taken = _between(
            _between(at(above, left), at(above, right), aside),
            _between(at(below, left), at(below, right), aside),
            down,
        )
    return taken.transpose(1, 2, 0)


def _planes(image: Array, layer: RandomRotation | RandomTranslation | RandomZoom) -> tuple[Array, int]:
    """The image channel by channel, and the width of the margin that it has: of one pixel where a constant fills."""
    planes = image.transpose(2, 0, 1)
    if layer.fill_mode is not FillMode.CONSTANT:
        return np.ascontiguousarray(planes), 0
    channels, rows, columns = planes.shape
    framed = np.empty((channels, rows + 2, columns + 2), np.float32)
    framed[...] = np.array(layer.fill, np.float32).reshape(-1, 1, 1)
    framed[:, 1:-1, 1:-1] = planes
    return framed, 1


def _inside(places: _Places, size: int, mode: FillMode) -> _Places:
    """The places of an axis of `size` pixels that stand for any `places`: from 0 to `size` - 1; or from -1 to `size`
    with a constant, which is a margin of one pixel."""
    last = float(size - 1)
    match mode:
        case FillMode.CONSTANT:
            return np.clip(places, -1.0, float(size))
        case FillMode.REFLECT:
            period = 2.0 * size
            places = places - period * np.floor(places / period)
            places = np.minimum(places, (period - 1.0) - places)
        case FillMode.WRAP if size > 1:
            steps = np.floor(np.abs(places) / last)
            moved = np.where(places < 0.0, places + size * (steps + 1.0), places - size * steps)
            places = np.where(places == last, places, moved)
    return np.clip(places, 0.0, last)


def _neighbours(places: _Places, size: int) -> tuple[_Numbers, _Numbers, Array]:
    """The pixels before and after each place, and the share of the second."""
    before = np.floor(places)
    return _number(before, size), _number(before + 1.0, size), (places - before).astype(np.float32)


def _number(places: _Places, size: int) -> _Numbers:
    return np.minimum(places, size - 1).astype(np.intp)


def _between(first: Array, second: Array, share: Array) -> Array:
    """first + share (second - first), in the memory of `second`; where they are equal, it is they."""
    second -= first
    second *= share
    second += first
    return second
