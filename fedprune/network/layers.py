"""The layers that a network may be made of, and what each makes of a shape.

Shapes are without the batch, channels last. Layers over one axis (Keras' ...1D) and over two are one kind here, told
apart by the length of their `size`. An activation is a layer of its own, and a separable convolution is a depthwise
one and an ordinary one, so that each kind has one thing to do.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, NoReturn

import msgspec

from fedprune.errors import TaskError

MAX_SIZE = 2**24
"""Scalars that one example may have anywhere in the network."""
MAX_WINDOW = 2**10
"""Places that a window (of a convolution or pooling) may see at once."""

Shape = tuple[int, ...]

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=2**16)]
_Sizes = Annotated[tuple[_Count, ...], msgspec.Meta(min_length=1, max_length=2)]
_Number = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
_Numbers = Annotated[tuple[_Number, ...], msgspec.Meta(min_length=1, max_length=2**16)]
_Padding = Annotated[int, msgspec.Meta(ge=0, le=2**16)]


class LayerError(TaskError):
    """A layer that cannot be as it is described, or not where it stands."""


class Padding(StrEnum):
    """The zeros around what windows move over: none, as many as keep the size, or all of them in front."""

    VALID = "valid"
    SAME = "same"
    CAUSAL = "causal"


class Statistic(StrEnum):
    """What a pooling takes of the places that it sees."""

    MAX = "max"
    MEAN = "mean"


class Function(StrEnum):
    """An activation function, by its Keras name."""

    RELU = "relu"
    RELU6 = "relu6"
    LEAKY_RELU = "leaky_relu"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """What all layers have. Attributes named in `TENSORS` are names of rows of the tensor table, or None."""

    name: _Name

    def output(self, *inputs: Shape) -> Shape:
        """The shape that the layer makes of `inputs`. Raises `LayerError` where it cannot take them."""
        (x,) = self.take(inputs, 1)
        return x

    def tensors(self, *inputs: Shape) -> dict[str, Shape]:  # noqa: ARG002 - most layers have none
        """The names and shapes of the tensors that the layer must have to take `inputs`, which `output` took."""
        return {}

    def take(self, inputs: tuple[Shape, ...], count: int) -> tuple[Shape, ...]:
        """`inputs`, of which there must be `count`."""
        if len(inputs) != count:
            self.refuse(f"takes {count} inputs, not {len(inputs)}")
        return inputs

    def named(self, *tensors: tuple[str | None, Shape]) -> dict[str, Shape]:
        """The tensors that the layer has, each under a name of its own: an optional one may be None."""
        there = [(name, shape) for name, shape in tensors if name is not None]
        if len(dict(there)) != len(there):
            self.refuse("holds one tensor twice")
        return dict(there)

    def refuse(self, what: str) -> NoReturn:
        """Raise `LayerError`: the layer `what`."""
        raise LayerError(f"layer {self.name[:60]!r} {what}")


class Dense(Layer, frozen=True, kw_only=True, tag="dense"):
    """Each row of the last axis times `kernel` `[inputs, units]`, plus `bias` `[units]`."""

    units: _Count
    kernel: _Name
    bias: _Name | None = None

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if not x:
            self.refuse("takes rows, not single numbers")
        return (*x[:-1], self.units)

    def tensors(self, *inputs: Shape) -> dict[str, Shape]:
        return self.named((self.kernel, (inputs[0][-1], self.units)), (self.bias, (self.units,)))


class Windowed(Layer, frozen=True, kw_only=True):
    """A layer with windows of `size` that move by `strides` over one axis or two."""

    size: _Sizes
    strides: _Sizes
    padding: Padding = Padding.VALID

    def windows_over(self, inputs: tuple[Shape, ...]) -> Shape:
        """The places of the windows: rows and columns, or columns alone."""
        (x,) = self.take(inputs, 1)
        if len(self.size) != len(self.strides) or math.prod(self.size) > MAX_WINDOW:
            self.refuse(f"has windows of {list(self.size)} that move by {list(self.strides)}")
        if self.padding is Padding.CAUSAL and len(self.size) != 1:
            self.refuse("has causal padding, which only layers over one axis have")
        if len(x) != len(self.size) + 1:
            self.refuse(f"takes {len(self.size) + 1} axes, not the shape {list(x)}")
        places = []
        for length, size, stride in zip(x, self.size, self.strides, strict=False):
            if self.padding is Padding.VALID and length < size:
                self.refuse(f"has windows of {list(self.size)} in a shape of {list(x)}")
            places.append((length - size) // stride + 1 if self.padding is Padding.VALID else -(-length // stride))
        return tuple(places)


class Convolution(Windowed, frozen=True, kw_only=True, tag="convolution"):
    """Keras' Conv1D and Conv2D: `kernel` `[*size, channels, filters]`, `bias` `[filters]`."""

    filters: _Count
    kernel: _Name
    bias: _Name | None = None

    def output(self, *inputs: Shape) -> Shape:
        return (*self.windows_over(inputs), self.filters)

    def tensors(self, *inputs: Shape) -> dict[str, Shape]:
        return self.named((self.kernel, (*self.size, inputs[0][-1], self.filters)), (self.bias, (self.filters,)))


class DepthwiseConvolution(Windowed, frozen=True, kw_only=True, tag="depthwise-convolution"):
    """Keras' DepthwiseConv1D and DepthwiseConv2D: `kernel` `[*size, channels, multiplier]`."""

    multiplier: _Count
    kernel: _Name
    bias: _Name | None = None

    def output(self, *inputs: Shape) -> Shape:
        if self.padding is Padding.CAUSAL:
            self.refuse("is a depthwise convolution, which has no causal padding in Keras; pad before it")
        return (*self.windows_over(inputs), inputs[0][-1] * self.multiplier)

    def tensors(self, *inputs: Shape) -> dict[str, Shape]:
        channels = inputs[0][-1]
        kernel = (*self.size, channels, self.multiplier)
        return self.named((self.kernel, kernel), (self.bias, (channels * self.multiplier,)))


class Pooling(Windowed, frozen=True, kw_only=True, tag="pooling"):
    """The maximum or mean of what each window sees, padding left out."""

    statistic: Statistic

    def output(self, *inputs: Shape) -> Shape:
        if self.padding is Padding.CAUSAL:
            self.refuse("is a pooling, which has no causal padding")
        return (*self.windows_over(inputs), inputs[0][-1])


class GlobalPooling(Layer, frozen=True, kw_only=True, tag="global-pooling"):
    """The maximum or mean over all places; with `keep_axes` these stay, with size 1."""

    statistic: Statistic
    keep_axes: bool = False

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if len(x) not in (2, 3):
            self.refuse(f"takes channels and one or two axes of places, not the shape {list(x)}")
        return ((1,) * (len(x) - 1) if self.keep_axes else ()) + x[-1:]


class BatchNormalization(Layer, frozen=True, kw_only=True, tag="batch-normalization"):
    """Normalise each channel over batch and places (Ioffe and Szegedy 2015, arXiv 1502.03167, algorithm 1).

    While `mean` is frozen the moving statistics are used, and stay. `unbiased`: the moving variance follows the
    batch's unbiased one, as in TensorFlow's fused kernel.
    """

    epsilon: Annotated[float, msgspec.Meta(ge=0, le=1e3)]
    momentum: Annotated[float, msgspec.Meta(ge=0, le=1)]
    unbiased: bool
    gamma: _Name | None
    beta: _Name | None
    mean: _Name
    variance: _Name

    def tensors(self, *inputs: Shape) -> dict[str, Shape]:
        channels = inputs[0][-1:]
        return self.named(*((name, channels) for name in (self.gamma, self.beta, self.mean, self.variance)))

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if not x:
            self.refuse("takes channels, not single numbers")
        if self.unbiased and len(x) != 3:
            self.refuse(f"has an unbiased variance, which is of images, not of the shape {list(x)}")
        return x


class Reshape(Layer, frozen=True, kw_only=True, tag="reshape"):
    """The same numbers in another shape; Keras' Flatten too."""

    shape: Annotated[tuple[_Count, ...], msgspec.Meta(max_length=5)]

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if math.prod(x) != math.prod(self.shape):
            self.refuse(f"makes the shape {list(self.shape)} of {list(x)}, which has other numbers")
        return self.shape


class ZeroPadding(Layer, frozen=True, kw_only=True, tag="zero-padding"):
    """Zeros before and after, along each axis but that of channels."""

    padding: Annotated[tuple[tuple[_Padding, _Padding], ...], msgspec.Meta(min_length=1, max_length=2)]

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if len(x) != len(self.padding) + 1:
            self.refuse(f"pads {len(self.padding)} axes of the shape {list(x)}")
        return (*(before + size + after for size, (before, after) in zip(x, self.padding, strict=False)), x[-1])


class Rescaling(Layer, frozen=True, kw_only=True, tag="rescaling"):
    """Times `scale`, plus `offset`: each one number, or one for each channel."""

    scale: _Numbers
    offset: _Numbers

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if any(len(numbers) not in (1, *x[-1:]) for numbers in (self.scale, self.offset)):
            self.refuse(f"has numbers for other channels than those of the shape {list(x)}")
        return x


class Dropout(Layer, frozen=True, kw_only=True, tag="dropout"):
    """In training, zero each number with the probability `rate` and divide the others by 1 - `rate`."""

    rate: Annotated[float, msgspec.Meta(ge=0, lt=1)]


class Activation(Layer, frozen=True, kw_only=True, tag="activation"):
    """A function of each number, or for softmax of the last axis. `slope` is leaky ReLU's, below 0."""

    function: Function
    slope: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if self.function is Function.SOFTMAX and not x:
            self.refuse("takes rows, not single numbers")
        if self.slope and self.function is not Function.LEAKY_RELU:
            self.refuse(f"is {self.function} with a slope, which only leaky_relu has")
        return x


class Add(Layer, frozen=True, kw_only=True, tag="add"):
    """The sum of inputs of one shape."""

    def output(self, *inputs: Shape) -> Shape:
        if len(inputs) < 2 or any(x != inputs[0] for x in inputs):
            self.refuse(f"adds inputs of one shape, not {[list(x) for x in inputs[:4]]}")
        return inputs[0]


class Concatenate(Layer, frozen=True, kw_only=True, tag="concatenate"):
    """Inputs side by side along `axis`, which counts from 0 without the batch."""

    axis: Annotated[int, msgspec.Meta(ge=0, le=4)]

    def output(self, *inputs: Shape) -> Shape:
        others = [x[: self.axis] + x[self.axis + 1 :] for x in inputs]
        if len(inputs) < 2 or any(len(x) <= self.axis for x in inputs) or any(other != others[0] for other in others):
            self.refuse(f"joins inputs that differ along axis {self.axis} alone, not {[list(x) for x in inputs[:4]]}")
        joined = sum(x[self.axis] for x in inputs)
        return (*inputs[0][: self.axis], joined, *inputs[0][self.axis + 1 :])


AnyLayer = (
    Activation
    | Add
    | BatchNormalization
    | Concatenate
    | Convolution
    | Dense
    | DepthwiseConvolution
    | Dropout
    | GlobalPooling
    | Pooling
    | Rescaling
    | Reshape
    | ZeroPadding
)
