"""Losses: the mean over the examples of a batch and their places that count, and how a gradient starts from it."""

from __future__ import annotations

import math
from collections.abc import Callable

from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.graph import Graph, Tensor
from fedprune.graph.operations import logistic, reshape, softplus
from fedprune.model.losses import Loss, Objective

GraphLoss = Callable[[Tape, Value, Tensor, Tensor], Value]
"""To a value [1] from the model's output `[rows, k]`, which is logits for a crossentropy, targets `[rows, k]`, and the
share `[batch, 1]` that each row of an example has, or `[rows, 1]` that each row has."""


def mean_loss(tape: Tape, objective: Objective, output: Value, target: Tensor, share: Tensor) -> Value:
    """The loss of a batch, of shape [1].

    Args:
        output: of the model, `[batch, *places, k]`. A crossentropy starts from the logits below a softmax or sigmoid.
        target: `[batch, *places, k]`; one-hot even where Keras takes class numbers.
        share: of each example in the mean, `[batch, 1]`, in which its places share alike; or of each place
            `[batch, places]`.
    """
    graph, loss = tape.graph, objective.loss
    batch, *places, outputs = output.shape
    if objective.label_smoothing:
        factor, added = objective.smoothing_of(outputs)
        target = graph.add(graph.multiply(target, factor), added)
    source = (output.logits or output) if loss.rule.activation else output
    if places:
        count = math.prod(places)
        source = reshape(tape, source, (batch * count, outputs))
        target = graph.reshape(target, source.shape)
        of_examples = share.shape[1] == 1
        share = graph.multiply(share, 1.0 / count) if of_examples else graph.reshape(share, (batch * count, 1))
    return _LOSSES[loss](tape, source, target, share)


def _softmax_crossentropy(tape: Tape, logits: Value, target: Tensor, share: Tensor) -> Value:
    """Targets sum to 1."""
    graph = tape.graph
    z = graph.subtract(logits.tensor, graph.reduce_max(logits.tensor, 1))
    powers = graph.exp(z)
    total = _sum_row(graph, powers)
    likelihood = graph.subtract(_sum_row(graph, graph.multiply(target, z)), graph.log(total))
    slope = _shared(graph, graph.subtract(graph.divide(powers, total), target), share)
    return _mean(tape, graph.multiply(likelihood, -1.0), share, logits, slope)


def _binary_crossentropy(tape: Tape, logits: Value, target: Tensor, share: Tensor) -> Value:
    """The mean over the outputs."""
    graph, z = tape.graph, logits.tensor
    rows = _mean_row(graph, graph.subtract(softplus(graph, z), graph.multiply(z, target)))
    slope = _shared(graph, graph.subtract(logistic(graph, z), target), share)
    return _mean(tape, rows, share, logits, graph.multiply(slope, 1.0 / logits.shape[1]))


def _mean_squared_error(tape: Tape, output: Value, target: Tensor, share: Tensor) -> Value:
    """The mean over the outputs."""
    graph = tape.graph
    error = graph.subtract(output.tensor, target)
    slope = graph.multiply(_shared(graph, error, share), 2.0 / output.shape[1])
    return _mean(tape, _mean_row(graph, graph.multiply(error, error)), share, output, slope)


_LOSSES: dict[Loss, GraphLoss] = {
    Loss.SPARSE_CATEGORICAL_CROSSENTROPY: _softmax_crossentropy,
    Loss.CATEGORICAL_CROSSENTROPY: _softmax_crossentropy,
    Loss.BINARY_CROSSENTROPY: _binary_crossentropy,
    Loss.MEAN_SQUARED_ERROR: _mean_squared_error,
}


def _mean(tape: Tape, rows: Tensor, share: Tensor, source: Value, slope: Tensor) -> Value:
    """The weighted sum of `rows` `[rows, 1]`, whose gradient with respect to `source` is `slope`."""
    graph = tape.graph
    total = graph.sum(_shared(graph, rows, share), 0, 1)
    return tape.record(graph.reshape(total, (1,)), (source, lambda d: graph.multiply(slope, d)))


def _shared(graph: Graph, x: Tensor, share: Tensor) -> Tensor:
    """`x` `[rows, ...]` times the share of each row, or of each row's example."""
    batch = share.shape[0]
    return graph.reshape(graph.multiply(graph.reshape(x, (batch, x.size // batch)), share), x.shape)


def _sum_row(graph: Graph, x: Tensor) -> Tensor:
    return graph.sum(x, 1)


def _mean_row(graph: Graph, x: Tensor) -> Tensor:
    return graph.multiply(graph.sum(x, 1), 1.0 / x.shape[1])
