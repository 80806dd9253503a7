"""Examples that are pictures in folders by class: PNG, JPEG and others that Pillow reads. Only this module needs it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.data.dataset import Examples
from fedprune.data.description import Images
from fedprune.data.example_buffer import ExampleBuffer
from fedprune.data.folders import check_size, labelled_files, place_of
from fedprune.data.room import IN_MEMORY, Room
from fedprune.data.skipped import Fault, Skipped, Unusable, brief
from fedprune.errors import DataError
from fedprune.model.tensors import Array
from fedprune.system.paths import path_text

MAX_PIXELS = 2**25
"""Pixels of a picture before it is made smaller, which a file's header tells, and on the way to the model's size: 33
million, which take 100 MB twice."""

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Readers that are tried. Others start programs (EPS) or are rarely tested."""

_DRAFT = 2
"""How many times as many pixels a side of a JPEG keeps while it is decoded, at least, as the model takes."""

_MODES = {1: "L", 3: "RGB"}


def read_images(path: Path, images: Images, room: Room = IN_MEMORY) -> Examples:
    """x float32 `[pictures, height, width, channels]` in 0 to 1, y int64 `[pictures]`, of a directory of folders.

    Pictures that cannot be used are skipped and counted. Raises `DataError` if there is no other, or no Pillow.
    """
    decode = picture_reader(images)
    skipped = Skipped(path_text(path))
    files = labelled_files(path, images.labels, skipped)
    examples = ExampleBuffer(images.example_shape, np.uint8, len(files), room, of_classes=True, change=_to_unit)
    for file, label in files:
        try:
            examples.add(decode(file), label)
        except Unusable as unusable:
            skipped.add(place_of(file), unusable)
    return skipped.finish(examples)


def picture_reader(images: Images) -> Callable[[Path], NDArray[np.uint8]]:
    """A function from a file to its pixels, uint8 `[height, width, channels]`; it raises `Unusable`.

    The same pictures come out wherever it is called: on devices, and beside the exported model. Raises `DataError`
    where Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise DataError(
            "the task learns from pictures, which needs Pillow: pip install '.[images]' in fedprune's clone, or "
            "apt install python3-pil"
        ) from error
    height, width = images.size

    def sized(picture: Any) -> Any:
        bilinear = Image.Resampling.BILINEAR
        if images.fit == "crop":
            return ImageOps.fit(picture, (width, height), bilinear)
        if width * picture.height > MAX_PIXELS:  # Pillow brings all rows to the new width first
            raise Unusable(
                Fault.TOO_LARGE,
                f"{picture.height} rows of {picture.width} pixels, too long to be made {width} wide; cut it",
            )
        return picture.resize((width, height), bilinear)

    def decode(file: Path) -> NDArray[np.uint8]:
        check_size(file)
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(file, formats=_FORMATS) as picture:
                _check_pixels(picture)
                picture.draft(None, (_DRAFT * max(images.size),) * 2)  # decodes a large JPEG smaller, in less memory
                ImageOps.exif_transpose(picture, in_place=True)
                turned = picture.convert(_MODES[images.channels])
            return np.asarray(sized(turned), np.uint8).reshape(images.example_shape)
        except Unusable:
            raise
        except UnidentifiedImageError as error:
            raise Unusable(Fault.DAMAGED, f"not a picture ({', '.join(_FORMATS)} are read); remove it") from error
        except Exception as error:  # whatever a reader runs into in bytes that anybody made
            raise Unusable(
                Fault.DAMAGED, f"not a picture that can be read ({brief(error)}); save it anew or remove it"
            ) from error

    return decode


def _to_unit(pixels: NDArray[Any]) -> Array:
    values: Array = np.divide(pixels, 255, dtype=np.float32)
    return values


def _check_pixels(picture: Any) -> None:
    """Raise `Unusable` for a picture that would take too much memory, or whose values have no place in 8 bits."""
    if picture.width * picture.height > MAX_PIXELS:
        raise Unusable(
            Fault.TOO_LARGE, f"{picture.width}x{picture.height} pixels, at most {MAX_PIXELS} are read; make it smaller"
        )
    if picture.mode.startswith(("I", "F")):
        raise Unusable(Fault.DAMAGED, f"pixels are not of 8 bits (mode {brief(picture.mode)}); save them so")
