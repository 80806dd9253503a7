"""Depthwise convolution and its gradients, run by LiteRT, against sums written out in numpy. Integers, so that all is
exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from fedprune.graph.autodiff import Tape
from fedprune.graph.graph import Graph
from fedprune.graph.windows import Windows, depthwise_convolution, windows_of
from fedprune.model.tensors import Array
from fedprune.network.layers import DepthwiseConvolution, Padding
from fedprune.runtime.tflite import default_runtime


@dataclass(frozen=True)
class Convolved:
    """Images and a kernel; what comes of them; and, for a gradient of that, the gradients of both."""

    x: Array
    kernel: Array
    y: Array
    d: Array
    to_x: Array
    to_kernel: Array


def convolved(shape: tuple[int, ...], windows: Windows) -> Convolved:
    """By LiteRT, of integers."""
    graph = Graph()
    tape = Tape(graph)
    x = tape.leaf(graph.input("x", shape), differentiable=True)
    kernel = tape.leaf(graph.input("kernel", (windows.taps, shape[3])), differentiable=True)
    y = depthwise_convolution(tape, x, kernel, windows)
    d = graph.input("d", y.shape)
    (_, to_x), (_, to_kernel) = y.parents
    outputs = {"y": y.tensor, "to_x": to_x(d), "to_kernel": to_kernel(d)}
    runner = default_runtime().interpreter(graph.finish("it", outputs)).get_signature_runner("it")
    random = np.random.default_rng(0)
    shapes = {"x": shape, "kernel": kernel.shape, "d": y.shape}
    given = {name: random.integers(-9, 9, size).astype(np.float32) for name, size in shapes.items()}
    found = runner(**given)
    return Convolved(given["x"], given["kernel"], found["y"], given["d"], found["to_x"], found["to_kernel"])


def expected(found: Convolved, windows: Windows) -> tuple[Array, Array, Array]:
    """The output and both gradients, tap by tap and place by place."""
    y, to_x, to_kernel = (np.zeros_like(array) for array in (found.y, found.x, found.kernel))
    rows, columns = windows.rows, windows.columns
    for tap in range(windows.taps):
        for row in range(rows.out):
            for column in range(columns.out):
                i = row * rows.stride + tap // columns.size - rows.before
                j = column * columns.stride + tap % columns.size - columns.before
                if 0 <= i < rows.length and 0 <= j < columns.length:
                    y[:, row, column] += found.x[:, i, j] * found.kernel[tap]
                    to_x[:, i, j] += found.d[:, row, column] * found.kernel[tap]
                    to_kernel[tap] += (found.x[:, i, j] * found.d[:, row, column]).sum(0)
    return y, to_x, to_kernel


def assert_right(shape: tuple[int, ...], size: tuple[int, ...], strides: tuple[int, ...], padding: Padding) -> None:
    layer = DepthwiseConvolution(name="d", size=size, strides=strides, padding=padding, multiplier=1, kernel="k")
    windows = windows_of(layer, shape)
    found = convolved(shape, windows)
    for ours, theirs in zip((found.y, found.to_x, found.to_kernel), expected(found, windows), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("padding", [Padding.VALID, Padding.SAME])
@pytest.mark.parametrize(
    ("size", "strides"),
    [((3, 3), (1, 1)), ((3, 3), (2, 2)), ((2, 5), (1, 3)), ((1, 1), (1, 1)), ((2, 2), (3, 3)), ((7, 6), (2, 1))],
    ids=str,
)
def test_a_depthwise_convolution_and_its_gradients_are_the_sums_that_they_stand_for(
    size: tuple[int, int], strides: tuple[int, int], padding: Padding
) -> None:
    assert_right((3, 7, 8, 2), size, strides, padding)


@pytest.mark.parametrize("padding", [Padding.VALID, Padding.SAME])
def test_a_series_is_convolved_as_an_image_of_one_row(padding: Padding) -> None:
    assert_right((2, 1, 9, 3), (4,), (1,), padding)


@pytest.mark.parametrize(("images", "channels"), [(2, 3_000), (1, 9_000)])
def test_there_may_be_more_channels_than_the_runtimes_kernel_has_room_for(images: int, channels: int) -> None:
    """It keeps 4,832 sums, and of images that are all in one convolution each has channels of its own."""
    assert_right((images, 3, 3, channels), (2, 2), (1, 1), Padding.SAME)
