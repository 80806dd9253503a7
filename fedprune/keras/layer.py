"""The two directions of a layer: a reader from Keras into a description, and a maker of the Keras layer that computes
what a description says. Importing this module imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from fedprune.keras.draft import Draft
from fedprune.keras.stack import keras, tf
from fedprune.network.description import Penalty
from fedprune.network.layers import Shape

Read = Callable[[Draft, Any, list[int]], int]
"""Takes the draft, a Keras layer and the values that it is called with, and returns the value that it makes. All
settings that change what a layer computes are read or required."""

Penalties = Mapping[str | None, Penalty]
"""Penalties by the names of tensors."""

Make = Callable[[Any, Shape, Penalties], Callable[..., Any]]
"""Takes a described layer, the shape of its first input, and penalties. Returns what makes the Keras layer of the
settings that all layers have, as its name."""

Call = Callable[[Any, Any, Sequence[Any]], Any]
"""Takes a described layer, the Keras layer that was made of it, and Keras tensors. Returns what it makes of these."""

WEIGHTS = "activation use_bias bias_initializer bias_regularizer activity_regularizer bias_constraint"
"""Settings of Keras' layers with a bias."""
KERNEL = "kernel_initializer kernel_regularizer kernel_constraint"
"""Settings of Keras' layers with a kernel."""


class Masks(Enum):
    """The ways in which a Keras layer deals with the masks of the steps that it takes."""

    DROPPED = "dropped"
    """The output has no mask."""
    HANDED_ON = "handed on"
    """The output has the mask of the input."""
    MERGED = "merged"
    """The output has the steps that the masks of all inputs have."""
    HEEDED = "heeded"
    """The mask is one more input of the described layer, and the output's too if the layer returns sequences."""


@dataclass(frozen=True)
class Reader:
    """The way from a Keras layer to a description. `settings` are the names, with spaces between, of those that are
    taken over from a file of Keras 3."""

    read: Read
    settings: str = ""
    masks: Masks = Masks.DROPPED


def _call(_layer: Any, made: Any, inputs: Sequence[Any]) -> Any:
    return made(list(inputs) if len(inputs) > 1 else inputs[0])


def call_with_mask(_layer: Any, made: Any, inputs: Sequence[Any]) -> Any:
    """A call with a value and, if it has one, the mask of its steps. It is handed in as such: nothing else in the model
    has one."""
    x, *masks = inputs
    return made(x, mask=tf.cast(masks[0], tf.bool)) if masks else made(x)


@dataclass(frozen=True)
class Maker:
    """The way from a described layer to Keras. `tensors` are the attributes of the Keras layer that hold its tensors,
    by those of the described one."""

    make: Make
    tensors: Mapping[str, str] = field(default_factory=dict)
    call: Call = _call


@dataclass(frozen=True)
class Family:
    """Layers that are alike: readers by the classes of Keras, and makers by the kinds of described layers."""

    readers: Mapping[type, Reader]
    makers: Mapping[type, Maker]


def weights(kernel: str, layer: Any, penalties: Penalties) -> dict[str, Any]:
    """The settings of a Keras layer for the kernel and the bias of a described one, of which the first is `kernel`."""
    return {
        "use_bias": layer.bias is not None,
        f"{kernel}_regularizer": regularizer(penalties.get(layer.kernel)),
        "bias_regularizer": regularizer(penalties.get(layer.bias)),
    }


def regularizer(penalty: Penalty | None) -> Any:
    """Keras' regularizer that adds a penalty to the loss, if there is one."""
    return None if penalty is None else keras.regularizers.L1L2(penalty.l1, penalty.l2)
