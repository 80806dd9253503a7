"""Training graphs with one mistake: what a slip in the builder, or a kernel that computes something else, would do."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder

from fedprune.errors import ExportError
from fedprune.model.losses import one_hot
from fedprune.model.tensors import Array, Inputs, TensorClass, TensorSpec
from fedprune.runtime.self_check import Case, outputs_of
from fedprune.runtime.training_graph import TrainingGraph

_OP, _OPTIONS = schema.BuiltinOperator, schema.BuiltinOptions

_CONFUSED = {
    _OP.ADD: (_OP.SUB, _OPTIONS.SubOptions, schema.SubOptionsT),
    _OP.SUB: (_OP.ADD, _OPTIONS.AddOptions, schema.AddOptionsT),
    _OP.MUL: (_OP.ADD, _OPTIONS.AddOptions, schema.AddOptionsT),
    _OP.DIV: (_OP.MUL, _OPTIONS.MulOptions, schema.MulOptionsT),
    _OP.MAXIMUM: (_OP.MINIMUM, _OPTIONS.MaximumMinimumOptions, schema.MaximumMinimumOptionsT),
    _OP.MINIMUM: (_OP.MAXIMUM, _OPTIONS.MaximumMinimumOptions, schema.MaximumMinimumOptionsT),
    _OP.RELU: (_OP.ABS, _OPTIONS.AbsOptions, schema.AbsOptionsT),
    _OP.RELU6: (_OP.RELU, _OPTIONS.NONE, None),
    _OP.EXP: (_OP.ABS, _OPTIONS.AbsOptions, schema.AbsOptionsT),
    _OP.LOG: (_OP.SQRT, _OPTIONS.NONE, None),
    _OP.RSQRT: (_OP.SQRT, _OPTIONS.NONE, None),
    _OP.SQRT: (_OP.RSQRT, _OPTIONS.NONE, None),
    _OP.COS: (_OP.SIN, _OPTIONS.NONE, None),
    _OP.SOFTMAX: (_OP.LOGISTIC, _OPTIONS.NONE, None),
    _OP.SUM: (_OP.MEAN, _OPTIONS.ReducerOptions, None),
    _OP.REDUCE_MAX: (_OP.SUM, _OPTIONS.ReducerOptions, None),
}
"""An operator that takes the same, for one that is mistaken; None keeps the options."""


_EXEMPT = frozenset({"REDUCE_MAX for SUM"})
"""Here it is what crossentropy takes off its logits: any number will do until exponentials overflow."""
_VARIANCES = (TensorClass.STATISTICS, TensorClass.FROZEN)
"""What may be a variance."""
_LARGEST = float(np.finfo(np.float32).max)
_SIZES = (0.1, 1.0, 5.0)
"""Of the numbers that tell a mutant from the graph."""
_MOST = 6
"""Of each mistake, so many are made at different places."""


def mutants(graph: bytes, tensors: Sequence[TensorSpec], most: int | None = None) -> Iterator[tuple[str, bytes]]:
    """What was done, and the graph with it: where it runs, and computes something else with numbers of some size. (A
    ReLU of what is never negative does not, nor does softmax less another number.) Of all kinds, twice `most` are tried
    at most."""
    right = _answers(graph, tensors)
    for what, mutant in _all_mutants(graph, most):
        try:
            wrong = _answers(mutant, tensors)
        except ExportError:
            continue
        if what not in _EXEMPT and any(_differ(a, b) for a, b in zip(wrong, right, strict=True)):
            yield what, mutant


def _answers(graph: bytes, tensors: Sequence[TensorSpec]) -> list[Array]:
    """All outputs for normal weights and examples of different sizes, which neither the proof nor the self-check draw:
    between them they take every branch."""
    loaded = TrainingGraph(graph, tensors, threads=1)
    batch = loaded.batch_size
    answers: list[Array] = []
    for size in _SIZES:
        random = np.random.default_rng(1234)
        drawn = {spec.name: np.float32(size) * random.normal(size=spec.shape).astype(spec.dtype) for spec in tensors}
        weights = {
            spec.name: abs(drawn[spec.name]) if spec.kind in _VARIANCES else drawn[spec.name] for spec in tensors
        }
        x: list[Inputs] = [
            np.float32(size) * random.normal(size=(batch, *shape)).astype(np.float32)
            if vocabulary is None
            else random.integers(vocabulary, size=(batch, *shape), dtype=np.int32)
            for shape, vocabulary in zip(loaded.input_shapes, loaded.vocabularies, strict=True)
        ]
        for numbers, padding in zip(x, loaded.paddings, strict=True):
            if padding is not None:
                numbers[random.integers(3, size=numbers.shape[:2]) == 0] = padding
        y = [
            one_hot(random.integers(outputs, size=(batch, *places)), outputs)
            for *places, outputs in loaded.target_shapes
        ]
        noise = [random.uniform(size=shape).astype(np.float32) for shape in loaded.noise_shapes]
        importance = random.uniform(0.5, 1.5, size=(batch, len(y))).astype(np.float32)
        answers += outputs_of(Case(weights, x, y, noise, importance).run(loaded), tensors).values()
    return answers


def _differ(wrong: Array, right: Array) -> bool:
    error = wrong.astype(np.float64) - right
    return not np.linalg.norm(error) <= 1e-3 * np.linalg.norm(right) + 1e-5


def _all_mutants(graph: bytes, most: int | None) -> Iterator[tuple[str, bytes]]:
    made: Counter[str] = Counter()
    chosen = []
    for change, what, place in _mistakes(opened(graph)):
        made[what] += 1
        if made[what] <= _MOST or change in (_change_constant, _enlarge_constant):
            chosen.append((change, what, place))
    kept = pickle.dumps(opened(graph))  # which is copied ten times as fast as a file is opened
    for change, what, place in chosen[:: max(1, len(chosen) // most) if most else 1]:
        model = pickle.loads(kept)
        change(model, place)
        yield what, packed(model)


Change = Callable[[Any, int], None]


def _mistakes(model: Any) -> Iterator[tuple[Change, str, int]]:
    """All that can be changed, what that is, and where."""
    for place, tensor in enumerate(model.subgraphs[0].tensors):
        if tensor.buffer and tensor.type == schema.TensorType.FLOAT32:
            yield _change_constant, "a constant", place
            yield _enlarge_constant, "a larger constant", place
    for name in ("x0", "y0"):
        first, second = (_named(model, name[:1] + number) for number in "01")
        if first and second and _form(model, first) == _form(model, second):
            yield _exchange, "inputs exchanged", model.signatureDefs[0].inputs.index(first)
    for place, operator in enumerate(model.subgraphs[0].operators):
        code = _code(model, operator)
        if code in _CONFUSED:
            yield _confuse, f"{_name(code)} for {_name(_CONFUSED[code][0])}", place
        if hasattr(operator.builtinOptions, "fusedActivationFunction"):
            yield _add_relu, f"{_name(code)} with a ReLU", place
        if code in (_OP.SLICE, _OP.PAD, _OP.PADV2):
            yield _shift, f"{_name(code)} shifted", place


def _named(model: Any, name: str) -> Any:
    """An input of the signature."""
    return next((entry for entry in model.signatureDefs[0].inputs if entry.name == name.encode()), None)


def _form(model: Any, entry: Any) -> tuple[Any, ...]:
    tensor = model.subgraphs[0].tensors[entry.tensorIndex]
    return tensor.type, *tensor.shape


def _exchange(model: Any, place: int) -> None:
    """An input is taken for the next one of its kind."""
    first = model.signatureDefs[0].inputs[place]
    second = _named(model, first.name.decode()[:1] + "1")
    first.tensorIndex, second.tensorIndex = second.tensorIndex, first.tensorIndex


def _change_constant(model: Any, place: int) -> None:
    """Its first number is another one."""
    _put_constant(model, place, lambda value: -value - 0.25)


def _enlarge_constant(model: Any, place: int) -> None:
    _put_constant(model, place, lambda value: float(np.clip(8.0 * value, -_LARGEST, _LARGEST)))


def _put_constant(model: Any, place: int, change: Callable[[float], float]) -> None:
    buffer = model.buffers[model.subgraphs[0].tensors[place].buffer]
    values = np.array(buffer.data, np.uint8).view(np.float32)
    values[0] = change(float(values[0]))
    buffer.data = values.view(np.uint8)


def _confuse(model: Any, place: int) -> None:
    operator = model.subgraphs[0].operators[place]
    other, kind, options = _CONFUSED[_code(model, operator)]
    model.operatorCodes.append(schema.OperatorCodeT(deprecatedBuiltinCode=other, builtinCode=other, version=1))
    operator.opcodeIndex, operator.builtinOptionsType = len(model.operatorCodes) - 1, kind
    if options is not None:
        operator.builtinOptions = options()
    elif kind == _OPTIONS.NONE:
        operator.builtinOptions = None


def _add_relu(model: Any, place: int) -> None:
    model.subgraphs[0].operators[place].builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU


def _shift(model: Any, place: int) -> None:
    """A slice begins one entry earlier, padding goes to the other side."""
    subgraph = model.subgraphs[0]
    operator = subgraph.operators[place]
    old = subgraph.tensors[operator.inputs[1]]
    numbers = np.array(model.buffers[old.buffer].data, np.uint8).view(np.int32)
    is_slice = _code(model, operator) == _OP.SLICE
    shifted = np.maximum(numbers - 1, 0) if is_slice else numbers.reshape(-1, 2)[:, ::-1].ravel()
    model.buffers.append(schema.BufferT(data=np.ascontiguousarray(shifted).view(np.uint8)))
    buffer = len(model.buffers) - 1
    subgraph.tensors.append(schema.TensorT(shape=old.shape, type=old.type, buffer=buffer, name="shifted", hasRank=True))
    operator.inputs = [operator.inputs[0], len(subgraph.tensors) - 1, *operator.inputs[2:]]


def _code(model: Any, operator: Any) -> int:
    code: int = model.operatorCodes[operator.opcodeIndex].builtinCode
    return code


def opened(graph: bytes) -> Any:
    """The model of a file, to be changed."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(graph))


def packed(model: Any) -> bytes:
    """The file of a model."""
    builder = Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _name(code: int) -> str:
    return next(str(name) for name, value in vars(_OP).items() if value == code)
