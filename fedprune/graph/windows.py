"""Sliding windows over images: patches, pooling and depthwise convolution, and how gradients go back.

A window over two axes is one over columns, then one over rows. A window over one axis is cut into *taps*: tap i holds
what entry i of the window sees at each of its places. Taps are slices of contiguous memory whatever the stride is,
once the axis is folded into (places, phases). Depthwise convolutions alone are left to an operator of the runtime.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.graph import Graph, Tensor
from fedprune.graph.operations import in_blocks, is_positive, reshape, scale
from fedprune.network.layers import Padding, Windowed

_LOWEST = float(np.finfo(np.float32).min)
"""The value that padding has for a maximum. Not -infinity: the difference of two would not be a number."""
_MOST_CHANNELS = 4096
"""The runtimes' kernel for depthwise convolutions keeps the sums of all channels of a place in a buffer of 4832."""
_FEW_CHANNELS = 4
_WIDEST_PATCH = 512
"""Up to so many channels, patches up to so wide are cut faster by a convolution with constant filters than by
copying."""


@dataclass(frozen=True)
class Window:
    """A window along one axis of `length` entries, `before` of which are put before the first: it has `out` places."""

    size: int
    stride: int
    length: int
    before: int
    out: int

    @property
    def places(self) -> int:
        """Length in strides of the axis that all windows just fit in."""
        return (self.size - 1) // self.stride + self.out

    @property
    def seen(self) -> int:
        """The number of entries, from the first on, that lie within `places`."""
        return min(self.length, self.places * self.stride - self.before)

    @property
    def after(self) -> int:
        """The number of entries that are put after those that are seen."""
        return self.places * self.stride - self.before - self.seen

    @property
    def span(self) -> int:
        """The number of entries, padding included, from the first that the window sees to the last."""
        return (self.out - 1) * self.stride + self.size

    @property
    def is_same(self) -> bool:
        """True if padding is what TFLite's operators call SAME."""
        missing = max(self.span - self.length, 0)
        return self.out == -(-self.length // self.stride) and self.before == missing // 2

    @property
    def counts(self) -> NDArray[np.float32]:
        """The number of true entries, float32 `[out]`, that the window sees at each place."""
        starts = np.arange(self.out) * self.stride - self.before
        counts = np.minimum(starts + self.size, self.length) - np.maximum(starts, 0)
        return counts.astype(np.float32)


def _window(size: int, stride: int, length: int, padding: Padding) -> Window:
    out = (length - size) // stride + 1 if padding is Padding.VALID else -(-length // stride)
    missing = max((out - 1) * stride + size - length, 0)
    before = {Padding.VALID: 0, Padding.SAME: missing // 2, Padding.CAUSAL: size - 1}[padding]
    # A window with one place moves nowhere, and a stride beyond its size would only be padded.
    return Window(size, stride if out > 1 else size, length, before, out)


@dataclass(frozen=True)
class Windows:
    """Windows over the rows and columns of images."""

    rows: Window
    columns: Window

    @property
    def taps(self) -> int:
        return self.rows.size * self.columns.size


def windows_of(layer: Windowed, image: tuple[int, ...]) -> Windows:
    """The windows of a layer, over one axis or two, over images of a shape `[n, h, w, c]`: Keras' windows."""
    height, width = image[1:3]
    along_columns = _window(layer.size[-1], layer.strides[-1], width, layer.padding)
    if len(layer.size) == 1:
        return Windows(_window(1, 1, 1, Padding.VALID), along_columns)
    return Windows(_window(layer.size[0], layer.strides[0], height, layer.padding), along_columns)


def convolution_patches(tape: Tape, x: Value, windows: Windows) -> Value:
    """Each window's content as a row: `[n, h, w, c]` to `[rows, taps * c]` in blocks of rows, channels last."""
    graph, channels = tape.graph, x.shape[3]
    width = windows.taps * channels
    blocks = in_blocks(x.shape[0] * windows.rows.out * windows.columns.out)

    def back(d: Tensor) -> Tensor:
        parts = [graph.slice(d, len(blocks), tap * channels, channels) for tap in range(windows.taps)]
        return _paste(graph, parts, windows, x.shape)

    if channels <= _FEW_CHANNELS and width <= _WIDEST_PATCH:
        patches = _convolve_with_ones(graph, x.tensor, windows)
    else:
        cut = _cut(graph, x.tensor, windows)
        patches = graph.concatenate([graph.reshape(part, (*blocks, channels)) for part in cut], len(blocks))
    return tape.record(graph.reshape(patches, (*blocks, width)), (x, back))


def scatter_patches(tape: Tape, patches: Value, windows: Windows, image: tuple[int, ...]) -> Value:
    """The adjoint of `convolution_patches`: each row is added to what its window sees, in an image of a shape."""
    graph, channels = tape.graph, image[3]

    def back(d: Tensor) -> Tensor:
        rows = patches.shape[0]
        return graph.concatenate([graph.reshape(part, (rows, channels)) for part in _cut(graph, d, windows)], 1)

    parts = [graph.slice(patches.tensor, 1, tap * channels, channels) for tap in range(windows.taps)]
    return tape.record(_paste(graph, parts, windows, image), (patches, back))


def depthwise_convolution(tape: Tape, x: Value, kernel: Value, windows: Windows) -> Value:
    """`[n, h, w, c]` with one filter a channel, `kernel` `[taps, c]`, to `[n, rows, columns, c]`.

    Its gradients are convolutions of that kind too: that of the images is the output's with the kernel turned round;
    that of the kernel is the images with the output's for a kernel, where each image has channels of its own.
    """
    graph, (n, _, _, channels) = tape.graph, x.shape
    rows, columns = windows.rows, windows.columns
    size, strides = (rows.size, columns.size), (rows.stride, columns.stride)

    def to_x(d: Tensor) -> Tensor:
        turned = graph.matmul(graph.constant(np.eye(windows.taps, dtype=np.float32)[::-1]), kernel.tensor)
        return _convolve_each(graph, _spread(graph, d, windows), graph.reshape(turned, (1, *size, channels)))

    def to_kernel(d: Tensor) -> Tensor:
        images, filters = (
            graph.reshape(graph.transpose(images, 1, 2, 0, 3), (1, *images.shape[1:3], n * channels))
            for images in (x.tensor, d)
        )
        images = _pad_for(graph, images, windows)
        of_each = _convolve_each(graph, images, filters, dilations=strides)
        return graph.reshape(graph.sum(graph.reshape(of_each, (windows.taps, n, channels)), 1), kernel.shape)

    filters = graph.reshape(kernel.tensor, (1, *size, channels))
    same = rows.is_same and columns.is_same
    padded = x.tensor if same else _pad_for(graph, x.tensor, windows)
    y = _convolve_each(graph, padded, filters, strides, same=same)
    return tape.record(y, (x, to_x), (kernel, to_kernel))


def max_pool(tape: Tape, x: Value, windows: Windows) -> Value:
    """The maximum of each window. Of equal ones the first, row by row, gets the gradient, as in TensorFlow."""
    n, height, width, channels = x.shape
    across = _max_along(tape, reshape(tape, x, (n * height, width, channels)), windows.columns)
    y = _max_along(tape, reshape(tape, across, (n, height, windows.columns.out * channels)), windows.rows)
    return reshape(tape, y, (n, windows.rows.out, windows.columns.out, channels))


def average_pool(tape: Tape, x: Value, windows: Windows) -> Value:
    """The mean of each window, padding left out."""
    n, height, width, channels = x.shape
    across = _sum_along(tape, reshape(tape, x, (n * height, width, channels)), windows.columns)
    y = _sum_along(tape, reshape(tape, across, (n, height, windows.columns.out * channels)), windows.rows)
    y = reshape(tape, y, (n, windows.rows.out, windows.columns.out, channels))
    counts = np.outer(windows.rows.counts, windows.columns.counts)[np.newaxis, :, :, np.newaxis]
    if (counts == counts.flat[0]).all():
        return scale(tape, y, 1.0 / float(counts.flat[0]))
    return scale(tape, y, tape.graph.constant(np.float32(1.0) / counts))


def _max_along(tape: Tape, x: Value, along: Window) -> Value:
    """The maximum along the middle axis of `[outer, length, inner]`: a chain of choices between two."""
    graph = tape.graph
    first, *others = _taps(graph, x.tensor, along, _LOWEST)
    largest, chosen = first, []
    for tap in others:
        chosen.append(is_positive(graph, graph.subtract(tap, largest)))
        largest = graph.maximum(largest, tap)

    def back(d: Tensor) -> Tensor:
        parts = []
        for choice in reversed(chosen):
            parts.append(graph.multiply(d, choice))
            d = graph.subtract(d, parts[-1])
        return _untap(graph, [d, *reversed(parts)], along)

    return tape.record(largest, (x, back))


def _sum_along(tape: Tape, x: Value, along: Window) -> Value:
    graph = tape.graph
    total, *others = _taps(graph, x.tensor, along)
    for tap in others:
        total = graph.add(total, tap)
    return tape.record(total, (x, lambda d: _untap(graph, [d] * along.size, along)))


def _convolve_each(
    graph: Graph,
    x: Tensor,
    filters: Tensor,
    strides: tuple[int, int] = (1, 1),
    *,
    dilations: tuple[int, int] = (1, 1),
    same: bool = False,
) -> Tensor:
    """`Graph.convolve_each` in parts of at most `_MOST_CHANNELS`, without a bias."""
    parts = []
    for first in range(0, x.shape[3], _MOST_CHANNELS):
        size = min(_MOST_CHANNELS, x.shape[3] - first)
        images, kernel = (graph.slice(whole, 3, first, size) for whole in (x, filters))
        no_bias = graph.constant(np.zeros(size, np.float32))
        parts.append(graph.convolve_each(images, kernel, no_bias, strides, dilations=dilations, same=same))
    return graph.concatenate(parts, 3)


def _pad_for(graph: Graph, x: Tensor, windows: Windows) -> Tensor:
    """What windows see of `[n, h, w, c]`: padded, and without what none of them sees."""
    pads = {}
    for axis, along in ((1, windows.rows), (2, windows.columns)):
        seen = min(along.length, along.span - along.before)
        x = graph.slice(x, axis, 0, seen)
        pads[axis] = along.before, along.span - along.before - seen
    return graph.pad(x, pads)


def _spread(graph: Graph, d: Tensor, windows: Windows) -> Tensor:
    """The gradient `[n, rows, columns, c]` of what windows made, as far apart as their places were, and padded: the
    kernel turned round then has a place for each entry of the images."""
    pads = {}
    for axis, along in ((2, windows.columns), (1, windows.rows)):
        outer, inner = d.shape[: axis + 1], d.shape[axis + 1 :]
        apart = graph.pad(graph.reshape(d, (*outer, 1, *inner)), {axis + 1: (0, along.stride - 1)})
        d = graph.reshape(apart, (*outer[:-1], outer[-1] * along.stride, *inner))
        before = along.size - 1 - along.before
        after = along.length + along.size - 1 - before - d.shape[axis]
        d = graph.slice(d, axis, 0, d.shape[axis] + min(after, 0))
        pads[axis] = before, max(after, 0)
    return graph.pad(d, pads)


def _convolve_with_ones(graph: Graph, x: Tensor, windows: Windows) -> Tensor:
    """Patches by a convolution that has one filter, with a single 1, for each entry of a patch."""
    x = _pad_for(graph, x, windows)
    channels = x.shape[3]
    ones = np.eye(windows.taps * channels, dtype=np.float32)
    filters = graph.constant(ones.reshape(-1, windows.rows.size, windows.columns.size, channels))
    no_bias = graph.constant(np.zeros(len(ones), np.float32))
    return graph.convolve(x, filters, no_bias, (windows.rows.stride, windows.columns.stride))


def _cut(graph: Graph, x: Tensor, windows: Windows) -> list[Tensor]:
    """The taps of windows over `[n, h, w, c]`, row by row, each `[n, rows, columns * c]`."""
    n, height, width, channels = x.shape
    columns = _taps(graph, graph.reshape(x, (n * height, width, channels)), windows.columns)
    flat = (n, height, windows.columns.out * channels)
    grid = [_taps(graph, graph.reshape(column, flat), windows.rows) for column in columns]
    return [column[row] for row in range(windows.rows.size) for column in grid]


def _paste(graph: Graph, parts: list[Tensor], windows: Windows, shape: tuple[int, ...]) -> Tensor:
    """The adjoint of `_cut`: each part is added to where it was cut out of an image of `shape`."""
    n, height, _, channels = shape
    flat = (n, windows.rows.out, windows.columns.out * channels)
    columns = []
    for column in range(windows.columns.size):
        grid = [graph.reshape(part, flat) for part in parts[column :: windows.columns.size]]
        pasted = _untap(graph, grid, windows.rows)
        columns.append(graph.reshape(pasted, (n * height, windows.columns.out, channels)))
    return graph.reshape(_untap(graph, columns, windows.columns), shape)


def _taps(graph: Graph, x: Tensor, along: Window, fill: float = 0.0) -> list[Tensor]:
    """For each entry of a window along the middle axis of `[outer, length, inner]`, what it sees:
    `[outer, out, inner]`."""
    phases = _phases(graph, x, along, fill)
    return [graph.slice(phases[tap % along.stride], 1, tap // along.stride, along.out) for tap in range(along.size)]


def _untap(graph: Graph, taps: list[Tensor], along: Window) -> Tensor:
    """The adjoint of `_taps`: each tap is added to where it came from, `[outer, length, inner]`."""
    phases: dict[int, Tensor] = {}
    for index, tap in enumerate(taps):
        place, phase = divmod(index, along.stride)
        placed = graph.pad(tap, {1: (place, along.places - along.out - place)})
        phases[phase] = graph.add(phases[phase], placed) if phase in phases else placed
    return _join(graph, list(phases.values()), along)


def _phases(graph: Graph, x: Tensor, along: Window, fill: float = 0.0) -> list[Tensor]:
    """The middle axis of `[outer, length, inner]`, padded and dealt out in turn: `[outer, places, inner]` for each
    entry of a stride that a window sees."""
    outer, _, inner = x.shape
    padded = graph.pad(graph.slice(x, 1, 0, along.seen), {1: (along.before, along.after)}, fill)
    folded = graph.reshape(padded, (outer, along.places, along.stride * inner))
    return [graph.slice(folded, 2, phase * inner, inner) for phase in range(min(along.stride, along.size))]


def _join(graph: Graph, phases: list[Tensor], along: Window) -> Tensor:
    """The adjoint of `_phases`: `[outer, length, inner]`."""
    outer, _, inner = phases[0].shape
    folded = graph.concatenate(phases, 2)
    folded = graph.pad(folded, {2: (0, (along.stride - len(phases)) * inner)})
    padded = graph.reshape(folded, (outer, along.places * along.stride, inner))
    seen = graph.slice(padded, 1, along.before, along.seen)
    return graph.pad(seen, {1: (0, along.length - along.seen)})
