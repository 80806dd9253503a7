"""A layer that scales the input is found behind layers that leave numbers as they are."""

from __future__ import annotations

import pytest

from export.scaffold.input_scale import normalizes, pixel_scale
from fedprune.network.description import Call, Network
from fedprune.network.layers import (
    Activation,
    AnyLayer,
    BatchNormalization,
    Cropping,
    Dropout,
    Function,
    GaussianNoise,
    Permute,
    Rescaling,
    Reshape,
    ZeroPadding,
)

_RESCALING = Rescaling(name="scale", scale=(1 / 255,), offset=(0.0,))
_NORMALIZATION = BatchNormalization(
    name="norm", epsilon=1e-3, momentum=0.99, unbiased=False, gamma=None, beta=None, mean="mean", variance="variance"
)
_RELU = Activation(name="relu", function=Function.RELU)
_KEEPING: tuple[AnyLayer, ...] = (
    Dropout(name="drop", rate=0.1),
    GaussianNoise(name="noise", deviation=0.1),
    Reshape(name="reshape", shape=(8, 8, 1)),
    Permute(name="permute", axes=(1, 0, 2)),
    ZeroPadding(name="pad", padding=((1, 1), (1, 1))),
    Cropping(name="crop", cropping=((1, 1), (1, 1))),
)


def _chain(*layers: AnyLayer) -> Network:
    calls = tuple(Call(number, (number,)) for number in range(len(layers)))
    return Network("net", ((8, 8, 1),), layers, calls, (len(layers),))


@pytest.mark.parametrize("layer", _KEEPING, ids=lambda layer: layer.name)
def test_scaling_is_found_behind_a_layer_that_keeps_numbers(layer: AnyLayer) -> None:
    assert pixel_scale(_chain(layer, _RESCALING)) == 1 / 255
    assert normalizes(_chain(layer, _NORMALIZATION))


def test_scaling_is_found_behind_many_layers() -> None:
    assert pixel_scale(_chain(*_KEEPING, _RESCALING, _RELU)) == 1 / 255
    assert not normalizes(_chain(*_KEEPING, _RESCALING, _RELU))


def test_what_is_computed_first_hides_scaling_behind_it() -> None:
    assert pixel_scale(_chain(_RELU, _RESCALING)) is None
    assert not normalizes(_chain(_RESCALING, _NORMALIZATION))
