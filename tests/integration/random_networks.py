"""Networks that nobody thought of, of all layers and operators that can be described: a strategy of hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import strategies as st

from fedprune.keras.stack import keras, tf
from fedprune.model.losses import Loss

L = keras.layers
Block = Callable[[Any], Any]
"""From a Keras tensor to another; its layers are made when it is called."""

paddings = st.sampled_from(["valid", "same"])
activations = st.sampled_from(["linear", "relu", "relu6", "leaky_relu", "tanh", "sigmoid", "softmax"])
regularizers = st.sampled_from([None, "l1", "l2", "l1_l2"])
sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))
strides = st.integers(1, 2)


def has_room(x: Any) -> bool:
    return bool(min(x.shape[1:-1]) >= 3)


def convolution(kind: Any, filters: int, size: Any, strides: int, padding: str, activation: str, bias: bool) -> Block:
    made = partial(kind, filters, size, strides=strides, padding=padding, activation=activation, use_bias=bias)
    return lambda x: made()(x) if has_room(x) else x


def depthwise(kind: Any, size: Any, strides: int, multiplier: int, regularizer: str | None) -> Block:
    made = partial(kind, size, strides=strides, padding="same", depth_multiplier=multiplier)
    return lambda x: made(depthwise_regularizer=regularizer)(x)


def pool(kind: Any, size: Any, strides: Any, padding: str) -> Block:
    return lambda x: kind(size, strides=strides, padding=padding)(x) if has_room(x) else x


def normalization(momentum: float, epsilon: float, scale: bool, center: bool, trainable: bool) -> Block:
    made = partial(L.BatchNormalization, momentum=momentum, epsilon=epsilon, scale=scale, center=center)
    return lambda x: made(trainable=trainable)(x)


def residual(kind: Any, size: Any, join: Any, activation: str) -> Block:
    return lambda x: join()([x, kind(x.shape[-1], size, padding="same", activation=activation)(x)])


def nested(x: Any) -> Any:
    """A model of its own, called twice."""
    inner = keras.Sequential([L.Input(x.shape[1:]), L.Dense(x.shape[-1], "sigmoid"), L.BatchNormalization()])
    return inner(inner(x))


normalizations = st.builds(
    normalization,
    st.sampled_from([0.5, 0.99]),
    st.sampled_from([1e-3, 1e-2]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([True, True, True, False]),
)
everywhere: list[Block] = [
    lambda x: L.ReLU(6.0)(x),
    lambda x: L.LeakyReLU(0.1)(x),
    lambda x: L.Dropout(0.4)(x),
    lambda x: L.Dense(5)(x),
    lambda x: x / 2.0 - 0.25,
    lambda x: x + L.Dense(x.shape[-1], "tanh")(x),
    lambda x: tf.clip_by_value(x, 0.0, 6.0),
    lambda x: nested(x),
]
joins = st.sampled_from([L.Add, L.Concatenate])
filters = st.integers(1, 7)

image_blocks = st.one_of(
    st.builds(
        convolution,
        st.sampled_from([L.Conv2D, L.SeparableConv2D]),
        filters,
        sizes,
        strides,
        paddings,
        activations,
        st.booleans(),
    ),
    st.builds(depthwise, st.just(L.DepthwiseConv2D), sizes, strides, st.integers(1, 2), regularizers),
    st.builds(pool, st.sampled_from([L.MaxPooling2D, L.AveragePooling2D]), sizes, sizes, paddings),
    st.builds(residual, st.just(L.Conv2D), sizes, joins, activations),
    normalizations,
    st.sampled_from(everywhere),
)
series_blocks = st.one_of(
    st.builds(
        convolution, st.just(L.Conv1D), filters, st.integers(1, 3), strides,
        st.sampled_from(["valid", "same", "causal"]), activations, st.booleans(),
    ),
    st.builds(
        convolution, st.just(L.SeparableConv1D), filters, st.integers(1, 3), strides, paddings, activations,
        st.booleans(),
    ),
    st.builds(depthwise, st.just(L.DepthwiseConv1D), st.integers(1, 3), strides, st.integers(1, 2), regularizers),
    st.builds(pool, st.sampled_from([L.MaxPooling1D, L.AveragePooling1D]), st.integers(1, 3), strides, paddings),
    st.builds(residual, st.just(L.Conv1D), st.integers(1, 3), joins, activations),
    normalizations,
    st.sampled_from(everywhere),
)  # fmt: skip


@dataclass(frozen=True)
class Network:
    shape: tuple[int, ...]
    blocks: list[Block]
    flatten: Any
    outputs: int
    activation: str
    regularizer: str | None

    def build(self, loss: Loss) -> Any:
        outputs = max(self.outputs, loss.rule.fewest_outputs)
        x = y = L.Input(self.shape)
        for block in self.blocks:
            y = block(y)
        last = L.Dense(outputs, self.activation, kernel_regularizer=self.regularizer)
        return keras.Model(x, last(self.flatten()(y)))


def networks(shape: Any, blocks: Any, flatten: Any) -> Any:
    return st.builds(
        Network,
        shape=shape,
        blocks=st.lists(blocks, max_size=5),
        flatten=st.sampled_from(flatten),
        outputs=st.integers(1, 4),
        activation=activations,
        regularizer=regularizers,
    )


over_images = networks(
    st.tuples(st.integers(3, 8), st.integers(3, 8), st.integers(1, 6)),
    image_blocks,
    [L.Flatten, L.GlobalAveragePooling2D, L.GlobalMaxPooling2D],
)
over_series = networks(
    st.tuples(st.integers(3, 12), st.integers(1, 6)),
    series_blocks,
    [L.Flatten, L.GlobalAveragePooling1D, L.GlobalMaxPooling1D],
)

any_network = over_images | over_series
