"""Small Keras models, bundles of them, and data that they can learn, for the tests of the keras trainer."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedprune.bundle import Adam, Bundle, MaskPolicy, Pruning, Sgd, Task, Training, read_bundle, write_bundle
from fedprune.data import Dataset
from fedprune.masks import Allocation
from fedprune.randomness import Keyed
from fedprune.schedules import Schedule
from fedprune.tensorflow_stack import keras
from fedprune.tensors import Array, TensorClass, TensorSpec

CLASSES = 4
INPUT_SHAPE = (8, 8, 1)


def perceptron() -> Any:
    """Logits; a regulariser adds to the loss."""
    return keras.Sequential(
        [
            keras.layers.Input(INPUT_SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(24, "relu", kernel_regularizer=keras.regularizers.L2(0.001)),
            keras.layers.Dense(CLASSES),
        ]
    )


def convolutional() -> Any:
    """Logits; normalised, and nested: the middle is a model of its own."""
    middle_input = keras.layers.Input((6, 6, 6))
    middle = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, strides=2, use_bias=False)(middle_input))
    x = keras.layers.Input(INPUT_SHAPE)
    y = keras.layers.Conv2D(6, 3, activation="relu")(x)
    y = keras.layers.ReLU()(keras.Model(middle_input, middle)(y))
    return keras.Model(x, keras.layers.Dense(CLASSES)(keras.layers.Flatten()(y)))


def with_dropout() -> Any:
    """Probabilities; a layer that draws random numbers."""
    return keras.Sequential(
        [
            keras.layers.Input(INPUT_SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(24, "relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(CLASSES, "softmax"),
        ]
    )


def bundle_of(
    model: Any,
    schedule: Schedule,
    *,
    mask: MaskPolicy,
    optimizer: Sgd | Adam | None = None,
    steps_per_round: int = 6,
    batch_size: int = 16,
    from_logits: bool = True,
) -> Bundle:
    """A bundle as an agent receives it, less the inference graph, which a trainer does not look at."""
    task = Task(
        name="test",
        input_shape=INPUT_SHAPE,
        classes=CLASSES,
        from_logits=from_logits,
        tensors=tuple(
            TensorSpec(
                variable.name, tuple(variable.shape), "float32", _kind(variable.name), variable.name.split("/")[0]
            )
            for variable in model.weights
        ),
        training=Training(steps_per_round, batch_size, optimizer or Sgd(), optimizer_state="keep"),
        pruning=Pruning(schedule, mask, Allocation.UNIFORM),
        members={},
    )
    blob = write_bundle(task, model_json=model.to_json(), inference_graph=b"not looked at", weights=weights_of(model))
    return read_bundle(blob)


def weights_of(model: Any) -> dict[str, Array]:
    """A model's weights by the names that `bundle_of` gives them."""
    return {variable.name: variable.numpy() for variable in model.weights}


def seeded(model: Any) -> Any:
    """The model with kernels that are the same in every run."""
    keyed = Keyed(0, "test model")
    for variable in model.weights:
        if _kind(variable.name) is TensorClass.PRUNABLE:
            limit = float(np.sqrt(6.0 / sum(variable.shape[-2:])))
            variable.assign(keyed.uniform(int(np.prod(variable.shape)), -limit, limit).reshape(variable.shape))
    return model


def learnable(examples: int, seed: int = 0) -> Dataset:
    """Noise around one random picture for each class."""
    keyed = Keyed(seed, "test data")
    pictures = keyed.uniform(CLASSES * 64, 0.0, 1.0).reshape(CLASSES, *INPUT_SHAPE)
    y = (keyed.integers(examples) % np.uint64(CLASSES)).astype(np.int64)
    noise = keyed.uniform(examples * 64, -0.5, 0.5).reshape(examples, *INPUT_SHAPE)
    return Dataset(pictures[y] + noise, y)


def keras_optimizer(settings: Sgd | Adam) -> Any:
    """The optimizer as one would write it without a bundle."""
    if isinstance(settings, Adam):
        return keras.optimizers.Adam(learning_rate=settings.learning_rate)
    return keras.optimizers.SGD(
        learning_rate=settings.learning_rate, momentum=settings.momentum, nesterov=settings.nesterov
    )


def _kind(name: str) -> TensorClass:
    if name.endswith("/kernel:0"):
        return TensorClass.PRUNABLE
    return TensorClass.STATISTICS if "/moving_" in name else TensorClass.DENSE
