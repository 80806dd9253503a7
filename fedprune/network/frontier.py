"""The frontier of a network whose first layers are frozen: one value, up to which nothing is learned.

What comes before is the *base*, whose activations are the same in every step; what comes after is the *head*.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from fedprune.model.tensors import TensorClass, TensorTable
from fedprune.network.description import Call, Network
from fedprune.network.layers import AnyLayer, Dropout, GaussianNoise, MultiHeadAttention, Shape


@dataclass(frozen=True)
class Parts:
    """A network in two: the head takes what the base makes. Each has the rows of the tensor table that it holds."""

    base: Network
    base_table: TensorTable
    head: Network
    head_table: TensorTable


def cut_at_frontier(network: Network, table: TensorTable) -> Parts | None:
    """The parts of a network, which was checked, that is cut at the last value through which all of it passes and
    before which nothing trains, moves or draws.

    None where the base would hold no tensor, or there would be no base: examples that are augmented are new in every
    step, and which places of an output are padding is asked of what goes in. A penalty of a base's tensor would be
    lost, so such a network is not cut either.
    """
    frontier = None if network.augmentation or network.output_masks else _frontier(network, table)
    if frontier is None:
        return None
    end = frontier - len(network.inputs) + 1  # of the calls, those up to the one that makes the frontier
    base = _part(network, network.calls[:end], network.inputs, (frontier,), first=0)
    head = _part(network, network.calls[end:], (network.shapes()[frontier],), network.outputs, first=frontier)
    base_table, head_table = (_rows(part, table) for part in (base, head))
    if not len(base_table) or base.penalties:
        return None
    return Parts(base, base_table, head, head_table)


def _frontier(network: Network, table: TensorTable) -> int | None:
    """The last value after an untrained call over which no call reaches back to an earlier one. None if there is none.

    Values are in the order in which they are made, so that every path through the network that avoids a value has a
    step over it.
    """
    inputs, shapes = len(network.inputs), network.shapes()
    trained = {spec.name for spec in table if spec.kind is not TensorClass.FROZEN}
    last_use = list(range(len(shapes)))
    for number, call in enumerate(network.calls, start=inputs):
        for value in call.inputs:
            last_use[value] = number
    for value in network.outputs:
        last_use[value] = len(shapes)
    found, furthest = None, max(last_use[:inputs])
    for value, (layer, call) in enumerate(network.steps(), start=inputs):
        held = layer.tensors(*(shapes[number] for number in call.inputs))
        if not trained.isdisjoint(held) or _draws(layer):
            break
        if furthest <= value and shapes[value] and last_use[value] < len(shapes):
            found = value
        furthest = max(furthest, last_use[value])
    return found


def _draws(layer: AnyLayer) -> bool:
    """True of a layer that draws random numbers in training."""
    match layer:
        case Dropout(rate=size) | MultiHeadAttention(rate=size) | GaussianNoise(deviation=size):
            return size > 0.0
    return False


def _part(
    network: Network, calls: tuple[Call, ...], inputs: tuple[Shape, ...], outputs: tuple[int, ...], *, first: int
) -> Network:
    """The network of some `calls`, one after another. Values count from `first`, which is its first input."""
    layers = sorted({call.layer for call in calls})
    numbers = {layer: number for number, layer in enumerate(layers)}
    part = msgspec.structs.replace(
        network,
        inputs=inputs,
        layers=tuple(network.layers[layer] for layer in layers),
        calls=tuple(Call(numbers[call.layer], tuple(value - first for value in call.inputs)) for call in calls),
        outputs=tuple(value - first for value in outputs),
        penalties=(),
        input_names=() if len(inputs) == 1 else network.input_names,
        output_names=() if len(outputs) == 1 else network.output_names,
    )
    held = _tensors(part)
    return msgspec.structs.replace(part, penalties=tuple(own for own in network.penalties if own.tensor in held))


def _rows(part: Network, table: TensorTable) -> TensorTable:
    held = _tensors(part)
    return TensorTable(tuple(spec for spec in table if spec.name in held))


def _tensors(part: Network) -> set[str]:
    shapes = part.shapes()
    return {name for layer, call in part.steps() for name in layer.tensors(*(shapes[value] for value in call.inputs))}
