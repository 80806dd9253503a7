"""The bias that adds a number of its own to each of an output's logits."""

from __future__ import annotations

from fedprune.network.description import Network
from fedprune.network.layers import Activation, Convolution, Dense
from fedprune.network.pointwise import Function

_LAST = (Function.SOFTMAX, Function.SIGMOID)


def output_bias(network: Network, output: int) -> str | None:
    """The tensor `[outputs]` that is added to the logits of an output, counted from 0; None if there is none, or if
    what it is added to goes elsewhere too.

    Args:
        network: was checked.
    """
    steps, inputs = list(network.steps()), len(network.inputs)
    taken = [value for _, call in steps for value in call.inputs] + list(network.outputs)
    value = network.outputs[output]
    while value >= inputs and taken.count(value) == 1:
        layer, call = steps[value - inputs]
        if isinstance(layer, Dense | Convolution):
            return layer.bias if [each.layer for _, each in steps].count(call.layer) == 1 else None
        if not isinstance(layer, Activation) or layer.function not in _LAST:
            break
        (value,) = call.inputs
    return None
