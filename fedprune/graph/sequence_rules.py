"""Layer rules of sequences, as `rules` has those of other layers: token ids, and cells that go step by step."""

from __future__ import annotations

from fedprune.graph import operations as ops
from fedprune.graph import recurrent
from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.context import Context, Rules
from fedprune.graph.graph import Tensor
from fedprune.graph.masks import without_masked
from fedprune.graph.recurrent import Unroll
from fedprune.network import layers as kinds


def _embedding(context: Context, layer: kinds.Embedding, inputs: list[Value]) -> Value:
    """Rows of the table. The gradient adds up at the rows alone that were taken, without one-hot rows."""
    (ids,), graph, table = inputs, context.tape.graph, context.weight(layer.table)
    flat = graph.reshape(ids.tensor, (ids.tensor.size,))
    rows = context.tape.record(
        graph.gather(table.tensor, flat), (table, lambda d: graph.scatter(flat, d, layer.vocabulary))
    )
    return ops.reshape(context.tape, rows, (*ids.shape, layer.units))


def _reversal(context: Context, _: kinds.Reversal, inputs: list[Value]) -> Value:
    (x,), graph = inputs, context.tape.graph
    return context.tape.record(graph.reverse(x.tensor, 1), (x, lambda d: graph.reverse(d, 1)))


def _simple_rnn(context: Context, layer: kinds.SimpleRNN, inputs: list[Value]) -> Value:
    bias = context.weight(layer.bias) if layer.bias else None
    return _recur(context, layer, inputs, recurrent.simple_rnn, bias, None)


def _lstm(context: Context, layer: kinds.LSTM, inputs: list[Value]) -> Value:
    bias = context.weight(layer.bias) if layer.bias else None
    return _recur(context, layer, inputs, recurrent.lstm, bias, None)


def _gru(context: Context, layer: kinds.GRU, inputs: list[Value]) -> Value:
    bias = context.weight(layer.bias) if layer.bias else None
    if not layer.reset_after:
        return _recur(context, layer, inputs, recurrent.gru_reset_before, bias, None)
    own, inner = (None, None) if bias is None else (_row(context.tape, bias, 0), _row(context.tape, bias, 1))
    return _recur(context, layer, inputs, recurrent.gru_reset_after, own, inner)


def _recur(
    context: Context,
    layer: kinds.Recurrent,
    inputs: list[Value],
    unroll: Unroll,
    bias: Value | None,
    inner: Value | None,
) -> Value:
    """The products with all steps' inputs at once, then the steps. `bias` belongs to the inputs' product, `inner` to
    the recurrent one."""
    (x, *masks), tape = inputs, context.tape
    mask = masks[0].tensor if masks else None
    batch, steps, size = x.shape
    kernel = context.weight(layer.kernel)
    projected = ops.matmul(tape, ops.reshape(tape, x, (*ops.in_blocks(batch * steps), size)), kernel)
    if bias is not None:
        projected = ops.add(tape, projected, bias)
    y = recurrent.recur(
        tape,
        ops.reshape(tape, projected, (batch, steps, kernel.shape[1])),
        context.weight(layer.recurrent),
        inner,
        unroll,
        mask=mask,
        backwards=layer.backwards,
        sequences=layer.sequences,
    )
    return y if mask is None or not layer.zero_masked else _zero_masked(tape, layer, y, mask)


def _zero_masked(tape: Tape, layer: kinds.Recurrent, y: Value, mask: Tensor) -> Value:
    """Zeros for the outputs of masked steps, which `y` holds in the order in which they were made."""
    graph, steps = tape.graph, mask.shape[1]
    if layer.sequences:
        return without_masked(tape, y, graph.reverse(mask, 1) if layer.backwards else mask)
    return ops.scale(tape, y, graph.slice(mask, 1, 0 if layer.backwards else steps - 1, 1))


def _row(tape: Tape, matrix: Value, number: int) -> Value:
    """A row of a matrix, as a vector."""
    graph, (rows, width) = tape.graph, matrix.shape
    row = graph.reshape(graph.slice(matrix.tensor, 0, number, 1), (width,))
    return tape.record(
        row, (matrix, lambda d: graph.pad(graph.reshape(d, (1, width)), {0: (number, rows - number - 1)}))
    )


RULES: Rules = {
    kinds.GRU: _gru,
    kinds.LSTM: _lstm,
    kinds.Embedding: _embedding,
    kinds.Reversal: _reversal,
    kinds.SimpleRNN: _simple_rnn,
}
