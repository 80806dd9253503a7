"""Taking off what a model wears for training: TF-MOT's pruning wrappers, and mixed precision.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fedprune.keras.stack import keras, tfmot


def stripped(model: Any) -> Any:
    """The model without pruning wrappers, with its weights: `model` itself if it has none."""
    if not any(_wrappers(model)):
        return model
    bare = tfmot.sparsity.keras.strip_pruning(model)
    return _made_anew(bare, bare.to_json())


def full_precision(model: Any) -> Any:
    """The model in float32, with its weights: `model` itself if it computes in float32."""
    policies = {part.dtype_policy.name for part in model.submodules if isinstance(part, keras.layers.Layer)}
    if not any(name.startswith("mixed_") for name in policies):
        return model
    return _made_anew(model, in_float32(model.to_json()))


def parameters(model: Any) -> int:
    """The number of scalars in a model's weights, without what pruning wrappers add."""
    added = (variable for wrapper in _wrappers(model) for _, *own in wrapper.pruning_vars for variable in own)
    return int(model.count_params() - sum(variable.shape.num_elements() for variable in added))


def in_float32(config: str) -> str:
    """A Keras configuration without mixed precision."""
    changed = _without_policies(json.loads(config))
    return config if changed == json.loads(config) else json.dumps(changed)


def _wrappers(model: Any) -> Iterator[Any]:
    return (part for part in model.submodules if type(part).__name__ == "PruneLowMagnitude")


def _without_policies(config: Any) -> Any:
    if isinstance(config, dict):
        if config.get("class_name") == "Policy":
            return "float32"
        # Old files have the policy's name alone.
        return {
            key: "float32" if key == "dtype" and str(value).startswith("mixed_") else _without_policies(value)
            for key, value in config.items()
        }
    if isinstance(config, list):
        return [_without_policies(value) for value in config]
    return config


def _made_anew(model: Any, config: str) -> Any:
    """Of `config`, so that variables are called after their layers again, with the weights of `model`."""
    anew = keras.models.model_from_json(config)
    anew.set_weights(model.get_weights())
    return anew
