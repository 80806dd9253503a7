"""Small TFLite models, converted once a session. Use with `pytest_plugins = ["tests.fixtures_tflite"]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


@dataclass(frozen=True)
class TinyModels:
    """One Keras CNN (8x8x1 in, 3 out) as TFLite files, with what Keras itself answers to 70 examples."""

    fp32: Path
    """Batch 1."""
    open_batch: Path
    int8: Path
    uint8: Path
    x: NDArray[np.float32]
    y: NDArray[np.float32]


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    import tensorflow as tf
    import tf_keras as keras

    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPool2D(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    x = np.random.default_rng(1).random((70, 8, 8, 1), np.float32)
    one = tf.function(model).get_concrete_function(tf.TensorSpec((1, 8, 8, 1), tf.float32))
    folder = tmp_path_factory.mktemp("tflite")

    def converted(name: str, quantised_io: Any = None) -> Path:
        converter = tf.lite.TFLiteConverter.from_concrete_functions([one], model)
        if quantised_io is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: _batches_of_one(x)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = quantised_io
        return _saved(folder / name, converter.convert())

    return TinyModels(
        fp32=converted("fp32.tflite"),
        open_batch=_saved(folder / "open.tflite", tf.lite.TFLiteConverter.from_keras_model(model).convert()),
        int8=converted("int8.tflite", tf.int8),
        uint8=converted("uint8.tflite", tf.uint8),
        x=x,
        y=model(x).numpy(),
    )


@pytest.fixture(scope="session")
def open_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes images of any size, ``[batch, height, width, 3]``, and numbers to be added, ``[4]``, of a fixed size."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32), tf.TensorSpec((4,), tf.float32)])
    def brightness(image: Any, bias: Any) -> Any:
        return tf.reduce_mean(tf.nn.conv2d(image, tf.ones((3, 3, 3, 4)), 1, "VALID"), (1, 2)) + bias

    converter = tf.lite.TFLiteConverter.from_concrete_functions([brightness.get_concrete_function()])
    return _saved(tmp_path_factory.mktemp("open") / "size.tflite", converter.convert())


@dataclass(frozen=True)
class PatternModels:
    """A network of the pattern that XNNPACK's sparse kernels take, 80 % pruned, as fp32 files."""

    sparse: Path
    """In sparse encoding."""
    dense: Path
    unpadded: Path
    """In sparse encoding, and padded `same` where the pattern wants a padding layer."""


@pytest.fixture(scope="session")
def pattern_models(tmp_path_factory: pytest.TempPathFactory) -> PatternModels:
    import tensorflow as tf
    import tf_keras as keras

    layers = keras.layers

    def network(*, padded: bool) -> Any:
        keras.utils.set_random_seed(1)
        first = {"strides": 2, "padding": "valid" if padded else "same", "activation": "relu"}
        model = keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                *([layers.ZeroPadding2D(1)] if padded else []),
                layers.Conv2D(16, 3, **first),
                layers.Conv2D(32, 1, activation="relu"),
                layers.DepthwiseConv2D(3, padding="same"),
                layers.Conv2D(32, 1, activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(3),
            ]
        )
        for layer in model.layers:
            if isinstance(layer, layers.Conv2D) and layer.kernel_size == (1, 1):
                kernel, bias = layer.get_weights()
                kernel[np.abs(kernel) < np.quantile(np.abs(kernel), 0.8)] = 0
                layer.set_weights([kernel, bias])
        return model

    def saved(name: str, model: Any, optimizations: list[Any]) -> Path:
        one = tf.function(model).get_concrete_function(tf.TensorSpec((1, 16, 16, 3), tf.float32))
        converter = tf.lite.TFLiteConverter.from_concrete_functions([one], model)
        converter.optimizations = optimizations
        return _saved(folder / name, converter.convert())

    folder, sparse = tmp_path_factory.mktemp("pattern"), [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    padded = network(padded=True)
    return PatternModels(
        sparse=saved("sparse.tflite", padded, sparse),
        dense=saved("dense.tflite", padded, []),
        unpadded=saved("unpadded.tflite", network(padded=False), sparse),
    )


@pytest.fixture
def endless_model(tmp_path: Path) -> Path:
    """A valid model that never answers."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((1,), tf.float32)])
    def endless(x: Any) -> Any:
        return tf.while_loop(lambda y: tf.reduce_all(y > -1.0), lambda y: (y * 0.5,), (x,))[0]

    converter = tf.lite.TFLiteConverter.from_concrete_functions([endless.get_concrete_function()])
    return _saved(tmp_path / "endless.tflite", converter.convert())


Alter = Callable[[Callable[[Any], None]], Path]


@pytest.fixture
def altered(tiny_models: TinyModels, tmp_path: Path) -> Alter:
    """Write the fp32 model again after a change to its object tree (`ModelT` of the TFLite schema)."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

    def alter(change: Callable[[Any], None]) -> Path:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tiny_models.fp32.read_bytes()))
        change(model)
        builder = Builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        return _saved(tmp_path / "altered.tflite", bytes(builder.Output()))

    return alter


def _batches_of_one(x: NDArray[np.float32]) -> Iterator[list[NDArray[np.float32]]]:
    for example in x:
        yield [example[np.newaxis]]


def _saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
