"""A model configuration is foreign data: nothing in it may run code when Keras builds it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from export.config_check import check_model_config
from fedprune.errors import TaskError


def layer(class_name: str, module: str | None = "keras.layers", /, **config: Any) -> dict[str, Any]:
    return {"module": module, "class_name": class_name, "config": config, "registered_name": None}


def model_of(*layers: dict[str, Any]) -> str:
    return json.dumps({"class_name": "Sequential", "config": {"name": "model", "layers": list(layers)}})


def test_keras_own_layers_pass() -> None:
    zeros = layer("Zeros", "keras.initializers")
    inner = layer("Functional", "tf_keras.src.engine.functional", layers=[layer("Conv2D", bias_initializer=zeros)])

    check_model_config(model_of(layer("InputLayer"), inner, layer("TimeDistributed", layer=layer("Dense"))))


def test_operators_of_plain_arithmetic_and_pruning_wrappers_pass() -> None:
    wrapper = "tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper"
    schedule = {"class_name": "PolynomialDecay", "config": {"initial_sparsity": 0.0}}
    pruned = layer("PruneLowMagnitude", wrapper, layer=layer("Dense"), pruning_schedule=schedule)
    policy = layer("Policy", "keras.mixed_precision", name="mixed_float16")
    add = layer("TFOpLambda", "tf_keras.src.layers.core.tf_op_layer", function="__operators__.add")

    check_model_config(model_of(pruned, add | {"registered_name": "TFOpLambda"}, layer("Dense", dtype=policy)))


def test_what_keras_leaves_the_module_out_of_passes() -> None:
    check_model_config(model_of({"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense"}]}}))


@pytest.mark.parametrize(
    "foreign",
    [
        layer("Lambda", function=["4wEAAA==", None, None]),
        layer("Lambda", None),
        layer("TimeDistributed", layer=layer("Lambda")),
        layer("Bidirectional", backward_layer=[{"deep": layer("system", "os")}]),
        layer("TFOpLambda", "tf_keras.src.layers.core.tf_op_layer", function="io.write_file"),
        layer("TFOpLambda", "os", function="reshape"),
        layer("TFOpLambda", "keras.layers", function={"class_name": "Dense"}),
        layer("SlicingOpLambda", None, function="reshape"),
        layer("PruneLowMagnitude", "somewhere.else"),
        layer("function", "builtins"),
        layer("__lambda__", None, value="4wEAAA=="),
        layer("TextVectorization", vocabulary="/etc/passwd"),
        layer("core.lambda_layer.Lambda"),
        {"class_name": "TensorFlowOpLayer", "config": {}},
        {"class_name": "ClassMethod", "config": {"cls_symbol": "io.gfile.GFile"}},
        layer("Dense", None),
        layer("Nothing") | {"registered_name": "Lambda"},
        layer("Dense") | {"registered_name": "Custom>Dense"},
        {"class_name": ["Dense"], "module": ["keras.layers"]},
        {"class_name": 7, "module": "keras.layers"},
    ],
    ids=str,
)
def test_what_could_run_code_is_refused(foreign: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match=r"^model: "):
        check_model_config(model_of(foreign))


def test_the_layer_is_named() -> None:
    odd = layer("TimeDistributed", name="outer", layer=layer("Lambda", name="odd"))

    with pytest.raises(TaskError, match=r"^my\.keras: layer 'odd' is, or uses, custom code \('Lambda'\)"):
        check_model_config(model_of(odd), "my.keras")


@pytest.mark.parametrize("text", ["", "{", "\ufffd", '{"class_name": NaN}', '{"class_name": {}}', "[" * 100_000])
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(TaskError, match=r"^model: "):
        check_model_config(text)
