"""Small Keras models, bundles of them, and data that they can learn, for the tests of the trainers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from export.architecture import tensor_table
from export.describing.model import describe
from fedprune.data import Dataset
from fedprune.graph.training import write_training_graph
from fedprune.keras.stack import keras
from fedprune.model.losses import Loss, Objective
from fedprune.model.metrics import default_metrics
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, TensorClass, TensorSpec, TensorTable
from fedprune.network.description import Network
from fedprune.pruning.masks import Allocation
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import Schedule
from fedprune.runtime.self_check import Probe, ProvenGraph, SelfCheck, Sketch, draw_case, outputs_of, sums_of
from fedprune.runtime.training_graph import TrainingGraph
from fedprune.slimming.pruning import UnitPruning
from fedprune.task.bundle import Bundle, Pruning, Task, read_bundle, write_bundle
from fedprune.task.learning_rates import LearningRateDecay
from fedprune.task.outputs import Output
from fedprune.task.training import Adam, Sgd, Training

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


def mobile() -> Any:
    """Logits; depthwise-separable blocks with batch normalisation and ReLU6, one of them residual."""
    x = keras.layers.Input(INPUT_SHAPE)
    y = normalised(keras.layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False)(x))
    z = normalised(keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y))
    z = keras.layers.Add()([y, normalised(keras.layers.Conv2D(6, 1, use_bias=False)(z))])
    z = normalised(keras.layers.SeparableConv2D(10, 3, strides=2, padding="same", use_bias=False)(z))
    return keras.Model(x, keras.layers.Dense(CLASSES)(keras.layers.GlobalAveragePooling2D()(z)))


def normalised(x: Any) -> Any:
    return keras.layers.ReLU(6.0)(keras.layers.BatchNormalization(momentum=0.9)(x))


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


def varied() -> Any:
    """All kinds of operators and constants: both normalisations, kinks, pooling, dropout, penalties, joins, strides."""
    layers = keras.layers
    x = layers.Input((8, 8, 2))
    y = layers.Conv2D(5, 3, strides=2, padding="same", use_bias=False)(x)
    y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
    y = layers.Add()([y, layers.LeakyReLU()(layers.DepthwiseConv2D(3, padding="same", depthwise_regularizer="l1")(y))])
    y = layers.Concatenate()(
        [layers.MaxPooling2D(3, 2, padding="same")(y), layers.AveragePooling2D(2, padding="same")(y)]
    )
    y = layers.Dropout(0.3)(layers.SeparableConv2D(5, 2, activation="tanh")(y))
    y = layers.BatchNormalization()(layers.Dense(7, "sigmoid")(layers.Flatten()(y)))
    return keras.Model(x, layers.Dense(CLASSES, kernel_regularizer="l2")(y))


def bundle_of(
    model: Any,
    schedule: Schedule,
    *,
    mask: MaskPolicy,
    optimizer: Sgd | Adam | None = None,
    steps_per_round: int = 6,
    batch_size: int = 16,
    from_logits: bool = True,
    loss: Loss = Loss.SPARSE_CATEGORICAL_CROSSENTROPY,
    proximal_mu: float = 0.0,
    decay: LearningRateDecay | None = None,
    powerpropagation: float = 1.0,
    units: UnitPruning | None = None,
    label_smoothing: float = 0.0,
    logit_adjustment: float = 0.0,
) -> Bundle:
    """A bundle as an agent receives it. Its training graph is taken without proof."""
    network, table = describe(model)
    task = Task(
        name="test",
        input_shapes=network.inputs,
        outputs=(Output(tuple(model.output_shape[1:]), from_logits, metrics=default_metrics(loss)),),
        tensors=table,
        training=Training(
            steps_per_round,
            batch_size,
            optimizer or Sgd(),
            loss,
            proximal_mu,
            "keep",
            learning_rate_decay=decay,
            powerpropagation=powerpropagation,
            label_smoothing=label_smoothing,
            logit_adjustment=logit_adjustment,
        ),
        pruning=Pruning(schedule, mask, Allocation.UNIFORM, units),
        members={},
    )
    graph = proven(network, table, loss, batch_size, label_smoothing)
    return read_bundle(write_bundle(task, network=network, weights=weights_of(model), graphs=(graph,)))


def graph_of(bundle: Bundle) -> bytes:
    """The training graph that every device writes for the bundle, if it has one alone."""
    (proven_graph,) = bundle.graphs
    task = bundle.task
    return write_training_graph(bundle.network, task.table, task.objectives, proven_graph.batch_size).blob


def proven(
    network: Network, tensors: tuple[TensorSpec, ...], loss: Loss, batch_size: int, label_smoothing: float = 0.0
) -> ProvenGraph:
    """The training graph for some batch size, as if it had been compared with tf_keras."""
    objective = Objective(loss, from_logits=True, label_smoothing=label_smoothing)
    graph = write_training_graph(network, TensorTable(tensors), [objective], batch_size)
    digest = hashlib.sha256(graph.blob).hexdigest()
    return ProvenGraph(batch_size, digest, graph.memory_bytes, self_check_of(graph.blob, tensors))


def self_check_of(graph: bytes, tensors: Sequence[TensorSpec]) -> SelfCheck:
    """What a training graph itself answers to an example, taken for right."""
    loaded, seed = TrainingGraph(graph, tensors, threads=1), 5
    outputs = outputs_of(draw_case(loaded, tensors, seed, 1, 1.0).run(loaded), tensors)
    answers = {name: Sketch(1e-4, sums_of(array, seed, name)) for name, array in outputs.items()}
    return SelfCheck((Probe(seed, 1, 1.0, answers),))


def weights_of(model: Any) -> dict[str, Array]:
    """A model's weights by the names that `bundle_of` gives them."""
    table = tensor_table(model)
    return {spec.name: array for spec, array in zip(table, model.get_weights(), strict=True)}


def seeded(model: Any) -> Any:
    """The model with kernels that are the same in every run."""
    keyed = Keyed(0, "test model")
    for spec, variable in zip(tensor_table(model), model.weights, strict=True):
        if spec.kind is TensorClass.PRUNABLE:
            limit = float(np.sqrt(6.0 / sum(variable.shape[-2:])))
            variable.assign(keyed.uniform(int(np.prod(variable.shape)), -limit, limit).reshape(variable.shape))
    return model


def learnable(examples: int, seed: int = 0, shape: tuple[int, ...] = INPUT_SHAPE, classes: int = CLASSES) -> Dataset:
    """Noise around one random picture for each class."""
    keyed, size = Keyed(seed, "test data"), math.prod(shape)
    pictures = keyed.uniform(classes * size, 0.0, 1.0).reshape(classes, *shape)
    y = (keyed.integers(examples) % np.uint64(classes)).astype(np.int64)
    noise = keyed.uniform(examples * size, -0.5, 0.5).reshape(examples, *shape)
    return Dataset(pictures[y] + noise, y)


def relabelled(data: Dataset, loss: Loss, outputs: int) -> Dataset:
    """The examples of `outputs` classes with labels that suit a loss and can be learned from them."""
    classes = np.asarray(data.y)
    if loss is Loss.SPARSE_CATEGORICAL_CROSSENTROPY:
        return data
    if loss is Loss.CATEGORICAL_CROSSENTROPY:
        y = np.eye(outputs)[classes]
    elif loss is Loss.BINARY_CROSSENTROPY:
        y = classes[:, None] >> np.arange(outputs) & 1
    else:
        y = Keyed(0, "numbers").uniform(CLASSES * outputs, -2.0, 2.0).reshape(CLASSES, outputs)[classes]
    return Dataset(data.x, y.astype(np.float32))


def keras_optimizer(settings: Sgd | Adam) -> Any:
    """The optimizer as one would write it without a bundle."""
    if isinstance(settings, Adam):
        return keras.optimizers.Adam(
            learning_rate=settings.learning_rate,
            beta_1=settings.beta_1,
            beta_2=settings.beta_2,
            epsilon=settings.epsilon,
        )
    return keras.optimizers.SGD(
        learning_rate=settings.learning_rate, momentum=settings.momentum, nesterov=settings.nesterov
    )
