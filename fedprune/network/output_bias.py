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
    makers = dict(enumerate(steps, inputs))
    value = network.outputs[output]
    if value in makers and taken.count(value) == 1:
        last, call = makers[value]
        if isinstance(last, Activation) and last.function in _LAST:
            (value,) = call.inputs  # of probabilities: what they are made of are the logits
    if value not in makers or taken.count(value) != 1:
        return None
    layer, call = makers[value]
    if not isinstance(layer, Dense | Convolution) or [each.layer for _, each in steps].count(call.layer) != 1:
        return None
    return layer.bias
