"""A Keras model as the bytes of a .tflite file. Importing this module imports TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from export.report import Format
from export.signature import Signature
from fedprune.errors import ExportError
from fedprune.keras.model import call_model
from fedprune.keras.stack import tf
from fedprune.model.tensors import Inputs
from fedprune.runtime.tflite import one_line
from fedprune.system.quiet import without_lines


def convert(model: Any, form: Format, signature: Signature, representative: Sequence[Inputs]) -> bytes:
    """`model` with a batch of 1.

    `representative` has for each input `[examples, ...]`, float32 or ids, where int8's scales come from. Inputs and
    outputs are called as `signature` says. Equal models give equal bytes. Raises `ExportError` where TFLite's
    builtin ops cannot express the model.
    """
    batch_of_one = [
        tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype, name=name)
        for tensor, name in zip(model.inputs, signature.inputs, strict=True)
    ]

    def infer(*x: tf.Tensor) -> Any:
        found = call_model(model, x, training=False)
        return dict(zip(signature.outputs, found, strict=True)) if len(found) > 1 else found[0]

    with without_lines(lambda _: True):  # it tells of its work at any log level
        try:
            graph = tf.function(infer).get_concrete_function(*batch_of_one)
            converter = tf.lite.TFLiteConverter.from_concrete_functions([graph], model)
            _configure(converter, form, representative)
            content: bytes = converter.convert()
        except Exception as error:  # whatever the converter raises on an op that it cannot express
            raise ExportError(
                f"the model cannot be converted to {form}: {_explain(str(error))}; leave {form} out with --formats, or "
                "build the task from other layers"
            ) from error
    return content


def _configure(converter: Any, form: Format, representative: Sequence[Inputs]) -> None:
    if form is Format.FP32:
        return
    sparse = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY] if form in (Format.FP32_SPARSE, Format.FP16_SPARSE) else []
    converter.optimizations = [*sparse, *([] if form is Format.FP32_SPARSE else [tf.lite.Optimize.DEFAULT])]
    if form in (Format.FP16, Format.FP16_SPARSE):
        converter.target_spec.supported_types = [tf.float16]
    if form is Format.INT8:
        converter.representative_dataset = lambda: (
            [example[np.newaxis] for example in examples] for examples in zip(*representative, strict=True)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8


def _explain(message: str) -> str:
    if op := re.search(r"'tf\.(\w+)' op is neither", message):
        return f"TFLite has no builtin op for TensorFlow's {op[1]}"
    return one_line(message.strip().partition("\n")[0])
