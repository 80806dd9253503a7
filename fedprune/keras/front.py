"""The front of a network, where augmentation may be: after the input, and layers that only scale and move numbers.

Augmentation is applied to examples, so that its place among such layers is given up, and its numbers are put into the
units of the input.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from fedprune.network.augmentation import AnyAugmentation, Augmentation, in_other_units, of_one_length
from fedprune.network.layer import Numbers
from fedprune.network.layers import AnyLayer, Rescaling

Step = tuple[AnyLayer | AnyAugmentation, tuple[int, ...], int]
"""A layer, the values that it takes, and the one that it makes. Value 0 is the input."""


def augmentation_of(steps: Sequence[Step], outputs: Sequence[int]) -> tuple[AnyAugmentation, ...]:
    """The augmentation of the input that does what that among `steps`, which are in order, does.

    Raises `LayerError` for augmentation that is elsewhere, or that only a part of the network sees.
    """
    users: dict[int, list[Step | None]] = defaultdict(list, {output: [None] for output in outputs})
    for step in steps:
        for value in step[1]:
            users[value].append(step)
    found: list[AnyAugmentation] = []
    scale: Numbers = (1.0,)
    offset: Numbers = (0.0,)
    value = 0
    while len(users[value]) == 1 and (only := users[value][0]) is not None:
        layer, _, value = only
        if isinstance(layer, Rescaling):
            scale, offset = _after(layer, scale, offset)
        elif isinstance(layer, Augmentation):
            found.append(in_other_units(layer, scale, offset))
        else:
            break
    others = [layer for layer, _, _ in steps if isinstance(layer, Augmentation)][len(found) :]
    for layer in others:
        layer.refuse(
            "augments elsewhere than at the front of the model; put it after the input, Rescaling and Normalization "
            "alone, and let no other layer take what is not augmented yet"
        )
    return tuple(found)


def _after(layer: Rescaling, scale: Numbers, offset: Numbers) -> tuple[Numbers, Numbers]:
    """The scale and the offset of `layer` after others."""
    factor, term, scale, offset = of_one_length(layer.scale, layer.offset, scale, offset)
    scaled = tuple(a * b for a, b in zip(factor, scale, strict=True))
    moved = tuple(a * b + c for a, b, c in zip(factor, offset, term, strict=True))
    return scaled, moved
