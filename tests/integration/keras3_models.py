"""Run with Keras 3, in a process of its own: saves models with what they answer. `python keras3_models.py FOLDER`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "0"}

import keras
import numpy as np

L = keras.layers


def mobile() -> Any:
    """Convolutions of all kinds, normalised, residual with an operator, with a nested model that is called twice."""
    x = L.Input((12, 12, 3))
    y = L.Rescaling(1 / 127.5, offset=-1.0)(x)
    y = L.Conv2D(6, 3, strides=2, padding="same", use_bias=False)(y)
    y = L.ReLU(6.0)(L.BatchNormalization(momentum=0.8)(y))
    z = L.LeakyReLU(0.1)(L.DepthwiseConv2D(3, padding="same", depthwise_regularizer="l2")(y))
    y = keras.ops.relu6(y + L.BatchNormalization(scale=False)(z))
    y = L.SeparableConv2D(4, 3, activation="tanh")(L.ZeroPadding2D(1)(y))
    inner = keras.Sequential([L.Input((6, 6, 4)), L.Conv2D(4, 1, activation="sigmoid"), L.BatchNormalization()])
    y = L.Concatenate()([inner(inner(y)), L.MaxPooling2D(3, strides=1, padding="same")(y)])
    y = L.Dropout(0.0)(L.GlobalAveragePooling2D()(L.AveragePooling2D(2)(y)))
    return keras.Model(x, L.Dense(3, activation="softmax", kernel_regularizer=keras.regularizers.L1(0.01))(y))


def series() -> Any:
    """Layers over time, in a Sequential model."""
    return keras.Sequential(
        [
            L.Input((20, 4)),
            L.Conv1D(6, 3, padding="causal", activation="relu", kernel_initializer="he_normal"),
            L.BatchNormalization(),
            L.MaxPooling1D(2),
            L.DepthwiseConv1D(3, depth_multiplier=2),
            L.SeparableConv1D(5, 3, padding="same", activation=keras.activations.leaky_relu),
            L.ZeroPadding1D(1),
            L.Reshape((5, 10)),
            L.Flatten(),
            L.Dense(8, activation="relu6"),
            L.Activation("linear"),
            L.Dense(2),
        ]
    )


def arithmetic() -> Any:
    """Operators, and layers that join."""
    x = L.Input((6, 6, 3))
    y = L.Conv2D(3, 1)(x)
    y = keras.ops.clip(2.0 * y / 1.5 - 0.25, 0.0, 6.0)
    y = L.Subtract()([L.Average()([x, y]), -x])
    y = keras.ops.concatenate([y, keras.ops.sigmoid(y)], axis=-1)
    y = keras.ops.reshape(keras.ops.mean(y, axis=[1, 2]), (-1, 6))
    y = keras.ops.leaky_relu(L.Normalization(mean=[0.5] * 6, variance=[2.0] * 6)(y), 0.3)
    return keras.Model(x, L.Dense(2)(y + np.linspace(0, 1, 6, dtype="float32")))


def transfer() -> Any:
    """A frozen base, called as in inference, under a head of its own; in mixed precision."""
    keras.config.set_dtype_policy("mixed_float16")
    x = L.Input((8, 8, 2))
    base = keras.Sequential([L.Input((8, 8, 2)), L.Conv2D(4, 3), L.BatchNormalization(), L.Flatten()], name="base")
    base.trainable = False
    model = keras.Model(x, L.Dense(2, dtype="float32", name="head")(base(x, training=False)))
    keras.config.set_dtype_policy("float32")
    return model


def activations() -> Any:
    """Functions of numbers, of which hard_sigmoid and hard_swish are others than tf_keras' or unknown there."""
    x = y = L.Input((5,))
    for name in ("silu", "gelu", "hard_sigmoid", "hard_swish", "elu", "selu", "softplus", "softsign"):
        y = L.Dense(6, activation=name)(4.0 * y)
    y = keras.ops.exp(-L.Dense(6, activation="exponential")(-y))
    y = keras.ops.gelu(keras.ops.silu(L.ELU(0.3)(y)), approximate=True)
    return keras.Model(x, L.Dense(2)(keras.ops.selu(keras.ops.softplus(keras.ops.softsign(y)))))


def decoder() -> Any:
    """Layers that normalise, join, rearrange and enlarge."""
    x = L.Input((6, 5, 4))
    y = L.GroupNormalization(2)(L.Conv2D(4, 3, padding="same", dilation_rate=2)(x))
    y = L.Multiply()([y, L.Dense(4, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(y))])
    y = L.Maximum()([L.LayerNormalization(axis=-1)(y), keras.ops.minimum(x, y)])
    y = L.Conv2DTranspose(3, 3, strides=2, padding="same")(L.UpSampling2D(2)(L.Cropping2D(1)(y)))
    y = L.Add()([y, L.MaxPooling2D(2)(L.UpSampling2D(2, interpolation="bilinear")(y))])
    y = L.GaussianNoise(0.0)(L.SpatialDropout2D(0.0)(y))
    z = L.Reshape((16, 36))(L.Permute((1, 3, 2))(y))
    z = L.Cropping1D((2, 1))(L.UpSampling1D(2)(L.Conv1D(6, 3, groups=2)(z)))
    row = L.UnitNormalization()(L.GlobalMaxPooling1D()(L.Conv1DTranspose(6, 2)(z)))
    z = L.GlobalAveragePooling1D()(L.Dot((2, 2))([z, L.RepeatVector(3)(row)]))
    return keras.Model(x, L.Dense(2)(L.Concatenate()([z, row])))


def augmented() -> Any:
    front = keras.Sequential(
        [
            L.Input((6, 6, 3)),
            L.RandomFlip("vertical", seed=1),
            L.RandomRotation((-0.1, 0.2), fill_mode="wrap"),
            L.RandomTranslation(0.1, (0.0, 0.2), interpolation="nearest"),
            L.RandomZoom(0.3, fill_mode="constant", fill_value=9.0),
            L.Rescaling(1 / 255),
            L.RandomContrast((0.2, 0.3), value_range=(0.0, 1.0)),
        ]
    )
    x = L.Input((6, 6, 3))
    return keras.Model(x, L.Dense(2)(L.Flatten()(front(x))))


def lambda_layer() -> Any:
    return keras.Sequential([L.Input((3,)), L.Lambda(lambda x: x, name="odd"), L.Dense(2)])


def of_maps() -> Any:
    return keras.Sequential([L.Input((5, 3, 2)), L.ConvLSTM1D(4, 2, name="memory"), L.Flatten(), L.Dense(2)])


def sequences() -> Any:
    """Cells that go step by step, forwards, backwards and both ways, and a layer for each step."""
    return keras.Sequential(
        [
            L.Input((5, 3)),
            L.Bidirectional(L.LSTM(4, return_sequences=True, recurrent_regularizer="l2")),
            L.TimeDistributed(L.Dense(3, "tanh")),
            L.GRU(4, return_sequences=True, go_backwards=True),
            L.SimpleRNN(3, return_sequences=True),
            L.GRU(3, reset_after=False),
            L.Dense(2),
        ]
    )


def tokens() -> Any:
    return keras.Sequential([L.Input((5,), dtype="int32"), L.Embedding(9, 4), L.GlobalAveragePooling1D(), L.Dense(2)])


def attention() -> Any:
    """Places that look up others and themselves, with keys of their own, and with and without biases."""
    x = L.Input((5, 4))
    y = L.MultiHeadAttention(2, 3, dropout=0.0, kernel_regularizer="l2")(x, x, use_causal_mask=True)
    y = L.LayerNormalization()(L.Add()([x, y]))
    y = L.MultiHeadAttention(3, 2, value_dim=4, output_shape=6, use_bias=False)(L.Conv1D(3, 2)(y), y, key=L.Dense(5)(x))
    return keras.Model(x, L.Dense(2)(L.Flatten()(y)))


def padded() -> Any:
    """Ids that are padding left out by cells and attention."""
    x = L.Input((5,), dtype="int32")
    y = L.Embedding(9, 4, mask_zero=True)(x)
    y = L.Add()([y, L.Bidirectional(L.LSTM(2, return_sequences=True))(y)])
    y = L.Add()([y, L.MultiHeadAttention(2, 3)(y, y)])
    z = L.GRU(3, return_sequences=True)(L.TimeDistributed(L.Dense(3))(y))
    return keras.Model(x, L.Dense(2)(L.Concatenate()([L.GlobalAveragePooling1D()(z), L.SimpleRNN(3)(y)])))


def gaps() -> Any:
    """Steps of a number that stands for none."""
    return keras.Sequential([L.Input((5, 3)), L.Masking(-1.0), L.GRU(4, return_sequences=True), L.LSTM(3), L.Dense(2)])


def tags() -> Any:
    """An answer for each word, of which some are padding."""
    x = L.Input((5,), dtype="int32")
    y = L.Bidirectional(L.GRU(3, return_sequences=True))(L.Embedding(9, 4, mask_zero=True)(x))
    return keras.Model(x, L.Dense(2, activation="softmax")(y))


def other_operator() -> Any:
    x = L.Input((3,))
    return keras.Model(x, L.Dense(2)(keras.ops.sin(x)))


def several() -> Any:
    """Two inputs, and two outputs in another order than they are made."""
    number, word = L.Input((3,), name="number"), L.Input((4,), dtype="int32", name="a-word")
    y = L.Concatenate()([number, L.Flatten()(L.Embedding(9, 2)(word))])
    first = L.Dense(2, name="first")(y)
    return keras.Model([number, word], [L.Dense(3, name="second")(y), first])


def by_name() -> Any:
    x = L.Input((3,), name="x")
    return keras.Model({"x": x}, {"y": L.Dense(2)(x)})


MODELS: dict[str, Callable[[], Any]] = {
    "mobile": mobile,
    "series": series,
    "arithmetic": arithmetic,
    "activations": activations,
    "decoder": decoder,
    "transfer": transfer,
    "sequences": sequences,
    "tokens": tokens,
    "attention": attention,
    "padded": padded,
    "gaps": gaps,
    "tags": tags,
}
UNANSWERED: dict[str, Callable[[], Any]] = {"augmented": augmented}
REFUSED: dict[str, Callable[[], Any]] = {
    "lambda": lambda_layer,
    "recurrent": of_maps,
    "operator": other_operator,
    "by name": by_name,
}


def main(folder: Path) -> None:
    """For each model its file and, as .npz, a batch and what the model makes of it, in inference and in training."""
    for name, make in MODELS.items():
        keras.utils.set_random_seed(1)
        model = make()
        for variable in model.weights:
            noise = keras.random.uniform(variable.shape, 0.0, 0.3, seed=len(variable.path))
            variable.assign(keras.ops.convert_to_tensor(variable) + keras.ops.cast(noise, variable.dtype))
        x = np.array(keras.random.uniform((5, *model.input_shape[1:]), -2.0, 2.0, seed=2))
        x = np.abs(4 * x).astype(np.int32) if name in ("tokens", "padded", "tags") else x
        x[:, 3] = 0 if name in ("padded", "tags") else -1.0 if name == "gaps" else x[:, 3]
        inferred = model(x, training=False)
        answers = {"x": x, "inference": np.asarray(inferred)}
        if name == "tags":
            answers["mask"] = np.asarray(inferred._keras_mask)
        model.save(folder / f"{name}.keras")
        answers["training"] = np.asarray(model(x, training=True))  # which moves statistics
        answers["penalties"] = np.asarray(sum(model.losses))
        moved = {f"moved/{number}": np.asarray(v) for number, v in enumerate(model.non_trainable_variables)}
        np.savez(folder / f"{name}.npz", **answers, **moved)
    model, x = several(), [np.ones((5, 3), np.float32), np.arange(20).reshape(5, 4) % 9]
    model.save(folder / "several.keras")
    np.savez(folder / "several.npz", *map(np.asarray, model(x)))
    for name, make in (UNANSWERED | REFUSED).items():
        make().save(folder / f"{name}.keras")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
