"""The padded steps of examples, which are neither learned nor judged: what a network's masks come to, in numpy.

Masks are made of what goes in, without a weight. So whoever has answers, also those of an exported file, can tell which
of them count.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Inputs
from fedprune.network.description import Network
from fedprune.network.layers import Concatenate, IdMask, Merge, StepMask
from fedprune.network.masks import mask_values

Counted = NDArray[np.bool_]
"""Of an output's places `[examples, *places]`: those that count."""


def counted_places(network: Network, inputs: Sequence[Inputs]) -> tuple[Counted | None, ...]:
    """For each output the places that count; None where all do.

    Args:
        network: was checked.
        inputs: the examples, `[examples, ...]` for each of its inputs.
    """
    if not network.output_masks:
        return (None,) * len(network.outputs)
    found: dict[int, Counted] = {}
    steps = ((layer, call.inputs) for layer, call in network.steps())
    for value, (layer, taken) in mask_values(len(inputs), steps).items():
        match layer:
            case IdMask():
                found[value] = inputs[taken[0]] != 0
            case StepMask():
                found[value] = (inputs[taken[0]] != np.float32(layer.padding)).any(axis=-1)
            case Merge():
                found[value] = reduce(np.logical_and, (found[number] for number in taken))
            case Concatenate():
                found[value] = np.concatenate([found[number] for number in taken], axis=layer.axis + 1)
    return tuple(None if mask is None else found[mask] for mask in network.output_masks)
