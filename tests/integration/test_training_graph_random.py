"""Networks that nobody thought of: whatever is built of supported layers has a training graph, and it is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.architecture import tensor_table
from export.training_graph.build import make_training_graph
from export.training_graph.proof import Proof
from fedprune.losses import Loss, Objective
from fedprune.tensorflow_stack import keras

L = keras.layers
Block = Callable[[Any], Any]
"""From a Keras tensor to another; its layers are made when it is called."""

paddings = st.sampled_from(["valid", "same"])
activations = st.sampled_from(["linear", "relu", "relu6", "tanh", "sigmoid"])
regularizers = st.sampled_from([None, "l1", "l2", "l1_l2"])
sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))


def convolution(kind: Any, filters: int, size: Any, strides: int, padding: str, activation: str, bias: bool) -> Block:
    made = partial(kind, filters, size, strides=strides, padding=padding, activation=activation, use_bias=bias)
    return lambda x: made()(x) if min(x.shape[1:3]) >= 3 else x


def depthwise(size: Any, strides: int, multiplier: int, regularizer: str | None) -> Block:
    made = partial(L.DepthwiseConv2D, size, strides=strides, padding="same", depth_multiplier=multiplier)
    return lambda x: made(depthwise_regularizer=regularizer)(x)


def pool(kind: Any, size: Any, strides: Any, padding: str) -> Block:
    return lambda x: kind(size, strides=strides, padding=padding)(x) if min(x.shape[1:3]) >= 3 else x


def normalization(momentum: float, scale: bool, center: bool) -> Block:
    return lambda x: L.BatchNormalization(momentum=momentum, scale=scale, center=center)(x)


def residual(size: Any, join: Any, activation: str) -> Block:
    return lambda x: join()([x, L.Conv2D(x.shape[-1], size, padding="same", activation=activation)(x)])


pointwise: list[Block] = [
    lambda x: L.ReLU(6.0)(x),
    lambda x: L.LeakyReLU(0.1)(x),
    lambda x: L.Dropout(0.4)(x),
    lambda x: L.Dense(5)(x),
]

blocks = st.one_of(
    st.builds(
        convolution,
        st.sampled_from([L.Conv2D, L.SeparableConv2D]),
        st.integers(1, 7),
        sizes,
        st.integers(1, 2),
        paddings,
        activations,
        st.booleans(),
    ),
    st.builds(depthwise, sizes, st.integers(1, 2), st.integers(1, 2), regularizers),
    st.builds(pool, st.sampled_from([L.MaxPooling2D, L.AveragePooling2D]), sizes, sizes, paddings),
    st.builds(normalization, st.sampled_from([0.5, 0.99]), st.booleans(), st.booleans()),
    st.builds(residual, sizes, st.sampled_from([L.Add, L.Concatenate]), activations),
    st.sampled_from(pointwise),
)


@dataclass(frozen=True)
class Network:
    shape: tuple[int, int, int]
    blocks: list[Block]
    flatten: Any
    outputs: int
    activation: str
    regularizer: str | None

    def build(self) -> Any:
        x = y = L.Input(self.shape)
        for block in self.blocks:
            y = block(y)
        last = L.Dense(self.outputs, self.activation, kernel_regularizer=self.regularizer)
        return keras.Model(x, last(self.flatten()(y)))


networks = st.builds(
    Network,
    shape=st.tuples(st.integers(3, 8), st.integers(3, 8), st.integers(1, 6)),
    blocks=st.lists(blocks, max_size=5),
    flatten=st.sampled_from([L.Flatten, L.GlobalAveragePooling2D, L.GlobalMaxPooling2D]),
    outputs=st.integers(2, 4),
    activation=activations,
    regularizer=regularizers,
)
losses = st.sampled_from(Loss)
unhurried = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def check(network: Network, loss: Loss, batch: int) -> None:
    model = network.build()
    proof = Proof(model, tensor_table(model), Objective(loss, from_logits=True))
    proof.check(make_training_graph(model, loss, batch))


@settings(unhurried, max_examples=12)
@given(networks, losses, st.integers(1, 5))
def test_random_networks(network: Network, loss: Loss, batch: int) -> None:
    check(network, loss, batch)


@pytest.mark.slow
@settings(unhurried, max_examples=150)
@given(networks, losses, st.integers(1, 5))
def test_many_random_networks(network: Network, loss: Loss, batch: int) -> None:
    check(network, loss, batch)
