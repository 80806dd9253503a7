"""fedprune.runtime.tflite with a real runtime and real models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ai_edge_litert.schema_py_generated import BuiltinOperator

from fedprune.errors import ExportError
from fedprune.graph.graph import Graph
from fedprune.runtime import tflite
from fedprune.runtime.tflite import Runtime, available_runtimes, default_runtime, predict, predict_by_names

if TYPE_CHECKING:
    from tests.fixtures_tflite import Alter, TinyModels

pytest_plugins = ["tests.fixtures_tflite"]


@pytest.mark.parametrize("name", ["fp32", "open_batch"])
@pytest.mark.parametrize("examples", [0, 1, 70])
def test_float_models_answer_as_keras_does(tiny_models: TinyModels, name: str, examples: int) -> None:
    interpreter = default_runtime().interpreter(getattr(tiny_models, name))
    answers = predict(interpreter, tiny_models.x[:examples])
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, tiny_models.y[:examples], atol=1e-5)


@pytest.mark.parametrize("name", ["int8", "uint8"])
def test_quantised_models_take_and_give_real_values(tiny_models: TinyModels, name: str) -> None:
    interpreter = default_runtime().interpreter(getattr(tiny_models, name))
    answers = predict(interpreter, tiny_models.x)
    step = interpreter.get_output_details()[0]["quantization"][0]
    np.testing.assert_allclose(answers, tiny_models.y, atol=4 * step)


def test_values_beyond_the_quantised_range_saturate(tiny_models: TinyModels) -> None:
    interpreter = default_runtime().interpreter(tiny_models.int8)
    details = interpreter.get_input_details()[0]
    scale, zero_point = details["quantization"]
    largest = np.full((1, 8, 8, 1), scale * (127 - zero_point), np.float32)
    np.testing.assert_array_equal(predict(interpreter, 10 * largest), predict(interpreter, largest))


def test_the_batch_can_change_from_call_to_call(tiny_models: TinyModels) -> None:
    interpreter = default_runtime().interpreter(tiny_models.open_batch.read_bytes())
    for examples in (3, 70, 1):
        answers = predict(interpreter, tiny_models.x[:examples])
        np.testing.assert_allclose(answers, tiny_models.y[:examples], atol=1e-5)


@pytest.mark.parametrize("name", ["fp32", "open_batch"])
@pytest.mark.parametrize("shape", [(1, 8, 9, 1), (1, 64), (1,)])
def test_inputs_of_another_shape_are_refused(tiny_models: TinyModels, name: str, shape: tuple[int, ...]) -> None:
    interpreter = default_runtime().interpreter(getattr(tiny_models, name))
    with pytest.raises(ExportError, match=r"takes inputs of shape \[8, 8, 1\]"):
        predict(interpreter, np.zeros(shape, np.float32))


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\x1c\0\0\0TFL", b"PK\x03\x04 not a model at all"])
def test_what_is_no_tflite_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    for model in (path, content):
        with pytest.raises(ExportError, match="is not a TFLite model"):
            default_runtime().interpreter(model)


@pytest.mark.parametrize("kept", [8, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(tiny_models: TinyModels, kept: float) -> None:
    content = tiny_models.fp32.read_bytes()
    with pytest.raises(ExportError, match="truncated or damaged"):
        default_runtime().interpreter(content[: int(kept if kept >= 1 else kept * len(content))])


def test_paths_that_are_no_files_are_refused_and_do_not_block(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, problem in ((pipe, "is not a file"), (tmp_path, "is not a file"), (tmp_path / "none", "No such file")):
        with pytest.raises(ExportError, match=problem):
            default_runtime().interpreter(path)


def test_an_operator_of_the_future_is_named(altered: Alter) -> None:
    def from_the_future(model: Any) -> None:
        for code in model.operatorCodes:
            code.version = 99

    with pytest.raises(ExportError, match=r"no \w+ version 99: convert with an older TensorFlow") as caught:
        default_runtime().interpreter(altered(from_the_future))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "missing"), [("Sobel", "no op Sobel"), ("FlexConv2D", "TensorFlow's own ops")])
def test_operators_that_are_not_builtin_are_told(altered: Alter, name: str, missing: str) -> None:
    def custom(model: Any) -> None:
        code = model.operatorCodes[0]
        code.builtinCode = code.deprecatedBuiltinCode = BuiltinOperator.CUSTOM
        code.customCode = name

    with pytest.raises(ExportError, match=f"{missing}: convert the model with TFLite's builtin ops only"):
        default_runtime().interpreter(altered(custom))


def test_several_outputs_are_refused_by_predict(altered: Alter) -> None:
    def two_outputs(model: Any) -> None:
        graph = model.subgraphs[0]
        graph.outputs = [*graph.outputs, graph.operators[0].outputs[0]]

    interpreter = default_runtime().interpreter(altered(two_outputs))
    with pytest.raises(ExportError, match="has 2 outputs"):
        predict(interpreter, np.zeros((1, 8, 8, 1), np.float32))


def test_loading_is_silent(tiny_models: TinyModels, capfd: pytest.CaptureFixture[str]) -> None:
    interpreter = default_runtime().interpreter(tiny_models.open_batch)
    predict(interpreter, tiny_models.x[:2])
    assert capfd.readouterr() == ("", "")


def test_what_others_write_to_standard_error_meanwhile_is_kept(
    tiny_models: TinyModels, capfd: pytest.CaptureFixture[str]
) -> None:
    def make(**_: object) -> tflite.Interpreter:
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nsomething that matters\n")
        raise ValueError("first\nsecond \x1b[31m")

    with pytest.raises(ExportError, match=r"fp32.tflite: the runtime cannot run this model: first second \?\[31m$"):
        Runtime("fake", "1", make).interpreter(tiny_models.fp32)
    assert capfd.readouterr().err == "something that matters\n"


def test_without_a_runtime_the_error_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tflite, "_DISTRIBUTIONS", {"no-such-runtime": "no_such_runtime"})
    assert available_runtimes() == ()
    with pytest.raises(ExportError, match=r"no-such-runtime is not installed.*pip install ai-edge-litert"):
        default_runtime()


def test_several_inputs_and_outputs_go_by_their_names() -> None:
    graph = Graph()
    a, b = graph.input("a", (2, 3)), graph.input("b", (2, 3))
    blob = graph.finish("serving_default", {"difference": graph.subtract(a, b), "sum": graph.add(a, b)})
    interpreter = default_runtime().interpreter(blob)
    ones, rows = np.ones((5, 3), np.float32), np.arange(15, dtype=np.float32).reshape(5, 3)

    total, difference = predict_by_names(interpreter, {"b": ones, "a": rows}, ["sum", "difference"])

    np.testing.assert_array_equal(total, rows + 1)
    np.testing.assert_array_equal(difference, rows - 1)
    with pytest.raises(ExportError, match="the model takes a, b and returns difference, sum, not a, c and sum"):
        predict_by_names(interpreter, {"a": rows, "c": rows}, ["sum"])
