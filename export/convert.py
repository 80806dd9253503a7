"""A Keras model as the bytes of a .tflite file. Importing this module imports TensorFlow."""

from __future__ import annotations

import re
from typing import Any

from export.report import Format
from fedprune.errors import ExportError
from fedprune.keras.stack import tf
from fedprune.model.tensors import Inputs
from fedprune.runtime.tflite import one_line
from fedprune.system.quiet import without_lines


def convert(model: Any, form: Format, representative: Inputs) -> bytes:
    """`model` with a batch of 1. `representative` is `[examples, ...]`, float32 or ids, where int8's scales come from.

    Equal models give equal bytes. Raises `ExportError` where TFLite's builtin ops cannot express the model.
    """
    batch_of_one = tf.TensorSpec((1, *model.input_shape[1:]), model.inputs[0].dtype, name="x")
    with without_lines(lambda _: True):  # it tells of its work at any log level
        try:
            graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(batch_of_one)
            converter = tf.lite.TFLiteConverter.from_concrete_functions([graph], model)
            _configure(converter, form, representative)
            content: bytes = converter.convert()
        except Exception as error:  # whatever the converter raises on an op that it cannot express
            raise ExportError(
                f"the model cannot be converted to {form}: {_explain(str(error))}; leave {form} out with --formats, or "
                "build the task from other layers"
            ) from error
    return content


def _configure(converter: Any, form: Format, representative: Inputs) -> None:
    if form is Format.FP32:
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if form is Format.FP16:
        converter.target_spec.supported_types = [tf.float16]
    if form is Format.INT8:
        converter.representative_dataset = lambda: ([example[None]] for example in representative)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8


def _explain(message: str) -> str:
    if op := re.search(r"'tf\.(\w+)' op is neither", message):
        return f"TFLite has no builtin op for TensorFlow's {op[1]}"
    return one_line(message.strip().partition("\n")[0])
