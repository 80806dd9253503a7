"""The inference graph: a Keras model as TFLite whose weights are inputs. Importing this module imports TensorFlow.

Layers are called as they are, while their variables are replaced by the graph's inputs. LiteRT is slow on
convolutions whose filters are not constant, so those of ordinary 2-D layers become patches times a matrix: 0.20 s
instead of 0.73 s for 10,000 examples of CNN-108k.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from fedprune.errors import TaskError
from fedprune.keras.stack import keras, tf
from fedprune.model.randomness import Keyed
from fedprune.runtime.self_check import some_weights
from fedprune.task.bundle import Bundle
from fedprune.task.evaluation import InferenceGraph

_LARGEST_BATCH = 50
"""More is no faster, and needs more memory."""
_TENSOR_BYTES = 8 * 2**20
"""Bytes that the largest tensor of a batch may take, so that a gateway evaluates in little memory."""

_TOLERANCE = 1e-3
"""Largest difference to Keras, relative to the largest output. What the converter loses by mistake is far more."""


def make_inference_graph(model: Any) -> bytes:
    """`model` as TFLite of builtin ops: ``x`` `[batch, ...]` and ``w0`` … ``wN``, in `model.weights`' order, to ``y``.

    The batch is fixed, the smaller the larger the model's tensors are. Raises `TaskError` if the model cannot be
    converted.
    """
    graph = _trace(model, _batch_for(model))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph], tf.Module())
    try:
        converted: bytes = converter.convert()
    except Exception as error:  # whatever the converter raises on an op that it does not know
        raise TaskError(
            f"model {model.name!r} cannot be converted to TFLite's builtin ops ({_reason(error)}); use other layers"
        ) from error
    return converted


def verify_inference_graph(bundle: Bundle, model: Any) -> None:
    """Raise `TaskError` unless the bundle's graph answers as `model` does, with weights that are nowhere zero.

    TensorFlow 2.21's converter drops the ReLU that follows a matrix product without bias; whatever else it may
    drop is found here too.
    """
    keyed = Keyed(0, "verify inference graph")
    weights = {spec.name: some_weights(spec, keyed) for spec in bundle.task.tensors}
    clone = keras.models.clone_model(model)
    clone.set_weights(list(weights.values()))
    graph = InferenceGraph(bundle, threads=1)
    graph.load(weights)
    shape = (_LARGEST_BATCH + 1, *bundle.task.input_shape)  # more than one batch, since a graph could keep state
    x = keyed.uniform(math.prod(shape), -1.0, 1.0).reshape(shape)
    expected = clone(x, training=False).numpy()
    difference = np.abs(np.concatenate(list(graph.predict(x))) - expected).max()
    if not difference <= _TOLERANCE * np.abs(expected).max():
        raise TaskError(
            f"model {model.name!r}: its inference graph differs from Keras by {difference:.2g} (TensorFlow's converter "
            "drops the ReLU after a Dense layer without bias: give it one, or put BatchNormalization between)"
        )


def _batch_for(model: Any) -> int:
    """The number of examples to infer at once."""
    outputs = (output for op in _trace(model, 1).graph.get_operations() for output in op.outputs)
    largest: int = max(output.shape.num_elements() * output.dtype.size for output in outputs if output.shape[:1] == [1])
    return min(max(_TENSOR_BYTES // largest, 1), _LARGEST_BATCH)


def _trace(model: Any, batch: int) -> Any:
    """The model as a concrete function of examples and weights."""
    specs = {f"w{row}": tf.TensorSpec(v.shape, v.dtype, name=f"w{row}") for row, v in enumerate(model.weights)}
    consumed = keras.models.clone_model(model)

    def answer(x: tf.Tensor, **weights: tf.Tensor) -> dict[str, tf.Tensor]:
        _make_stateless(consumed, [weights[name] for name in specs])
        return {"y": consumed(x, training=False)}

    x = tf.TensorSpec((batch, *model.input_shape[1:]), tf.float32, name="x")
    try:
        graph = tf.function(answer, autograph=False).get_concrete_function(x=x, **specs)
    except Exception as error:  # a layer that asks of a tensor what only a variable has
        raise TaskError(f"model {model.name!r} cannot take its weights as inputs: {_reason(error)}") from error
    if any(captured.dtype == tf.resource for captured in graph.captured_inputs):
        raise TaskError(f"model {model.name!r} has layers whose weights cannot be inputs; use ordinary layers")
    return graph


def _make_stateless(model: Any, weights: list[tf.Tensor]) -> None:
    """Put `weights` in the place of the layers' variables, behind Keras' back: it tracks what is assigned to layers."""
    tensors = {variable.ref(): weight for variable, weight in zip(model.weights, weights, strict=True)}
    for layer in model.submodules:
        for name, value in vars(layer).items():
            if isinstance(value, tf.Variable):
                vars(layer)[name] = tensors.get(value.ref(), value)
        if _has_patches(layer):
            vars(layer)["convolution_op"] = functools.partial(_convolve_patches, layer)


def _has_patches(layer: Any) -> bool:
    return (
        type(layer) is keras.layers.Conv2D
        and layer.groups == 1
        and layer.data_format == "channels_last"
        and layer.dilation_rate == (1, 1)
        and layer.strides[0] == layer.strides[1]
    )


def _convolve_patches(layer: Any, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Compute `layer` as a matrix product. Patches are cut out by a depthwise convolution with ones."""
    height, width, channels, filters = kernel.shape
    pixels = height * width
    # One depthwise filter for each pixel of the patch: output channel c * pixels + p is pixel p of channel c.
    cut = np.tile(np.eye(pixels, dtype=np.float32).reshape(height, width, 1, pixels), (1, 1, channels, 1))
    patches = tf.nn.depthwise_conv2d(x, cut, [1, *layer.strides, 1], layer.padding.upper())
    # No reshape of the product: the converter would drop a ReLU after it.
    return patches @ tf.reshape(tf.transpose(kernel, (2, 0, 1, 3)), (channels * pixels, filters))


def _reason(error: Exception) -> str:
    """The first line of what TensorFlow or Keras say, which goes on for pages."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:200]
