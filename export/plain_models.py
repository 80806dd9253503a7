"""Taking off what a model wears for training: TF-MOT's pruning wrappers, and mixed precision.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

import json
from typing import Any

from fedprune.keras.stack import keras, tfmot


def stripped(model: Any) -> Any:
    """The model without pruning wrappers, with its weights: `model` itself if it has none."""
    if not any(type(part).__name__ == "PruneLowMagnitude" for part in model.submodules):
        return model
    bare = tfmot.sparsity.keras.strip_pruning(model)
    return _made_anew(bare, bare.to_json())


def full_precision(model: Any) -> Any:
    """The model in float32, with its weights: `model` itself if it computes in float32."""
    config = model.to_json()
    return model if in_float32(config) == config else _made_anew(model, in_float32(config))


def in_float32(config: str) -> str:
    """A Keras configuration without mixed precision."""
    changed = _without_policies(json.loads(config))
    return config if changed == json.loads(config) else json.dumps(changed)


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
