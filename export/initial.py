"""A model's initial weights: a recipe and a seed where every initialiser has one, else a snapshot.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from export.architecture import variables_of
from fedprune.keras.stack import keras
from fedprune.model.randomness import Keyed
from fedprune.task.bundle import Fill, SeededWeights, Uniform


def redrawn(model: Any, seed: int) -> Any:
    """A model like `model` whose weights its initialisers drew anew, from `seed` and no other source."""
    keyed = Keyed(seed, "initialisers")
    return keras.models.model_from_json(json.dumps(_seeded(json.loads(model.to_json()), keyed)))


def recipe(model: Any, seed: int) -> SeededWeights | None:
    """Recipes to draw weights as the initialisers of `model` would; None where one of them has no recipe.

    `model` has weights that its initialisers drew: a layer that changes what was drawn has no recipe either.
    """
    recipes = {variable.ref(): _recipe(layer, name, variable) for layer, name, variable in variables_of(model)}
    known = tuple(found for variable in model.weights if (found := recipes.get(variable.ref())) is not None)
    return SeededWeights(seed, known) if len(known) == len(model.weights) else None


def _seeded(config: Any, keyed: Keyed) -> Any:
    """`config` with a seed wherever one may stand."""
    if isinstance(config, dict):
        return {
            key: int(keyed.integers(1)[0] >> np.uint64(33)) if key == "seed" else _seeded(value, keyed)
            for key, value in config.items()
        }
    if isinstance(config, list):
        return [_seeded(value, keyed) for value in config]
    return config


def _recipe(layer: Any, attribute: str, variable: Any) -> Fill | Uniform | None:
    # Keras calls the initialiser of kernel kernel_initializer, but that of depthwise_kernel depthwise_initializer.
    names = (f"{attribute}_initializer", f"{attribute.removesuffix('_kernel')}_initializer")
    initializer = next((getattr(layer, name) for name in names if hasattr(layer, name)), None)
    values = variable.numpy()
    if isinstance(initializer, keras.initializers.Zeros | keras.initializers.Ones):
        value = float(isinstance(initializer, keras.initializers.Ones))
        return Fill(value) if (values == value).all() else None
    if isinstance(initializer, keras.initializers.RandomUniform) and initializer.minval == -initializer.maxval:
        return Uniform(float(initializer.maxval)) if np.abs(values).max() <= np.float32(initializer.maxval) else None
    if isinstance(initializer, keras.initializers.VarianceScaling) and initializer.distribution == "uniform":
        limit = math.sqrt(3.0 * initializer.scale / _fan(variable.shape, initializer.mode))
        return Uniform(limit) if np.abs(values).max() <= np.float32(limit) else None
    return None


def _fan(shape: Any, mode: str) -> float:
    """Keras' count of a kernel's inputs, outputs, or their mean (Glorot and Bengio 2010, He et al. 2015)."""
    if len(shape) < 2:
        return float(max([1, *shape]))
    receptive_field: int = math.prod(shape[:-2])
    fan_in, fan_out = receptive_field * shape[-2], receptive_field * shape[-1]
    return float({"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode])
