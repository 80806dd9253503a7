"""Masks, which both Kerases hand from layer to layer unseen, by other rules where values are joined.

tf_keras gives a joined value the steps that all masks have, and passes over inputs without one. Keras 3 gives it those
that any mask has, and no mask if an input has none. What comes to the same is taken over.

Keras 3 notes with a call the mask that it took, and the operators by which masks are made; tf_keras makes them itself.
Importing this module imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from export.keras3.layers import Config, refuse
from fedprune.keras.stack import tf

MASK = "mask"
"""The argument by which Keras 3 notes a mask."""
_OPERATORS = frozenset({"Any", "Concatenate", "ExpandDims", "LogicalOr", "NotEqual", "OnesLike", "ZerosLike"})
"""Operators that masks are made by."""
_JOINING = frozenset({"Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract"})
_HANDED_ON_THERE_ALONE = frozenset({"Identity", "Normalization", "Rescaling"})
_MODELS = frozenset({"Functional", "Model", "Sequential"})

History = tuple[Any, ...]
"""A tensor of Keras 3: layer, call and output."""


def mask_operators(
    layers: Sequence[Config], taken: Sequence[tuple[str, int, Collection[History]]], ends: Collection[History]
) -> frozenset[str]:
    """The names of operators that make masks alone, and those as layers imply. `taken` are each call's layer, number
    and tensors but for its mask, `ends` the model's outputs."""
    calls: dict[tuple[Any, ...], Collection[History]] = {(name, number): tensors for name, number, tensors in taken}
    needed, waiting = set[tuple[Any, ...]](), [end[:2] for end in ends]
    while waiting:
        call = waiting.pop()
        if call not in needed:
            needed.add(call)
            waiting += [tensor[:2] for tensor in calls.get(call, ())]
    used, implied = {call[0] for call in needed}, {_compared(node, value) for node, value in _makers(layers)}
    return frozenset(
        layer["name"]
        for layer in layers
        if layer.get("class_name") in _OPERATORS
        and layer["name"] not in used
        and (
            layer["class_name"] != "NotEqual" or {_compared(n, n["args"][1]) for n in layer["inbound_nodes"]} <= implied
        )
    )


def _makers(layers: Sequence[Config]) -> list[tuple[Any, Any]]:
    """The calls of layers that imply masks, each with the number that fills padding."""
    fillings = [
        (layer, layer["config"].get("mask_value") if layer.get("class_name") == "Masking" else 0)
        for layer in layers
        if layer.get("class_name") == "Masking" or layer["config"].get("mask_zero")
    ]
    return [(node, filling) for layer, filling in fillings for node in layer["inbound_nodes"]]


def _compared(node: Any, value: Any) -> tuple[Any, ...]:
    """The tensor that a call takes first, and the number that it is compared with."""
    return (*node["args"][0]["config"]["keras_history"], float(value))


def mask_sources(described: Config) -> int:
    """The number of layers that make masks in a serialized model, and in those within it."""
    config = described.get("config")
    if not isinstance(config, dict):
        return 0
    inner = sum(mask_sources(layer) for layer in config.get("layers") or () if isinstance(layer, dict))
    return inner + (described.get("class_name") == "Masking" or bool(config.get("mask_zero")))


def masked_as_there(described: Config, inputs: Any, made: Any, sources: int, *, is_masked: bool = False) -> Any:
    """What a layer made of `inputs`, with a mask or none as Keras 3 would give it; `sources` make masks in the model,
    and the call `is_masked` if Keras 3 noted that.

    Raises `TaskError`, naming the layer, where tf_keras has no such mask.
    """
    kind = described.get("class_name")
    masks = [getattr(tensor, "_keras_mask", None) for tensor in tf.nest.flatten(inputs)]
    if is_masked and masks[0] is None:
        refuse(described, "is called with a mask that no layer before it makes; leave it to Embedding or Masking")
    if all(mask is None for mask in masks):
        return made
    if kind in _HANDED_ON_THERE_ALONE or kind in _MODELS:
        refuse(described, f"is given masked steps, which tf_keras' {kind} does otherwise; leave masks or it out")
    if kind in _JOINING:
        if any(mask is None for mask in masks):
            return tf.identity(made)  # operators hand no mask on
        if sources > 1 and len(set(map(id, masks))) > 1:
            refuse(described, "joins steps of different masks, which tf_keras does otherwise; mask after it")
    return made
