"""Refusing a model configuration that could run code: it comes from the gateway, and Keras would trust it.

Keras imports whatever module a configuration names and unmarshals the byte code of its Lambda layers. A task may
use what Keras itself defines, and of that nothing which calls arbitrary functions or reads files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from fedprune.errors import TaskError

_MODELS = frozenset({"Sequential", "Functional", "Model"})
_MODEL_MODULES = frozenset({None, "keras", "tf_keras.src.engine.functional"})
_PART_MODULES = frozenset({"keras.layers", "keras.initializers", "keras.regularizers", "keras.constraints"})
_UNSAFE = frozenset({"Lambda", "StringLookup", "IntegerLookup", "TextVectorization", "DenseFeatures"})


def check_model_config(model_json: str) -> None:
    """Raise `TaskError` unless every class that `model_json` names is Keras' own and runs no foreign code."""
    try:
        for described in _objects(json.loads(model_json)):
            _check_class(described)
    except (ValueError, TypeError, RecursionError) as error:
        raise TaskError(f"task bundle: model.json is not a configuration ({error}); build the task again") from error


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Every description of an object inside, however deep."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield config
        for value in config.values():
            yield from _objects(value)
    elif isinstance(config, list):
        for value in config:
            yield from _objects(value)


def _check_class(described: dict[str, Any]) -> None:
    module, name = described.get("module"), described["class_name"]
    is_model = module in _MODEL_MODULES and name in _MODELS
    is_part = module in _PART_MODULES and name not in _UNSAFE and re.fullmatch(r"[A-Za-z]\w*", name)
    if not (is_model or is_part):
        raise TaskError(
            f"task bundle: model.json: {name!r} of {module!r} is, or may run, foreign code; "
            "build the task from Keras' own layers"
        )
