"""Recurrent layers in an inference graph: the weights are constants, and nothing is kept for a way back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.graph.graph import Graph, Tensor
from fedprune.graph.masks import chosen
from fedprune.model.tensors import Array, Weights
from fedprune.network import layers as kinds


def infer_recurrent(
    graph: Graph, layer: kinds.Recurrent, weights: Weights, x: Tensor, mask: Tensor | None = None
) -> Tensor:
    """The layer's output for `x` `[batch, steps, inputs]`, and the mask of its steps `[batch, steps]` if it has one."""
    batch, steps, size = x.shape
    kernel, (bias, inner) = weights[layer.kernel].T, _biases(layer, weights)
    rows = graph.fully_connect(
        graph.reshape(x, (batch * steps, size)), _constant(graph, kernel), _constant(graph, bias)
    )
    width = kernel.shape[0]
    flat = graph.reshape(rows, (batch, steps * width))
    order = -1 if layer.backwards else 1
    inputs = [graph.slice(flat, 1, step * width, width) for step in range(steps)][::order]
    masks = None if mask is None else [graph.slice(mask, 1, step, 1) for step in range(steps)][::order]
    recurrence = _Recurrence(graph, layer, weights, inner)
    outputs = list(recurrence.outputs(inputs, masks))
    if masks is not None and layer.zero_masked:
        outputs = [graph.multiply(output, kept) for output, kept in zip(outputs, masks, strict=True)]
    if not layer.sequences:
        return outputs[-1]
    return graph.reshape(graph.concatenate(outputs, 1), (batch, steps, layer.units))


class _Recurrence:
    """The steps of a layer. `bias` is that of the recurrent product."""

    def __init__(self, graph: Graph, layer: kinds.Recurrent, weights: Weights, bias: Array) -> None:
        self._graph, self._layer = graph, layer
        self._recurrent = weights[layer.recurrent].T
        self._bias = bias
        self._constants: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def outputs(self, inputs: Sequence[Tensor], masks: Sequence[Tensor] | None) -> Iterator[Tensor]:
        """Those of all steps; a step whose mask is 0 leaves the state as it is."""
        h = c = _constant(self._graph, np.zeros((inputs[0].shape[0], self._layer.units)))
        for number, x in enumerate(inputs):
            after = self._step(x, h, c)
            if masks is not None:
                after = tuple(chosen(self._graph, masks[number], *both) for both in zip(after, (h, c), strict=True))
            h, c = after
            yield h

    def _step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        """The state after a step: what it returns and, if the layer has one, a cell."""
        match self._layer:
            case kinds.LSTM():
                return self._lstm(x, h, c)
            case kinds.GRU(reset_after=True):
                h = self._gru(x, h)
            case kinds.GRU():
                h = self._gru_reset_before(x, h)
            case _:
                h = self._graph.tanh(self._graph.add(x, self._product(h)))
        return h, h

    def _lstm(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        graph, z = self._graph, self._graph.add(x, self._product(h))
        i, f, o = (graph.logistic(self._gate(z, number)) for number in (0, 1, 3))
        c = graph.add(graph.multiply(f, c), graph.multiply(i, graph.tanh(self._gate(z, 2))))
        return graph.multiply(o, graph.tanh(c)), c

    def _gru(self, x: Tensor, h: Tensor) -> Tensor:
        graph, inner = self._graph, self._product(h)
        z, r = (graph.logistic(graph.add(self._gate(x, number), self._gate(inner, number))) for number in (0, 1))
        return self._mixed(z, h, graph.add(self._gate(x, 2), graph.multiply(r, self._gate(inner, 2))))

    def _gru_reset_before(self, x: Tensor, h: Tensor) -> Tensor:
        graph, units = self._graph, self._layer.units
        both = graph.add(graph.slice(x, 1, 0, 2 * units), self._product(h, 0, 2))
        z, r = (graph.logistic(self._gate(both, number)) for number in (0, 1))
        return self._mixed(z, h, graph.add(self._gate(x, 2), self._product(graph.multiply(r, h), 2, 3)))

    def _mixed(self, z: Tensor, h: Tensor, candidate: Tensor) -> Tensor:
        graph = self._graph
        return graph.add(graph.multiply(z, h), graph.multiply(graph.subtract(1.0, z), graph.tanh(candidate)))

    def _product(self, h: Tensor, first: int = 0, end: int | None = None) -> Tensor:
        """`h` times the recurrent weights of the gates from `first` up to `end`, plus the bias."""
        gates = (first, self._layer.gates if end is None else end)
        if gates not in self._constants:  # the same at each step, and to look for equal ones takes longer than a step
            part = slice(*(gate * self._layer.units for gate in gates))
            rows, bias = self._recurrent[part], self._bias[part]
            self._constants[gates] = _constant(self._graph, rows), _constant(self._graph, bias)
        return self._graph.fully_connect(h, *self._constants[gates])

    def _gate(self, x: Tensor, number: int) -> Tensor:
        return self._graph.slice(x, 1, number * self._layer.units, self._layer.units)


def _biases(layer: kinds.Recurrent, weights: Weights) -> Array:
    """The biases of the inputs' product and of the recurrent one, `[2, gates units]`."""
    width = layer.gates * layer.units
    rows = np.zeros((2, width), np.float32)
    if layer.bias is not None:
        given = np.reshape(weights[layer.bias], (-1, width))
        rows[: len(given)] = given
    return rows


def _constant(graph: Graph, array: NDArray[Any]) -> Tensor:
    return graph.constant(np.ascontiguousarray(array, np.float32))
