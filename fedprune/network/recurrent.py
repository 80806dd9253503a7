"""Layers that go through a sequence step by step, each step from what the one before it left."""

from __future__ import annotations

from typing import ClassVar

from fedprune.network.layer import Count, Layer, Name, Shape

__all__ = ["GRU", "LSTM", "Recurrent", "RecurrentLayer", "Reversal", "SimpleRNN"]


class Recurrent(Layer, frozen=True, kw_only=True):
    """A cell of `units` that goes through `[steps, inputs]`, from a state of zeros: `kernel` `[inputs, gates units]`,
    `recurrent` `[units, gates units]`.

    `backwards` begins with the last step. `sequences` returns the outputs of all steps `[steps, units]`, in the order
    in which they were made (as in Keras), otherwise the last one made `[units]`.

    A second input may be the mask of the steps. A masked one changes no state, and its output is that of the step
    before; zeros if `zero_masked`.
    """

    gates: ClassVar[int]

    units: Count
    kernel: Name
    recurrent: Name
    bias: Name | None = None
    backwards: bool = False
    sequences: bool = False
    zero_masked: bool = False

    def output(self, *inputs: Shape) -> Shape:
        x = self.take_steps(inputs)
        if len(x) != 2:
            self.refuse(f"goes through [steps, inputs], not the shape {list(x)}")
        return (x[0], self.units) if self.sequences else (self.units,)

    def tensors(self, *inputs: Shape) -> dict[str, Shape]:
        width = self.gates * self.units
        return self.named(
            (self.kernel, (inputs[0][-1], width)),
            (self.recurrent, (self.units, width)),
            (self.bias, self.bias_shape(width)),
        )

    def bias_shape(self, width: int) -> Shape:
        """The shape of the bias where all gates have `width` numbers together."""
        return (width,)


class SimpleRNN(Recurrent, frozen=True, kw_only=True, tag="simple-rnn"):
    """Elman 1990, "Finding structure in time": h = tanh(x W + h U + b)."""

    gates = 1


class LSTM(Recurrent, frozen=True, kw_only=True, tag="lstm"):
    """Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000. The gates are, in Keras' order, those
    of input, forgetting, candidate (tanh, the others sigmoid) and output: c = f c + i g, h = o tanh(c)."""

    gates = 4


class GRU(Recurrent, frozen=True, kw_only=True, tag="gru"):
    """Cho et al. 2014. The gates are, in Keras' order, those of update, reset (both sigmoid) and candidate (tanh):
    h = z h + (1 - z) g.

    `reset_after` multiplies by the reset gate after the recurrent product, and then has two biases `[2, 3 units]`, the
    second of which the product gets; otherwise h is multiplied before.
    """

    gates = 3
    reset_after: bool = True

    def bias_shape(self, width: int) -> Shape:
        return (2, width) if self.reset_after else (width,)


class Reversal(Layer, frozen=True, kw_only=True, tag="reversal"):
    """The steps of a sequence `[steps, ...]` in reversed order."""

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if not x:
            self.refuse("reverses steps, not single numbers")
        return x


RecurrentLayer = GRU | LSTM | Reversal | SimpleRNN
"""A layer of any kind in this module."""
