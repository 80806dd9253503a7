"""Networks with all supported layers and options, and what tf_keras makes of a batch, to test training graphs with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from export.architecture import tensor_table
from export.describing.model import describe
from export.proof.proof import Proof
from export.proof.reference import Reference
from fedprune.graph.training import write_training_graph
from fedprune.keras.activations import hard_sigmoid, hard_swish
from fedprune.keras.stack import keras, tf
from fedprune.model.losses import Loss, Objective
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, Inputs, TensorTable
from fedprune.runtime.self_check import draw_inputs
from fedprune.runtime.training_graph import Step

L = keras.layers
BATCH, CLASSES = 6, 3

Image = (7, 9, 2)
LAYERS: dict[str, tuple[tuple[int, ...], Callable[[], Any]]] = {
    "Dense": ((5,), lambda: L.Dense(4)),
    "Dense, no bias": ((5,), lambda: L.Dense(4, use_bias=False)),
    "Dense over time": ((6, 5), lambda: L.Dense(4, "tanh")),
    "Conv1D": ((9, 5), lambda: L.Conv1D(4, 3)),
    "Conv1D, stride 2, same": ((9, 5), lambda: L.Conv1D(4, 4, strides=2, padding="same")),
    "Conv1D, causal": ((9, 5), lambda: L.Conv1D(4, 3, strides=2, padding="causal")),
    "Conv2D": (Image, lambda: L.Conv2D(4, 3)),
    "Conv2D, same": (Image, lambda: L.Conv2D(4, 3, padding="same")),
    "Conv2D, 1x1": (Image, lambda: L.Conv2D(4, 1)),
    "Conv2D, 1x1, stride 2": (Image, lambda: L.Conv2D(4, 1, strides=2)),
    "Conv2D, 5x2, stride 1x3, same": (Image, lambda: L.Conv2D(3, (5, 2), strides=(1, 3), padding="same")),
    "Conv2D, many channels": ((6, 6, 7), lambda: L.Conv2D(5, 3, strides=2, padding="same")),
    "Conv2D, as large as the image": (Image, lambda: L.Conv2D(4, (7, 9))),
    "Conv2D, larger than the image": (Image, lambda: L.Conv2D(4, 11, padding="same")),
    "Conv1D, dilated, causal": ((9, 5), lambda: L.Conv1D(4, 3, dilation_rate=2, padding="causal")),
    "Conv2D, dilated": (Image, lambda: L.Conv2D(4, (3, 2), dilation_rate=(2, 3))),
    "Conv2D, dilated, same": (Image, lambda: L.Conv2D(4, 3, dilation_rate=2, padding="same")),
    "Conv2D, groups": ((7, 9, 6), lambda: L.Conv2D(4, 3, groups=2, strides=2)),
    "Conv1DTranspose": ((5, 4), lambda: L.Conv1DTranspose(3, 3, strides=2, padding="same")),
    "Conv2DTranspose": ((4, 3, 4), lambda: L.Conv2DTranspose(3, (3, 2), strides=2)),
    "Conv2DTranspose, same": ((4, 3, 4), lambda: L.Conv2DTranspose(3, (3, 5), strides=(2, 1), padding="same")),
    "Conv2DTranspose, gaps": ((4, 3, 4), lambda: L.Conv2DTranspose(3, 2, strides=3, use_bias=False)),
    "DepthwiseConv2D, dilated": (Image, lambda: L.DepthwiseConv2D(3, dilation_rate=(2, 1), padding="same")),
    "SeparableConv1D, dilated": ((9, 5), lambda: L.SeparableConv1D(4, 3, dilation_rate=3)),
    "DepthwiseConv1D": ((9, 5), lambda: L.DepthwiseConv1D(3, padding="same")),
    "DepthwiseConv2D": (Image, lambda: L.DepthwiseConv2D(3)),
    "DepthwiseConv2D, stride 2, same": (Image, lambda: L.DepthwiseConv2D(3, strides=2, padding="same")),
    "DepthwiseConv2D, multiplier 3": (Image, lambda: L.DepthwiseConv2D((3, 2), depth_multiplier=3)),
    "SeparableConv1D": ((9, 5), lambda: L.SeparableConv1D(4, 3, depth_multiplier=2)),
    "SeparableConv2D": (Image, lambda: L.SeparableConv2D(4, 3, strides=2, padding="same")),
    "BatchNormalization of images": (Image, lambda: L.BatchNormalization()),
    "BatchNormalization of rows": ((5,), lambda: L.BatchNormalization(momentum=0.7, epsilon=1e-2)),
    "BatchNormalization over time": ((6, 5), lambda: L.BatchNormalization(scale=False)),
    "BatchNormalization, no center": (Image, lambda: L.BatchNormalization(center=False)),
    "BatchNormalization, small epsilon": (Image, lambda: L.BatchNormalization(epsilon=1e-6)),
    "MaxPooling1D": ((9, 5), lambda: L.MaxPooling1D(2)),
    "MaxPooling2D": (Image, lambda: L.MaxPooling2D()),
    "MaxPooling2D, overlapping, same": (Image, lambda: L.MaxPooling2D(3, strides=2, padding="same")),
    "MaxPooling2D, gaps": (Image, lambda: L.MaxPooling2D(2, strides=3)),
    "AveragePooling1D, same": ((9, 5), lambda: L.AveragePooling1D(2, padding="same")),
    "AveragePooling2D": (Image, lambda: L.AveragePooling2D((2, 3))),
    "AveragePooling2D, overlapping, same": (Image, lambda: L.AveragePooling2D(3, strides=2, padding="same")),
    "GlobalAveragePooling1D": ((9, 5), lambda: L.GlobalAveragePooling1D()),
    "GlobalAveragePooling2D": (Image, lambda: L.GlobalAveragePooling2D(keepdims=True)),
    "GlobalMaxPooling1D": ((9, 5), lambda: L.GlobalMaxPooling1D()),
    "GlobalMaxPooling2D": (Image, lambda: L.GlobalMaxPooling2D()),
    "Reshape": (Image, lambda: L.Reshape((9, -1))),
    "Reshape, by the batch's size": (Image, lambda: lambda x: tf.reshape(x, (tf.shape(x)[0], 9, 14))),
    "ZeroPadding1D": ((9, 5), lambda: L.ZeroPadding1D((2, 1))),
    "ZeroPadding2D": (Image, lambda: L.ZeroPadding2D(((0, 1), (2, 0)))),
    "Average": (Image, lambda: lambda x: L.Average()([x, L.Conv2D(2, 3, padding="same")(x), L.ReLU()(x)])),
    "Subtract": (Image, lambda: lambda x: L.Subtract()([x, L.Conv2D(2, 1)(x)])),
    "Multiply": (Image, lambda: lambda x: L.Multiply()([x, L.Conv2D(2, 3, padding="same")(x), x])),
    "Multiply, each channel": (
        Image,
        lambda: lambda x: L.Multiply()([x, L.Dense(2)(L.GlobalAveragePooling2D(keepdims=True)(x))]),
    ),
    "Maximum": (Image, lambda: lambda x: L.Maximum()([x, L.Conv2D(2, 1)(x), L.Conv2D(2, 3, padding="same")(x)])),
    "Minimum": (Image, lambda: lambda x: L.Minimum()([L.Conv2D(1, 1)(x), x])),
    "Dot of rows": ((5,), lambda: lambda x: L.Concatenate()([L.Dot(1)([x, L.Dense(5)(x)]), x])),
    "Dot of unit rows": (
        (5,),
        lambda: lambda x: L.Concatenate()([L.Dot(-1, normalize=True)([x, L.Dense(5)(x)]), x]),
    ),
    "Dot of matrices": ((6, 5), lambda: lambda x: L.Dot((1, 2))([x, L.Dense(6)(x)])),
    "Dot of a matrix and a row": ((6, 5), lambda: lambda x: L.Dot((2, 1))([x, L.GlobalAveragePooling1D()(x)])),
    "LayerNormalization": ((5,), lambda: L.LayerNormalization()),
    "LayerNormalization of images": (Image, lambda: L.LayerNormalization((1, 2, 3), epsilon=1e-5)),
    "LayerNormalization over time": ((6, 5), lambda: L.LayerNormalization(scale=False)),
    "GroupNormalization": ((7, 9, 6), lambda: L.GroupNormalization(3, epsilon=1e-2)),
    "UnitNormalization": ((6, 5), lambda: L.UnitNormalization()),
    "Permute": (Image, lambda: L.Permute((3, 1, 2))),
    "RepeatVector": ((5,), lambda: lambda x: L.Conv1D(3, 2)(L.RepeatVector(4)(x))),
    "Cropping1D": ((9, 5), lambda: L.Cropping1D((2, 1))),
    "Cropping2D": (Image, lambda: L.Cropping2D(((0, 1), (2, 0)))),
    "UpSampling1D": ((9, 5), lambda: lambda x: L.Conv1D(4, 3, strides=2)(L.UpSampling1D(2)(x))),
    "UpSampling2D": (Image, lambda: lambda x: L.Conv2D(4, 3, strides=2)(L.UpSampling2D((2, 3))(x))),
    "UpSampling2D, bilinear": (
        Image,
        lambda: lambda x: L.Conv2D(4, 3, strides=2)(L.UpSampling2D((2, 3), interpolation="bilinear")(x)),
    ),
    "MultiHeadAttention": ((6, 5), lambda: lambda x: L.MultiHeadAttention(2, 3)(x, x)),
    "MultiHeadAttention, causal": (
        (6, 5),
        lambda: lambda x: L.MultiHeadAttention(2, 3, value_dim=4, use_bias=False)(x, x, use_causal_mask=True),
    ),
    "MultiHeadAttention of others": (
        (6, 5),
        lambda: lambda x: L.MultiHeadAttention(3, 2, output_shape=4)(L.Conv1D(4, 3)(x), x, key=L.Dense(3)(x)),
    ),
    "Normalization, inverted": (Image, lambda: L.Normalization(mean=[0.2, -0.1], variance=[0.5, 2.0], invert=True)),
    "Normalization": (Image, lambda: L.Normalization(mean=[0.2, -0.1], variance=[0.5, 2.0])),
    "Identity": ((5,), lambda: L.Identity()),
    "Rescaling": (Image, lambda: L.Rescaling(1 / 3, offset=-0.5)),
    "Rescaling of each channel": (Image, lambda: L.Rescaling([0.5, 2.0], offset=[-1.0, 0.25])),
    "LSTM": ((4, 5), lambda: L.LSTM(4)),
    "LSTM, sequences, no bias": ((4, 5), lambda: L.LSTM(4, return_sequences=True, use_bias=False)),
    "LSTM, backwards": ((4, 5), lambda: L.LSTM(4, go_backwards=True, return_sequences=True)),
    "LSTM, one step": ((1, 5), lambda: L.LSTM(4)),
    "GRU": ((4, 5), lambda: L.GRU(4)),
    "GRU, sequences, backwards": ((4, 5), lambda: L.GRU(4, go_backwards=True, return_sequences=True)),
    "GRU, no bias": ((4, 5), lambda: L.GRU(4, use_bias=False)),
    "GRU, reset before": ((4, 5), lambda: L.GRU(4, reset_after=False)),
    "GRU, reset before, sequences": ((4, 5), lambda: L.GRU(4, reset_after=False, return_sequences=True)),
    "SimpleRNN": ((4, 5), lambda: L.SimpleRNN(4)),
    "SimpleRNN, sequences": ((4, 5), lambda: L.SimpleRNN(4, return_sequences=True)),
    "Bidirectional": ((4, 5), lambda: L.Bidirectional(L.GRU(4))),
    "Bidirectional, sequences": ((4, 5), lambda: L.Bidirectional(L.LSTM(3, return_sequences=True))),
    "Bidirectional, sum": ((4, 5), lambda: L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode="sum")),
    "Bidirectional, ave": ((4, 5), lambda: L.Bidirectional(L.SimpleRNN(3), merge_mode="ave")),
    "TimeDistributed": ((6, 5), lambda: L.TimeDistributed(L.Dense(4, "tanh"))),
    "TimeDistributed, shapes": ((3, 4, 5), lambda: L.TimeDistributed(L.Flatten())),
    "L2 of recurrent weights": ((4, 5), lambda: L.LSTM(4, recurrent_regularizer="l2", bias_regularizer="l1")),
    "relu": ((5,), lambda: L.Activation("relu")),
    "relu6": ((5,), lambda: L.Activation("relu6")),
    "leaky_relu": ((5,), lambda: L.Activation("leaky_relu")),
    "tanh": ((5,), lambda: L.Activation("tanh")),
    "sigmoid": ((5,), lambda: L.Activation("sigmoid")),
    "swish": ((5,), lambda: L.Activation("swish")),
    "gelu": ((5,), lambda: L.Activation("gelu")),
    "gelu, by tanh": ((5,), lambda: lambda x: tf.nn.gelu(x, approximate=True)),
    "hard_swish": ((5,), lambda: L.Activation(hard_swish)),
    "hard_sigmoid": ((5,), lambda: L.Activation("hard_sigmoid")),
    "hard_sigmoid of Keras 3": ((5,), lambda: L.Activation(hard_sigmoid)),
    "exponential": ((5,), lambda: L.Activation("exponential")),
    "ELU": ((5,), lambda: L.ELU(0.3)),
    "selu": ((5,), lambda: L.Activation("selu")),
    "softplus": ((5,), lambda: L.Activation("softplus")),
    "softsign": ((5,), lambda: L.Activation("softsign")),
    "softmax": ((6, 5), lambda: L.Activation("softmax")),
    "ReLU": ((5,), lambda: L.ReLU()),
    "ReLU, slope": ((5,), lambda: L.ReLU(negative_slope=0.1)),
    "ReLU, 6": ((5,), lambda: L.ReLU(6.0)),
    "LeakyReLU": ((5,), lambda: L.LeakyReLU()),
    "Softmax": ((6, 5), lambda: L.Softmax()),
    "L1": ((5,), lambda: L.Dense(4, kernel_regularizer=keras.regularizers.L1(0.01))),
    "L2 of a bias": ((5,), lambda: L.Dense(4, bias_regularizer=keras.regularizers.L2(0.1))),
    "L1L2 of depthwise and pointwise kernels": (
        Image,
        lambda: L.SeparableConv2D(4, 3, depthwise_regularizer="l1_l2", pointwise_regularizer="l2"),
    ),
    "L2 of gamma and beta": ((5,), lambda: L.BatchNormalization(gamma_regularizer="l2", beta_regularizer="l2")),
}


def between(shape: tuple[int, ...], layer: Any) -> Any:
    """A classifier with `layer` between others that have weights, so that gradients pass through it."""
    x = L.Input(shape)
    y = layer(L.Dense(shape[-1], use_bias=False)(x))
    return keras.Model(x, L.Dense(CLASSES)(L.Flatten()(y)))


def drawn(*shape: int, seed: int = 0) -> Array:
    return Keyed(seed, "test").uniform(int(np.prod(shape)), -1.0, 1.0).reshape(shape)


def examples(model: Any, count: int) -> Inputs:
    """Numbers from -1 to 1, ids where the model takes them; some padding where it leaves that out."""
    network, _ = describe(model)
    (form,), (padding,) = network.input_forms, network.paddings
    return draw_inputs(Keyed(0, "test"), (count, *form.shape), form.vocabulary, padding=padding)


def randomised(model: Any) -> Any:
    """The model with weights that are nowhere zero and the same in every run."""
    keyed = Keyed(1, "test weights")
    for spec, variable in zip(tensor_table(model), model.weights, strict=True):
        low = 0.5 if spec.name.endswith("variance") else -1.0
        variable.assign(keyed.uniform(spec.size, low, 1.0).reshape(spec.shape) / max(1, len(spec.shape)))
    return model


def residual() -> Any:
    """Joins, a nested model, a layer that is used twice, and a frozen batch normalisation."""
    x = L.Input((6, 6, 3))
    y = L.Conv2D(5, 3, padding="same", use_bias=False)(x)
    normalised = L.ReLU()(L.BatchNormalization()(y))
    shared = L.Conv2D(5, 3, padding="same", kernel_regularizer="l2")
    inner_input = L.Input((6, 6, 5))
    inner = keras.Model(inner_input, L.BatchNormalization(trainable=False)(L.Conv2D(5, 1)(inner_input)))
    joined = L.Add()([y, shared(shared(normalised)), inner(normalised)])
    joined = L.Concatenate()([joined, L.MaxPooling2D(3, strides=1, padding="same")(normalised)])
    return keras.Model(x, L.Dense(CLASSES)(L.GlobalAveragePooling2D()(joined)))


def tokens() -> Any:
    """Ids of which some are frequent and most never there, in two tables."""
    x = L.Input((6,), dtype="int32")
    y = L.Concatenate()([L.Embedding(9, 4)(x), L.Embedding(40, 3, embeddings_regularizer="l2")(x)])
    return keras.Model(x, L.Dense(CLASSES)(L.GlobalAveragePooling1D()(L.Conv1D(5, 2, activation="tanh")(y))))


def masked_ids() -> Any:
    """Cells that hold their state where ids are padding, and a mean without that."""
    x = L.Input((5,), dtype="int32")
    y = L.Embedding(9, 4, mask_zero=True)(x)
    through = L.GRU(3, reset_after=False)(L.LSTM(3, return_sequences=True)(y))
    backwards = L.Flatten()(L.GRU(3, go_backwards=True, return_sequences=True)(y))
    mean = L.GlobalAveragePooling1D()(L.TimeDistributed(L.Dense(3, "tanh"))(y))
    return keras.Model(x, L.Dense(CLASSES)(L.Concatenate()([through, backwards, L.SimpleRNN(3)(y), mean])))


def masked_numbers() -> Any:
    """Cells that return zeros for what is padding: both ways of Bidirectional, and last outputs."""
    x = L.Input((4, 3))
    y = L.Masking(-0.5)(x)
    both = L.Bidirectional(L.LSTM(2, return_sequences=True))(L.Dense(4)(y))
    ends = [
        L.GRU(3, zero_output_for_mask=True, go_backwards=backwards)(L.Add()([both, L.Dense(4)(y)]))
        for backwards in (True, False)
    ]
    return keras.Model(x, L.Dense(CLASSES)(L.Concatenate()([*ends, L.Flatten()(y)])))


def masked_attention() -> Any:
    """Padding that no place looks up, among the places that look and among others."""
    x = L.Input((4,), dtype="int32")
    y = L.LayerNormalization()(L.Embedding(9, 4, mask_zero=True)(x))
    own = L.MultiHeadAttention(2, 3)(y, y, use_causal_mask=True)
    other = L.MultiHeadAttention(2, 2)(L.Conv1D(3, 2)(y), own, key=y)
    ends = [L.GlobalAveragePooling1D()(own), L.Flatten()(other)]
    return keras.Model(x, L.Dense(CLASSES)(L.Concatenate()(ends)))


def windows_of_a_sensor() -> Any:
    """A 1-D CNN over 128 x 6 windows."""
    return keras.Sequential(
        [
            L.Input((128, 6)),
            L.Conv1D(9, 5, strides=2, activation="relu"),
            L.MaxPooling1D(),
            L.SeparableConv1D(11, 3, activation="relu"),
            L.GlobalMaxPooling1D(),
            L.Dense(CLASSES),
        ]
    )


NETWORKS: dict[str, Callable[[], Any]] = {
    **{name: lambda shape=shape, layer=layer: between(shape, layer()) for name, (shape, layer) in LAYERS.items()},
    "residual": residual,
    "tokens": tokens,
    "masked ids": masked_ids,
    "masked numbers": masked_numbers,
    "masked attention": masked_attention,
    "windows of a sensor": windows_of_a_sensor,
}
"""Each layer between others, and networks with many."""

ONE_OF_EACH = (
    "Dense",
    "Conv1D, causal",
    "Conv2D, 5x2, stride 1x3, same",
    "DepthwiseConv2D, multiplier 3",
    "BatchNormalization of images",
    "BatchNormalization of rows",
    "MaxPooling2D, overlapping, same",
    "AveragePooling2D, overlapping, same",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling2D",
    "Average",
    "Subtract",
    "Normalization",
    "ZeroPadding2D",
    "Rescaling of each channel",
    "LSTM, backwards",
    "GRU, sequences, backwards",
    "GRU, reset before",
    "SimpleRNN",
    "Bidirectional, sequences",
    "tokens",
    "masked ids",
    "masked numbers",
    "relu",
    "relu6",
    "leaky_relu",
    "tanh",
    "sigmoid",
    "softmax",
    "L1",
    "L2 of a bias",
)
"""Of `NETWORKS`, one for each of the most usual kinds of layers, activations and penalties."""

ONE_OF_OTHERS = (
    "Conv1D, dilated, causal",
    "Conv2D, groups",
    "Conv2DTranspose, same",
    "DepthwiseConv2D, dilated",
    "LayerNormalization over time",
    "GroupNormalization",
    "UnitNormalization",
    "Multiply, each channel",
    "Maximum",
    "Minimum",
    "Dot of matrices",
    "MultiHeadAttention, causal",
    "Permute",
    "RepeatVector",
    "Cropping2D",
    "UpSampling2D",
    "UpSampling2D, bilinear",
    "masked attention",
    "exponential",
    "swish",
    "gelu",
    "gelu, by tanh",
    "hard_swish",
    "hard_sigmoid",
    "ELU",
    "selu",
    "softplus",
    "softsign",
)
"""One for each of the others."""


def training_graph(model: Any, loss: Loss, batch_size: int) -> bytes:
    """What a device writes for itself of the model's description."""
    network, table = describe(model)
    return write_training_graph(network, TensorTable(table), [Objective(loss, from_logits=True)], batch_size).blob


def proof_of(model: Any, objective: Objective) -> Proof:
    """The judge of the model's training graphs."""
    return Proof(model, tensor_table(model), [objective], Reference(model, [objective]))


def keras_step(model: Any, loss: Callable[[Any, Any], Any], x: Inputs, y: Array) -> Step:
    """The same by tf_keras, which also moves `model`'s statistics."""
    names = {variable.ref(): spec.name for spec, variable in zip(tensor_table(model), model.weights, strict=True)}

    with tf.GradientTape() as tape:
        total = loss(y, model(x, training=True)) + sum(model.losses)
    gradients = tape.gradient(total, model.trainable_variables)
    return Step(
        loss=float(total),
        gradients={
            names[variable.ref()]: tf.convert_to_tensor(gradient).numpy()
            for variable, gradient in zip(model.trainable_variables, gradients, strict=True)
        },
        statistics={
            names[variable.ref()]: variable.numpy()
            for layer in model.submodules
            if isinstance(layer, L.BatchNormalization) and layer.trainable
            for variable in layer.non_trainable_variables
        },
    )


def assert_equal(found: Step, expected: Step, network: str = "") -> None:
    """Within 1e-5 of each tensor's norm; within 1e-6 where it is zero but for rounding."""
    assert found.loss == pytest.approx(expected.loss, rel=1e-5), network
    for ours, theirs in ((found.gradients, expected.gradients), (found.statistics, expected.statistics)):
        assert ours.keys() == theirs.keys(), network
        for name, array in theirs.items():
            error, norm = np.linalg.norm(ours[name] - array), np.linalg.norm(array)
            assert error <= (1e-5 * norm if norm > 1e-6 else 1e-6), f"{network} {name}: {error:.2g} of {norm:.2g}"


def one_hot(rows: int) -> Array:
    """Labels of which some are frequent: where all are alike, gradients nearly cancel, and rounding errors do not."""
    return np.eye(CLASSES, dtype=np.float32)[np.arange(rows) ** 2 % CLASSES]


def crossentropy(y: Any, output: Any) -> Any:
    return keras.losses.CategoricalCrossentropy(from_logits=True)(y, output)
