"""Layers that change the examples of training at random, and nothing else: inference, proofs and exports have none.

A network has them before its first layer, so that devices augment a batch before it goes into the training graph. They
keep the image's shape `[rows, columns, channels]`. The names are Keras'; `edge_agent.augmentation` applies them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from fedprune.network.layer import Layer, Numbers, Shape

MAX_AUGMENTATION = 16
"""Layers of augmentation that a network may have."""

_Factor = Annotated[float, msgspec.Meta(ge=-16, le=16)]
Range = tuple[_Factor, _Factor]
"""The lowest and the highest of the factors that are drawn, uniformly."""


class FillMode(StrEnum):
    """The image beyond its edges, by Keras' names: dcba|abcd|dcba, abcd|abcd|abcd, aaaa|abcd|dddd, or a constant."""

    REFLECT = "reflect"
    WRAP = "wrap"
    NEAREST = "nearest"
    CONSTANT = "constant"


class Interpolation(StrEnum):
    """The value between pixels: of the nearest one, or in proportion to the distances of the four around."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"


class Augmentation(Layer, frozen=True, kw_only=True):
    """What all kinds have: an image of rows, columns and channels goes in, and comes out in that shape."""

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if len(x) != 3:
            self.refuse(f"augments images of rows, columns and channels, not the shape {list(x)}")
        return x

    def check_range(self, drawn: Range) -> None:
        """Raise `LayerError` if nothing lies between the ends of a range."""
        if not drawn[0] <= drawn[1]:
            self.refuse(f"draws from {drawn[0]:g} to {drawn[1]:g}; the first must not be larger")

    def check_numbers(self, numbers: Numbers, channels: int) -> None:
        """Raise `LayerError` unless there is one number, or one for each channel."""
        if len(numbers) not in (1, channels):
            self.refuse(f"has {len(numbers)} numbers for {channels} channels; give one, or one for each")


class RandomFlip(Augmentation, frozen=True, kw_only=True, tag="random-flip"):
    """Each image mirrored or not, at even odds: left to right if `horizontal`, top to bottom if `vertical`."""

    horizontal: bool
    vertical: bool


class _Resampling(Augmentation, frozen=True, kw_only=True):
    """An image whose pixels come from other places of it. `fill` is what a constant fill takes."""

    fill_mode: FillMode
    interpolation: Interpolation
    fill: Numbers = (0.0,)

    def output(self, *inputs: Shape) -> Shape:
        shape = super().output(*inputs)
        self.check_numbers(self.fill, shape[-1])
        return shape


class RandomRotation(_Resampling, frozen=True, kw_only=True, tag="random-rotation"):
    """Each image turned about its centre, by a part of a full turn; Keras turns counter-clockwise."""

    turns: Range

    def output(self, *inputs: Shape) -> Shape:
        self.check_range(self.turns)
        return super().output(*inputs)


class RandomTranslation(_Resampling, frozen=True, kw_only=True, tag="random-translation"):
    """Each image moved down by a part of its height, and to the right by a part of its width."""

    height: Range
    width: Range

    def output(self, *inputs: Shape) -> Shape:
        self.check_range(self.height)
        self.check_range(self.width)
        return super().output(*inputs)


class RandomZoom(_Resampling, frozen=True, kw_only=True, tag="random-zoom"):
    """Each image zoomed about its centre: 1 plus the factor is the part of the height, or width, that is then seen.

    Without `width` the height's factor is taken for both.
    """

    height: Range
    width: Range | None = None

    def output(self, *inputs: Shape) -> Shape:
        for drawn in (self.height, self.width or self.height):
            self.check_range(drawn)
            if drawn[0] < -1.0:
                self.refuse(f"zooms by {drawn[0]:g}; factors begin at -1")
        return super().output(*inputs)


class RandomContrast(Augmentation, frozen=True, kw_only=True, tag="random-contrast"):
    """Each channel's distance from its mean over the image times a factor, cut off at `low` and `high`.

    The factor is one for all channels of an image.
    """

    factor: Range
    low: Numbers
    high: Numbers

    def output(self, *inputs: Shape) -> Shape:
        shape = super().output(*inputs)
        self.check_range(self.factor)
        for numbers in (self.low, self.high):
            self.check_numbers(numbers, shape[-1])
        return shape


AnyAugmentation = RandomContrast | RandomFlip | RandomRotation | RandomTranslation | RandomZoom
"""An augmentation of any kind: a description has no others."""


def in_other_units(layer: AnyAugmentation, scale: Numbers, offset: Numbers) -> AnyAugmentation:
    """The layer that does before ``x * scale + offset`` what `layer` does after it, rounding aside.

    Places, mirrors, means and distances from them are the same in both units; what is filled in, or cut off at, is not.
    Each is a number, or one for each channel. Raises `LayerError` if a scale is 0: nothing could be told from it.
    """
    if not all(scale):
        layer.refuse("comes after a scale of 0; put it before the Rescaling")
    if isinstance(layer, _Resampling):
        return msgspec.structs.replace(layer, fill=_before(layer.fill, scale, offset))
    if isinstance(layer, RandomContrast):
        ends = [_before(numbers, scale, offset) for numbers in (layer.low, layer.high)]
        low, high = (tuple(map(end, *of_one_length(*ends))) for end in (min, max))
        return msgspec.structs.replace(layer, low=low, high=high)
    return layer


def _before(numbers: Numbers, scale: Numbers, offset: Numbers) -> Numbers:
    """What becomes `numbers` when it is scaled and moved."""
    rows = of_one_length(numbers, scale, offset)
    return tuple((number - moved) / scaled for number, scaled, moved in zip(*rows, strict=True))


def of_one_length(*rows: Numbers) -> list[Numbers]:
    """`rows`, each of one number or one for each channel, as rows of one length."""
    length = max(map(len, rows))
    return [row * (length // len(row)) for row in rows]
