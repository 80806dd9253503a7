"""Rules of layers that take each number by itself, and leave the shape."""

from __future__ import annotations

from fedprune.graph import operations as ops
from fedprune.graph.activations import activate
from fedprune.graph.autodiff import Value
from fedprune.graph.context import Context, Rules
from fedprune.graph.noise import dropout, gaussian_noise
from fedprune.network.layers import Activation, Dropout, GaussianNoise, Rescaling


def _activation(context: Context, layer: Activation, inputs: list[Value]) -> Value:
    (x,) = inputs
    return activate(context.tape, layer, x)


def _rescaling(context: Context, layer: Rescaling, inputs: list[Value]) -> Value:
    (x,) = inputs
    y = ops.scale(context.tape, x, ops.row(context.tape, layer.scale, x.shape[-1]).tensor)
    return ops.add(context.tape, y, ops.row(context.tape, layer.offset, x.shape[-1]))


RULES: Rules = {
    Activation: _activation,
    Dropout: dropout,
    GaussianNoise: gaussian_noise,
    Rescaling: _rescaling,
}
