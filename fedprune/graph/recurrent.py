"""Recurrent layers, step after step: what each cell computes in a step, and how gradients go back through all of them.

The products with the inputs of all steps are one matrix product before the steps, and the gradient of the recurrent
weights is one after them: between two steps there is only what needs the step before. Steps are written one after the
other. LiteRT's loop would copy whatever is carried from iteration to iteration, all that the way back needs included,
and takes ten times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from fedprune.graph import operations as ops
from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.graph import Graph, Tensor
from fedprune.graph.masks import chosen

Slopes = Sequence[Tensor | None]
"""The gradient with respect to each step's output `[batch, units]`; None where there is none."""


@dataclass(frozen=True)
class Slope:
    """Gradients with respect to what the steps take: the projected inputs of each `[batch, gates units]`, the recurrent
    weights, and the recurrent bias where there is one."""

    steps: list[Tensor]
    recurrent: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class Unrolled:
    """The steps' outputs `[batch, units]`, in the order in which they are made, and the way back from their slopes."""

    outputs: list[Tensor]
    back: Callable[[Slopes], Slope]


Masks = Sequence[Tensor | None]
"""Of each step `[batch, 1]`: 1, or 0 where the state stays as it is; None where it never does."""

Unroll = Callable[[Tape, Sequence[Tensor], Masks, Tensor, Tensor | None], Unrolled]
"""From the projected inputs of each step, their masks, the recurrent weights and the recurrent bias."""


def recur(
    tape: Tape,
    projected: Value,
    recurrent: Value,
    bias: Value | None,
    unroll: Unroll,
    *,
    mask: Tensor | None,
    backwards: bool,
    sequences: bool,
) -> Value:
    """The outputs of a cell that goes through `projected` `[batch, steps, gates units]`: all of them `[batch, steps,
    units]` in the order in which they are made, or the last one `[batch, units]`. The `mask`, of 1 and 0, is `[batch,
    steps]`."""
    graph = tape.graph
    batch, steps, width = projected.shape
    units = recurrent.shape[0]
    flat = graph.reshape(projected.tensor, (batch, steps * width))
    order = range(steps)[:: -1 if backwards else 1]
    inputs = [graph.slice(flat, 1, step * width, width) for step in order]
    masks = [mask and graph.slice(mask, 1, step, 1) for step in order]
    unrolled = unroll(tape, inputs, masks, recurrent.tensor, None if bias is None else bias.tensor)
    outputs = unrolled.outputs

    @cache
    def back(d: Tensor) -> Slope:
        if not sequences:
            return unrolled.back([None] * (steps - 1) + [d])
        row = graph.reshape(d, (batch, steps * units))
        return unrolled.back([graph.slice(row, 1, step * units, units) for step in range(steps)])

    def to_projected(d: Tensor) -> Tensor:
        slopes = back(d).steps
        in_order = [slopes[number] for number in order]
        return graph.reshape(graph.concatenate(in_order, 1), projected.shape)

    def to_bias(d: Tensor) -> Tensor:
        slope = back(d).bias
        assert slope is not None
        return slope

    parents = [(projected, to_projected), (recurrent, lambda d: back(d).recurrent)]
    if bias is not None:
        parents.append((bias, to_bias))
    if not sequences:
        return tape.record(outputs[-1], *parents)
    return tape.record(graph.reshape(graph.concatenate(outputs, 1), (batch, steps, units)), *parents)


def simple_rnn(tape: Tape, inputs: Sequence[Tensor], masks: Masks, recurrent: Tensor, _: Tensor | None) -> Unrolled:
    """h = tanh(x + h U)."""
    graph, outputs = tape.graph, [_zeros(tape.graph, inputs[0].shape[0], recurrent.shape[0])]
    kept: list[Tensor] = []
    for x, mask in zip(inputs, masks, strict=True):
        kept.append(_tanh(tape, graph.add(x, graph.matmul(outputs[-1], recurrent))))
        outputs.append(_held(graph, mask, kept[-1], outputs[-1]))

    def back(slopes: Slopes) -> Slope:
        made: list[Tensor] = []
        dh: Tensor | None = None
        for slope, mask, h in zip(reversed(slopes), reversed(masks), reversed(kept), strict=True):
            dh, passed = _slopes_of_held(graph, mask, _plus(graph, slope, dh))
            made.append(graph.multiply(dh, _slope_of_tanh(graph, h)))
            dh = _plus(graph, graph.matmul(made[-1], recurrent, transpose_b=True), passed)
        made.reverse()
        return Slope(made, _outer(graph, outputs[:-1], made))

    return Unrolled(outputs[1:], back)


def lstm(tape: Tape, inputs: Sequence[Tensor], masks: Masks, recurrent: Tensor, _: Tensor | None) -> Unrolled:
    """i, f, g, o = x + h U; c = sigmoid(f) c + sigmoid(i) tanh(g); h = sigmoid(o) tanh(c)."""
    graph = tape.graph
    batch, units = inputs[0].shape[0], recurrent.shape[0]
    outputs, cells = [_zeros(graph, batch, units)], [_zeros(graph, batch, units)]
    kept: list[tuple[Tensor, ...]] = []
    for x, mask in zip(inputs, masks, strict=True):
        z = graph.add(x, graph.matmul(outputs[-1], recurrent))
        i, f, o = _parts(graph, ops.logistic(graph, z), units, 0, 1, 3)
        g = _tanh(tape, *_parts(graph, z, units, 2))
        c = graph.add(graph.multiply(f, cells[-1]), graph.multiply(i, g))
        squashed = _tanh(tape, c)
        kept.append((i, f, g, o, squashed, cells[-1]))
        cells.append(_held(graph, mask, c, cells[-1]))
        outputs.append(_held(graph, mask, graph.multiply(o, squashed), outputs[-1]))

    def back(slopes: Slopes) -> Slope:
        made: list[Tensor] = []
        dh: Tensor | None = None
        dc: Tensor | None = None
        steps = zip(reversed(slopes), reversed(masks), reversed(kept), strict=True)
        for slope, mask, (i, f, g, o, squashed, before) in steps:
            dh, passed = _slopes_of_held(graph, mask, _plus(graph, slope, dh))
            dc, passed_cell = (None, None) if dc is None else _slopes_of_held(graph, mask, dc)
            dc = _plus(graph, graph.multiply(graph.multiply(dh, o), _slope_of_tanh(graph, squashed)), dc)
            gates = (
                graph.multiply(graph.multiply(dc, g), _slope_of_sigmoid(graph, i)),
                graph.multiply(graph.multiply(dc, before), _slope_of_sigmoid(graph, f)),
                graph.multiply(graph.multiply(dc, i), _slope_of_tanh(graph, g)),
                graph.multiply(graph.multiply(dh, squashed), _slope_of_sigmoid(graph, o)),
            )
            made.append(graph.concatenate(gates, 1))
            dh = _plus(graph, graph.matmul(made[-1], recurrent, transpose_b=True), passed)
            dc = _plus(graph, graph.multiply(dc, f), passed_cell)
        made.reverse()
        return Slope(made, _outer(graph, outputs[:-1], made))

    return Unrolled(outputs[1:], back)


def gru_reset_after(
    tape: Tape, inputs: Sequence[Tensor], masks: Masks, recurrent: Tensor, bias: Tensor | None
) -> Unrolled:
    """z, r = sigmoid(x + h U + b); g = tanh(x + r (h U + b)); h = z h + (1 - z) g."""
    graph = tape.graph
    batch, units = inputs[0].shape[0], recurrent.shape[0]
    outputs = [_zeros(graph, batch, units)]
    kept: list[tuple[Tensor, ...]] = []
    for x, mask in zip(inputs, masks, strict=True):
        inner = graph.matmul(outputs[-1], recurrent)
        inner = inner if bias is None else graph.add(inner, bias)
        z, r = _parts(graph, ops.logistic(graph, graph.add(x, inner)), units, 0, 1)
        (own,), (carried,) = _parts(graph, x, units, 2), _parts(graph, inner, units, 2)
        g = _tanh(tape, graph.add(own, graph.multiply(r, carried)))
        kept.append((z, r, g, carried, outputs[-1]))
        outputs.append(_held(graph, mask, _mixed(graph, z, outputs[-1], g), outputs[-1]))

    def back(slopes: Slopes) -> Slope:
        made: list[Tensor] = []
        inner: list[Tensor] = []
        dh: Tensor | None = None
        steps = zip(reversed(slopes), reversed(masks), reversed(kept), strict=True)
        for slope, mask, (z, r, g, carried, before) in steps:
            dh, passed = _slopes_of_held(graph, mask, _plus(graph, slope, dh))
            dz, dg = _slopes_of_mixed(graph, dh, z, before, g)
            dr = graph.multiply(graph.multiply(dg, carried), _slope_of_sigmoid(graph, r))
            made.append(graph.concatenate((dz, dr, dg), 1))
            inner.append(graph.concatenate((dz, dr, graph.multiply(dg, r)), 1))
            dh = graph.add(graph.multiply(dh, z), graph.matmul(inner[-1], recurrent, transpose_b=True))
            dh = _plus(graph, dh, passed)
        made.reverse()
        inner.reverse()
        total = None if bias is None else graph.reshape(graph.sum(_rows(graph, inner), 0), bias.shape)
        return Slope(made, _outer(graph, outputs[:-1], inner), total)

    return Unrolled(outputs[1:], back)


def gru_reset_before(
    tape: Tape, inputs: Sequence[Tensor], masks: Masks, recurrent: Tensor, _: Tensor | None
) -> Unrolled:
    """z, r = sigmoid(x + h U); g = tanh(x + (r h) U); h = z h + (1 - z) g."""
    graph = tape.graph
    batch, units = inputs[0].shape[0], recurrent.shape[0]
    gates, candidate = graph.slice(recurrent, 1, 0, 2 * units), graph.slice(recurrent, 1, 2 * units, units)
    outputs = [_zeros(graph, batch, units)]
    kept: list[tuple[Tensor, ...]] = []
    for x, mask in zip(inputs, masks, strict=True):
        both = graph.add(graph.slice(x, 1, 0, 2 * units), graph.matmul(outputs[-1], gates))
        z, r = _parts(graph, ops.logistic(graph, both), units, 0, 1)
        (own,), reset = _parts(graph, x, units, 2), graph.multiply(r, outputs[-1])
        g = _tanh(tape, graph.add(own, graph.matmul(reset, candidate)))
        kept.append((z, r, g, reset, outputs[-1]))
        outputs.append(_held(graph, mask, _mixed(graph, z, outputs[-1], g), outputs[-1]))

    def back(slopes: Slopes) -> Slope:
        both: list[Tensor] = []
        candidates: list[Tensor] = []
        dh: Tensor | None = None
        steps = zip(reversed(slopes), reversed(masks), reversed(kept), strict=True)
        for slope, mask, (z, r, g, _, before) in steps:
            dh, passed = _slopes_of_held(graph, mask, _plus(graph, slope, dh))
            dz, dg = _slopes_of_mixed(graph, dh, z, before, g)
            dreset = graph.matmul(dg, candidate, transpose_b=True)
            dr = graph.multiply(graph.multiply(dreset, before), _slope_of_sigmoid(graph, r))
            both.append(graph.concatenate((dz, dr), 1))
            candidates.append(dg)
            through = graph.add(graph.multiply(dreset, r), graph.matmul(both[-1], gates, transpose_b=True))
            dh = _plus(graph, graph.add(graph.multiply(dh, z), through), passed)
        both.reverse()
        candidates.reverse()
        made = [graph.concatenate(parts, 1) for parts in zip(both, candidates, strict=True)]
        resets = [reset for _, _, _, reset, _ in kept]
        slope_of_weights = graph.concatenate((_outer(graph, outputs[:-1], both), _outer(graph, resets, candidates)), 1)
        return Slope(made, slope_of_weights)

    return Unrolled(outputs[1:], back)


def _held(graph: Graph, mask: Tensor | None, after: Tensor, before: Tensor) -> Tensor:
    """The state after a step; that before it where the step is masked."""
    return after if mask is None else chosen(graph, mask, after, before)


def _slopes_of_held(graph: Graph, mask: Tensor | None, d: Tensor) -> tuple[Tensor, Tensor | None]:
    """The gradients with respect to what the step made and, where it may be masked, to the state before it."""
    if mask is None:
        return d, None
    return graph.multiply(d, mask), graph.multiply(d, graph.subtract(1.0, mask))


def _mixed(graph: Graph, z: Tensor, before: Tensor, g: Tensor) -> Tensor:
    """z h + (1 - z) g."""
    return graph.add(graph.multiply(z, before), graph.multiply(graph.subtract(1.0, z), g))


def _slopes_of_mixed(graph: Graph, dh: Tensor, z: Tensor, before: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients with respect to what z is a sigmoid of, and g a tanh."""
    dz = graph.multiply(graph.multiply(dh, graph.subtract(before, g)), _slope_of_sigmoid(graph, z))
    dg = graph.multiply(graph.multiply(dh, graph.subtract(1.0, z)), _slope_of_tanh(graph, g))
    return dz, dg


def _tanh(tape: Tape, x: Tensor) -> Tensor:
    return ops.tanh(tape, tape.leaf(x, differentiable=False)).tensor


def _slope_of_tanh(graph: Graph, y: Tensor) -> Tensor:
    return graph.subtract(1.0, graph.multiply(y, y))


def _slope_of_sigmoid(graph: Graph, y: Tensor) -> Tensor:
    return graph.multiply(y, graph.subtract(1.0, y))


def _plus(graph: Graph, a: Tensor | None, b: Tensor | None) -> Tensor:
    """The sum of those of two gradients that there are."""
    given = [slope for slope in (a, b) if slope is not None]
    return graph.add(*given) if len(given) == 2 else given[0]


def _parts(graph: Graph, x: Tensor, units: int, *gates: int) -> tuple[Tensor, ...]:
    return tuple(graph.slice(x, 1, gate * units, units) for gate in gates)


def _rows(graph: Graph, steps: Sequence[Tensor]) -> Tensor:
    """Each step of each example `[batch steps, width]`."""
    batch, width = steps[0].shape
    return graph.reshape(graph.concatenate(steps, 1), (batch * len(steps), width))


def _outer(graph: Graph, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The sum over steps and examples of the outer products of `a` and `b`."""
    rows = ops.in_blocks(len(a) * a[0].shape[0])
    return ops.product_over_rows(
        graph, *(graph.reshape(_rows(graph, steps), (*rows, steps[0].shape[1])) for steps in (a, b))
    )


def _zeros(graph: Graph, batch: int, units: int) -> Tensor:
    return graph.constant(np.zeros((batch, units), np.float32))
