"""Losses: the mean over the examples of a batch, and how a gradient starts from it."""

from __future__ import annotations

from collections.abc import Callable

from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.graph import Graph, Tensor
from fedprune.graph.operations import logistic
from fedprune.model.losses import Loss

GraphLoss = Callable[[Tape, Value, Tensor, Tensor], Value]
"""From the model's output `[batch, k]`, targets `[batch, k]` and each example's share `[batch, 1]` to a value [1]."""


def softmax_crossentropy(tape: Tape, output: Value, target: Tensor, share: Tensor) -> Value:
    """Of logits, those below a softmax if the model ends in one; targets sum to 1."""
    graph, logits = tape.graph, output.logits or output
    z = graph.subtract(logits.tensor, graph.reduce_max(logits.tensor, 1))
    powers = graph.exp(z)
    total = _sum_row(graph, powers)
    likelihood = graph.subtract(_sum_row(graph, graph.multiply(target, z)), graph.log(total))
    slope = graph.multiply(graph.subtract(graph.divide(powers, total), target), share)
    return _mean(tape, graph.multiply(likelihood, -1.0), share, logits, slope)


def binary_crossentropy(tape: Tape, output: Value, target: Tensor, share: Tensor) -> Value:
    """Of logits, those below a sigmoid if the model ends in one; the mean over the outputs."""
    graph, logits = tape.graph, output.logits or output
    z = logits.tensor
    positive = graph.relu(z)
    magnitude = graph.subtract(graph.multiply(positive, 2.0), z)
    softplus = graph.add(positive, graph.log(graph.add(graph.exp(graph.multiply(magnitude, -1.0)), 1.0)))
    rows = _mean_row(graph, graph.subtract(softplus, graph.multiply(z, target)))
    slope = graph.multiply(graph.subtract(logistic(graph, z), target), share)
    return _mean(tape, rows, share, logits, graph.multiply(slope, 1.0 / output.shape[1]))


def mean_squared_error(tape: Tape, output: Value, target: Tensor, share: Tensor) -> Value:
    """The mean over the outputs."""
    graph = tape.graph
    error = graph.subtract(output.tensor, target)
    slope = graph.multiply(graph.multiply(error, share), 2.0 / output.shape[1])
    return _mean(tape, _mean_row(graph, graph.multiply(error, error)), share, output, slope)


LOSSES: dict[Loss, GraphLoss] = {
    Loss.SPARSE_CATEGORICAL_CROSSENTROPY: softmax_crossentropy,
    Loss.CATEGORICAL_CROSSENTROPY: softmax_crossentropy,
    Loss.BINARY_CROSSENTROPY: binary_crossentropy,
    Loss.MEAN_SQUARED_ERROR: mean_squared_error,
}
"""Targets are one-hot even where Keras takes class numbers."""


def _mean(tape: Tape, rows: Tensor, share: Tensor, source: Value, slope: Tensor) -> Value:
    """The weighted sum of `rows` `[batch, 1]`, whose gradient with respect to `source` is `slope`."""
    graph = tape.graph
    total = graph.sum(graph.multiply(rows, share), 0, 1)
    return tape.record(graph.reshape(total, (1,)), (source, lambda d: graph.multiply(slope, d)))


def _sum_row(graph: Graph, x: Tensor) -> Tensor:
    return graph.sum(x, 1)


def _mean_row(graph: Graph, x: Tensor) -> Tensor:
    return graph.multiply(graph.sum(x, 1), 1.0 / x.shape[1])
