"""Rules of layers that draw random numbers in training: each its own inputs of the graph, uniform over [0, 1)."""

from __future__ import annotations

import math

from fedprune.graph import operations as ops
from fedprune.graph.autodiff import Value
from fedprune.graph.context import Context
from fedprune.graph.graph import Tensor
from fedprune.network.layers import Dropout, GaussianNoise


def dropout(context: Context, layer: Dropout, inputs: list[Value]) -> Value:
    (x,) = inputs
    drawn = (x.shape[0], *(1 for _ in x.shape[1:-1]), x.shape[-1]) if layer.whole_channels else x.shape
    return drop(context, x, layer.rate, drawn)


def drop(context: Context, x: Value, rate: float, drawn: tuple[int, ...]) -> Value:
    """In training, `x` with zeros at a rate, where one number is `drawn` for each."""
    if context.examples is None or rate == 0.0:
        return x
    graph = context.tape.graph
    kept = ops.is_positive(graph, graph.add(context.noise(drawn), -rate))
    return ops.scale(context.tape, x, graph.multiply(kept, 1.0 / (1.0 - rate)))


def gaussian_noise(context: Context, layer: GaussianNoise, inputs: list[Value]) -> Value:
    (x,) = inputs
    if context.examples is None or layer.deviation == 0.0:
        return x
    graph = context.tape.graph
    noise = graph.multiply(_normal(context, x.shape), layer.deviation)
    if layer.relative:
        return ops.scale(context.tape, x, graph.add(noise, 1.0))
    return ops.add(context.tape, x, context.tape.leaf(noise, differentiable=False))


def _normal(context: Context, shape: tuple[int, ...]) -> Tensor:
    """Normal numbers: sqrt(-2 log(1 - u)) cos(2 pi v). Box and Muller 1958, "A note on the generation of random normal
    deviates"."""
    graph = context.tape.graph
    radius = graph.sqrt(graph.multiply(graph.log(graph.subtract(1.0, context.noise(shape))), -2.0))
    return graph.multiply(radius, graph.cos(graph.multiply(context.noise(shape), 2.0 * math.pi)))
