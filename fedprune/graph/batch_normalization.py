"""Batch normalisation over the examples that count."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.graph import Graph, Tensor


@dataclass(frozen=True)
class Examples:
    """The rows of a batch that are examples: each one's share `[batch, 1]` of a mean over them (0 for what fills the
    batch up), and their number `[1]`."""

    share: Tensor
    count: Tensor


@dataclass(frozen=True)
class Moments:
    """A batch's mean and variance, `[channels]`; the variance is unbiased if the moving one is."""

    mean: Tensor
    variance: Tensor


def batch_normalization(
    tape: Tape, x: Value, gamma: Value, beta: Value, examples: Examples, *, epsilon: float, unbiased: bool
) -> tuple[Value, Moments]:
    """`x` less its mean, over its standard deviation, times gamma plus beta, for each entry of the last axis."""
    graph, channels = tape.graph, x.shape[-1]
    places, single = x.shape[1:-1], (1,) * (len(x.shape) - 1)
    axes, row = range(len(single)), (*single, channels)
    share = graph.reshape(examples.share, (x.shape[0], *single))

    def mean_of(values: Tensor) -> Tensor:
        weighted = graph.multiply(graph.sum(values, *axes[1:]), share)
        return graph.multiply(graph.sum(weighted, 0), 1.0 / math.prod(places))

    mean = mean_of(x.tensor)
    centered = graph.subtract(x.tensor, mean)
    variance = mean_of(graph.multiply(centered, centered))
    precision = graph.rsqrt(graph.add(variance, epsilon))
    factor = graph.multiply(precision, graph.reshape(gamma.tensor, row))
    y = graph.add(graph.multiply(centered, factor), graph.reshape(beta.tensor, row))

    def sum_of(d: Tensor) -> Tensor:
        return graph.sum(d, *axes)

    def product_of(d: Tensor) -> Tensor:
        return graph.sum(graph.multiply(d, centered), *axes)

    def to_x(d: Tensor) -> Tensor:
        part = graph.multiply(share, 1.0 / math.prod(places))
        slope = graph.multiply(product_of(d), graph.multiply(precision, precision))
        drift = graph.add(graph.multiply(centered, graph.multiply(slope, part)), graph.multiply(sum_of(d), part))
        return graph.multiply(graph.subtract(d, drift), factor)

    def to_gamma(d: Tensor) -> Tensor:
        return graph.reshape(graph.multiply(product_of(d), precision), gamma.shape)

    def to_beta(d: Tensor) -> Tensor:
        return graph.reshape(sum_of(d), beta.shape)

    value = tape.record(y, (x, to_x), (gamma, to_gamma), (beta, to_beta))
    if unbiased:
        variance = graph.multiply(variance, _bessel(graph, graph.multiply(examples.count, float(math.prod(places)))))
    return value, Moments(graph.reshape(mean, (channels,)), graph.reshape(variance, (channels,)))


def _bessel(graph: Graph, count: Tensor) -> Tensor:
    """n / (n - 1), and n for n = 1, as TensorFlow's fused kernel has it."""
    return graph.divide(count, graph.maximum(graph.add(count, -1.0), 1.0))
