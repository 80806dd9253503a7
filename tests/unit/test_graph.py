"""Graphs that are written operator by operator: what is meant is what the file says, and what is too large is refused.

Files are read back with the schema that LiteRT itself is built from.
"""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from fedprune.errors import TaskError
from fedprune.graph import graph as module
from fedprune.graph.autodiff import Tape
from fedprune.graph.file import Code
from fedprune.graph.graph import MAX_TENSOR_BYTES, Graph, Tensor
from fedprune.graph.operations import repeat_channels
from fedprune.graph.training import write_training_graph
from fedprune.graph.windows import windows_of
from fedprune.model.losses import Loss, Objective
from fedprune.model.tensors import Array, TensorClass, TensorSpec, TensorTable
from fedprune.network.description import Call, Network
from fedprune.network.layers import Dense, DepthwiseConvolution, Dropout, Padding, Pooling, Reshape, Statistic
from fedprune.runtime.tflite import default_runtime

SQUARED = (Objective(Loss.MEAN_SQUARED_ERROR, from_logits=False),)


def opened(blob: bytes) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(blob))


def evaluated(graph: Graph, output: Tensor, **inputs: Array) -> Array:
    """What the runtime makes of a graph."""
    interpreter = default_runtime().interpreter(graph.finish("it", {"y": output}))
    for details in interpreter.get_input_details():
        interpreter.set_tensor(details["index"], inputs[details["name"]])
    interpreter.invoke()
    (details,) = interpreter.get_output_details()
    result: Array = interpreter.get_tensor(details["index"])
    return result


def operators_of(graph: Graph) -> list[Code]:
    (subgraph,) = opened(graph.finish("it", {})).subgraphs
    codes = opened(graph.finish("it", {})).operatorCodes
    return [Code(codes[operator.opcodeIndex].builtinCode) for operator in subgraph.operators]


# The file


def test_what_is_written_is_read_back_with_the_schema_of_the_runtime() -> None:
    graph = Graph()
    x = graph.input("x", (2, 5, 4, 3))
    filters = np.arange(2 * 3 * 2 * 3, dtype=np.float32).reshape(2, 3, 2, 3)
    y = graph.convolve(x, graph.constant(filters), graph.constant(np.ones(2, np.float32)), (2, 1), same=True)
    z = graph.leaky_relu(y, 0.25)

    model = opened(graph.finish("train", {"loss": z, "s0": y}))

    (subgraph,), (signature,) = model.subgraphs, model.signatureDefs
    assert (model.version, signature.signatureKey) == (3, b"train")
    named = {entry.name: entry.tensorIndex for entry in (*signature.inputs, *signature.outputs)}
    assert named == {b"x": x.index, b"loss": z.index, b"s0": y.index}
    assert (list(subgraph.inputs), list(subgraph.outputs)) == ([x.index], [z.index, y.index])
    convolution, rectifier = subgraph.operators
    assert [model.operatorCodes[operator.opcodeIndex].builtinCode for operator in subgraph.operators] == [3, 98]
    assert all(code.version == 1 for code in model.operatorCodes)
    options = convolution.builtinOptions
    assert (options.padding, options.strideH, options.strideW) == (schema.Padding.SAME, 2, 1)
    assert (options.dilationHFactor, options.dilationWFactor, options.fusedActivationFunction) == (1, 1, 0)
    assert convolution.inputs[0] == x.index
    assert list(convolution.outputs) == list(rectifier.inputs) == [y.index]
    assert rectifier.builtinOptions.alpha == 0.25
    stored = subgraph.tensors[convolution.inputs[1]]
    assert (list(stored.shape), stored.type) == ([2, 3, 2, 3], schema.TensorType.FLOAT32)
    np.testing.assert_array_equal(
        np.array(model.buffers[stored.buffer].data, np.uint8).view(np.float32), filters.ravel()
    )
    assert list(subgraph.tensors[y.index].shape) == [2, 3, 4, 2]


OPTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "matmul": (lambda g, x: g.matmul(x, x, transpose_b=True), {"adjX": False, "adjY": True}),
    "softmax": (lambda g, x: g.softmax(x), {"beta": 1.0}),
    "sum": (lambda g, x: g.sum(x, 0), {"keepDims": True}),
    "reduce_max": (lambda g, x: g.reduce_max(x, 1), {"keepDims": True}),
    "reshape": (lambda g, x: g.reshape(x, (3, 2)), {"newShape": [3, 2]}),
    "concatenate": (lambda g, x: g.concatenate([x, x], 1), {"axis": 1, "fusedActivationFunction": 0}),
    "add": (lambda g, x: g.add(x, 2.0), {"fusedActivationFunction": 0}),
    "max_pool": (
        lambda g, x: g.max_pool(g.reshape(x, (1, 2, 3, 1)), (2, 3), (1, 2), same=False),
        {"padding": schema.Padding.VALID, "filterHeight": 2, "filterWidth": 3, "strideH": 1, "strideW": 2},
    ),
    "convolve_each": (
        lambda g, x: g.convolve_each(
            g.reshape(x, (1, 2, 1, 3)), g.constant(np.ones((1, 1, 1, 6), np.float32)), g.input("b", (6,)), (1, 1)
        ),
        {"depthMultiplier": 2, "padding": schema.Padding.VALID},
    ),
    "fully_connect": (
        lambda g, x: g.fully_connect(x, g.input("r", (4, 3)), g.input("b", (4,))),
        {"keepNumDims": False},
    ),
}


@pytest.mark.parametrize(("write", "expected"), OPTIONS.values(), ids=OPTIONS.keys())
def test_the_options_of_an_operator_are_those_that_were_meant(write: Any, expected: dict[str, Any]) -> None:
    graph = Graph()
    write(graph, graph.input("x", (2, 3)))

    options = opened(graph.finish("it", {})).subgraphs[0].operators[-1].builtinOptions

    found = {name: getattr(options, name) for name in expected}
    assert {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in found.items()
    } == expected


def test_equal_graphs_are_equal_bytes() -> None:
    def write() -> bytes:
        graph = Graph()
        x = graph.input("x", (2, 3))
        return graph.finish("it", {"y": graph.add(graph.multiply(x, 0.1), x)})

    assert write() == write()


# Operations


def test_equal_operations_are_made_once() -> None:
    graph = Graph()
    x = graph.input("x", (2, 3))

    assert graph.add(x, 1.0) is graph.add(x, 1.0)
    assert graph.add(x, 1.0) is not graph.add(x, 2.0)
    assert graph.constant(np.zeros(3, np.float32)) is graph.constant(np.zeros(3, np.float32))
    assert graph.constant(np.zeros(1, np.float32)) is not graph.constant(np.zeros(1, np.int32))
    assert graph.constant(np.zeros(1, np.float32)) is not graph.constant(np.full(1, -0.0, np.float32))
    assert graph.leaky_relu(x, 0.1) is not graph.leaky_relu(x, 0.2)
    assert operators_of(graph) == [Code.ADD, Code.ADD, Code.LEAKY_RELU, Code.LEAKY_RELU]


def test_what_changes_nothing_is_not_written() -> None:
    graph = Graph()
    x = graph.input("x", (2, 1))

    for same in (
        graph.reshape(x, (2, 1)),
        graph.pad(x, {0: (0, 0)}),
        graph.slice(x, 0, 0, 2),
        graph.concatenate([x], 1),
        graph.sum(x, 1),
        graph.reduce_max(x, 1),
    ):
        assert same is x
    assert operators_of(graph) == []


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 33, 3), (1, 1025, 2), (40, 40, 1), (7, 1, 1)], ids=str)
def test_a_sum_in_stages_is_the_sum(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """Integers, so that it is exact, with the axes kept."""
    x = np.random.default_rng(0).integers(-9, 9, shape).astype(np.float32)
    graph = Graph()

    total = graph.sum(graph.input("x", shape), *axes)

    expected = x.sum(axis=axes, keepdims=True)
    assert total.shape == expected.shape
    np.testing.assert_array_equal(evaluated(graph, total, x=x), expected)


def test_no_single_sum_has_many_terms() -> None:
    graph = Graph()
    graph.sum(graph.input("x", (10_000, 3)), 0)
    (subgraph,) = opened(graph.finish("it", {})).subgraphs
    shapes = [list(tensor.shape) for tensor in subgraph.tensors]

    sums = [operator for operator in subgraph.operators if hasattr(operator.builtinOptions, "keepDims")]

    assert len(sums) == 3
    for operator in sums:
        taken, made = (math.prod(shapes[index]) for index in (operator.inputs[0], operator.outputs[0]))
        assert taken <= 32 * made


def test_a_long_sum_is_nearly_as_exact_as_in_float64() -> None:
    x = np.random.default_rng(0).uniform(0, 1, (100_000, 1)).astype(np.float32)
    graph = Graph()

    total = evaluated(graph, graph.sum(graph.input("x", x.shape), 0), x=x)

    assert total.item() == pytest.approx(x.sum(dtype=np.float64), rel=3e-7)


@pytest.mark.parametrize("shape", [(9, 16, 4, 3), (9, 16, 4, 1), (16, 16, 3), (8, 3), (2, 1, 4, 3)], ids=str)
def test_what_is_repeated_may_have_short_rows(shape: tuple[int, ...]) -> None:
    """Then it is made wider first."""
    random = np.random.default_rng(0)
    small = [(shape[-1],), (shape[0], *[1] * (len(shape) - 2), shape[-1]), (1,)]
    x, *others = (random.integers(-9, 9, size).astype(np.float32) for size in (shape, *small))
    graph = Graph()
    y = graph.input("x", shape)
    for number, other in enumerate(others):
        y = graph.subtract(graph.input(f"y{number}", other.shape), y)

    found = evaluated(graph, y, x=x, **{f"y{number}": other for number, other in enumerate(others)})

    np.testing.assert_array_equal(found, others[2] - (others[1] - (others[0] - x)))


@pytest.mark.parametrize("value", [0.0, -2.0])
@pytest.mark.parametrize("pads", [{0: (1, 0)}, {1: (0, 2), 2: (3, 1)}, {2: (1, 1), 1: (0, 0)}, {3: (1, 2)}], ids=str)
def test_any_axes_can_be_padded(pads: dict[int, tuple[int, int]], value: float) -> None:
    x = np.random.default_rng(0).integers(-9, 9, (2, 3, 4, 5)).astype(np.float32)
    graph = Graph()

    padded = graph.pad(graph.input("x", x.shape), pads, value)

    expected = np.pad(x, [pads.get(axis, (0, 0)) for axis in range(4)], constant_values=value)
    assert padded.shape == expected.shape
    np.testing.assert_array_equal(evaluated(graph, padded, x=x), expected)


@pytest.mark.parametrize("widths", [(3, 8), (8, 3), (4, 4)], ids=str)
def test_a_transposed_matrix_may_be_the_wide_or_the_narrow_one(widths: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    a, b = (random.integers(-9, 9, (50, width)).astype(np.float32) for width in widths)
    graph = Graph()

    product = graph.matmul(graph.input("a", a.shape), graph.input("b", b.shape), transpose_a=True)

    np.testing.assert_array_equal(evaluated(graph, product, a=a, b=b), a.T @ b)


def test_repeated_channels_stand_side_by_side() -> None:
    graph = Graph()
    tape = Tape(graph)
    x = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)

    repeated = repeat_channels(tape, tape.leaf(graph.input("x", x.shape), differentiable=False), 2)

    np.testing.assert_array_equal(evaluated(graph, repeated.tensor, x=x), np.repeat(x, 2, axis=3))


@pytest.mark.parametrize("padding", [Padding.VALID, Padding.SAME])
@pytest.mark.parametrize(("length", "size", "stride"), [(9, 3, 2), (4, 4, 1), (10, 3, 3), (5, 2, 4), (1, 1, 1)])
def test_windows_count_what_they_see(length: int, size: int, stride: int, padding: Padding) -> None:
    layer = Pooling(name="p", size=(size,), strides=(stride,), statistic=Statistic.MEAN, padding=padding)

    window = windows_of(layer, (1, 1, length, 1)).columns

    starts = [place * stride - window.before for place in range(window.out)]
    seen = [sum(0 <= start + entry < length for entry in range(size)) for start in starts]
    assert window.counts.tolist() == seen
    assert window.out == layer.output((length, 1))[0]


# Bounds


def test_operators_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPERATORS", 3)
    graph = Graph()
    x = graph.input("x", (2,))
    for _ in range(3):
        x = graph.add(x, 1.0)

    with pytest.raises(TaskError, match="the network's graph needs more than 3 operators"):
        graph.add(x, 1.0)


def test_constants_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONSTANT_BYTES", 100)
    graph = Graph()
    for _ in range(2):
        graph.constant(np.zeros(20, np.float32))

    with pytest.raises(TaskError, match="the network's graph needs more than 100 bytes of constants"):
        graph.constant(np.ones(20, np.float32))


def test_a_tensor_that_runtimes_cannot_count_is_refused() -> None:
    graph = Graph()
    graph.input("x", (2**29 - 1,))

    with pytest.raises(TaskError, match=f"needs a tensor of more than {MAX_TENSOR_BYTES} bytes"):
        graph.input("y", (2**15, 2**14))


def test_values_that_are_held_at_once_are_counted() -> None:
    """An input of 400 bytes, and two values of as many at a time."""
    graph = Graph()
    x = graph.input("x", (100,))
    for _ in range(5):
        x = graph.tanh(x)

    assert graph.live_bytes() == 3 * 400


def test_constants_are_held_all_the_time() -> None:
    graph = Graph()
    graph.add(graph.input("x", (100,)), graph.constant(np.ones(100, np.float32)))

    assert graph.live_bytes() == 3 * 400


ABSURD: dict[str, tuple[Network, TensorTable, str]] = {
    "a batch that no runtime can count": (
        Network("n", ((2**12, 2**12),), (Reshape(name="r", shape=(2**12, 2**12)),), (Call(0, (0,)),), (1,)),
        TensorTable(()),
        "a tensor of more than",
    ),
    "a million windows of a thousand places": (
        Network(
            "n",
            ((2**20, 1),),
            (Pooling(name="p", size=(2**10,), strides=(1,), statistic=Statistic.MEAN, padding=Padding.SAME),),
            (Call(0, (0,)),),
            (1,),
        ),
        TensorTable(()),
        "",
    ),
    "channels that are repeated": (
        Network(
            "n",
            ((1, 2**16),),
            (DepthwiseConvolution(name="c", size=(1,), strides=(1,), multiplier=2, kernel="c/kernel"),),
            (Call(0, (0,)),),
            (1,),
        ),
        TensorTable((TensorSpec("c/kernel", (1, 2**16, 2), "float32", TensorClass.PRUNABLE, "c"),)),
        "",
    ),
}


@pytest.mark.parametrize(("network", "table", "reason"), ABSURD.values(), ids=ABSURD.keys())
def test_an_absurd_network_takes_little_memory_to_write_or_to_refuse(
    network: Network, table: TensorTable, reason: str
) -> None:
    tracemalloc.start()
    try:
        network.check(table)
        if reason:
            with pytest.raises(TaskError, match=reason):
                write_training_graph(network, table, SQUARED, 2**10)
        else:
            write_training_graph(network, table, SQUARED, 1)
        assert tracemalloc.get_traced_memory()[1] < 400 * 2**20
    finally:
        tracemalloc.stop()


def test_a_tensor_that_changes_no_output_is_refused() -> None:
    rows = tuple(
        TensorSpec(f"{name}/kernel", (3, 3), "float32", TensorClass.PRUNABLE, name) for name in ("used", "unused")
    )
    layers = tuple(Dense(name=name, units=3, kernel=f"{name}/kernel") for name in ("used", "unused"))
    network = Network("n", ((3,),), layers, (Call(0, (0,)), Call(1, (1,))), (1,))
    network.check(TensorTable(rows))

    with pytest.raises(TaskError, match="tensor 'unused/kernel' changes no output; freeze it, or leave its layer out"):
        write_training_graph(network, TensorTable(rows), SQUARED, 4)


def test_dropout_is_an_input_of_noise_and_nothing_at_a_rate_of_zero() -> None:
    rows = TensorTable((TensorSpec("d/kernel", (3, 2), "float32", TensorClass.PRUNABLE, "d"),))

    def inputs(rate: float) -> set[bytes]:
        layers = (Dense(name="d", units=2, kernel="d/kernel"), Dropout(name="o", rate=rate))
        network = Network("n", ((3,),), layers, (Call(0, (0,)), Call(1, (1,))), (2,))
        blob = write_training_graph(network, rows, SQUARED, 4).blob
        return {entry.name for entry in opened(blob).signatureDefs[0].inputs}

    assert inputs(0.0) == {b"x0", b"y0", b"present", b"importance", b"w0"}
    assert inputs(0.5) == inputs(0.0) | {b"u0"}
