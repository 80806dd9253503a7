"""Keras 3's graph of layers, joined anew in tf_keras. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from export.keras3.layers import Config, make_layer, plain, refuse
from export.keras3.masks import MASK, mask_operators, mask_sources, masked_as_there
from export.keras3.operators import is_operator, make_operator
from fedprune.errors import TaskError
from fedprune.keras.stack import keras
from fedprune.network.description import MAX_CALLS

_MODELS = ("Functional", "Model", "Sequential")
_DEPTH = 16
"""Models within models."""
_Outputs = Mapping[tuple[str, int, int], Any]
"""Keras tensors by layer, call and output."""


def make_model(described: Config, depth: int = 0) -> Any:
    """The tf_keras model of a serialized one. Raises `TaskError`, naming the layer, for what cannot be taken over.

    A configuration that is damaged, or none of Keras 3, ends in whatever error it causes.
    """
    kind, config = described.get("class_name"), described.get("config")
    if not is_model(described) or not isinstance(config, dict) or depth > _DEPTH:
        refuse(described, "is not a Functional or Sequential model; build it from Keras' own layers")
    if len(config["layers"]) > MAX_CALLS:
        refuse(described, f"has more than {MAX_CALLS} layers")
    made = _sequence(config, depth) if kind == "Sequential" else _graph(config, depth)
    if not config.get("trainable", True):
        made.trainable = False  # and all layers; to say that it is would do the same to those that are not
    return made


def is_model(described: Config) -> bool:
    """A model may be a layer of another."""
    kind, module = described.get("class_name"), str(described.get("module"))
    return kind in _MODELS and (module == "keras" or module.startswith(("keras.src.models.", "keras.models")))


def _sequence(config: Config, depth: int) -> Any:
    first, *others = config["layers"]
    if first.get("class_name") != "InputLayer":
        raise TaskError(f"model {str(config['name'])[:60]!r} begins without an Input layer; add one and save it again")
    x = y = _input(first)
    sources = sum(map(mask_sources, others))
    for described in others:
        y = masked_as_there(described, y, _layer(described, depth)(y), sources)
    return keras.Model(x, y, name=config["name"])


def _graph(config: Config, depth: int) -> Any:
    outputs: dict[tuple[str, int, int], Any] = {}
    pending: list[tuple[Config, int, Callable[..., Any], Config]] = []
    sources, layers = sum(map(mask_sources, config["layers"])), config["layers"]
    taken = [
        (layer["name"], number, _histories(node))
        for layer in layers
        for number, node in enumerate(layer["inbound_nodes"])
    ]
    ends = [[tuple(history) for history in _list(config[end])] for end in ("input_layers", "output_layers")]
    skipped = mask_operators(layers, taken, ends[1])
    for described in layers:
        if described["name"] in skipped:
            continue
        if described.get("class_name") == "InputLayer":
            outputs[described["name"], 0, 0] = _input(described)
            continue
        layer = _layer(described, depth)
        pending += [(described, number, layer, node) for number, node in enumerate(described["inbound_nodes"])]
    if len(pending) > MAX_CALLS:
        raise TaskError(f"model {str(config['name'])[:60]!r} has more than {MAX_CALLS} calls of layers")
    while pending:
        ready = [call for call in pending if _histories(call[3]) <= outputs.keys()]
        if not ready:
            refuse(pending[0][0], "takes what no layer makes; save the model again")
        for described, number, layer, node in ready:
            given = _arguments(node["args"], outputs)
            made = layer(*given, **_named(node.get("kwargs", {}), outputs))
            is_masked = _is_tensor(node.get("kwargs", {}).get(MASK))
            made = masked_as_there(described, given, made, sources, is_masked=is_masked)
            outputs |= {
                (described["name"], number, i): tensor
                for i, tensor in enumerate(made if isinstance(made, list) else [made])
            }
        pending = [call for call in pending if call not in ready]
    inputs, found = ([outputs[history] for history in histories] for histories in ends)
    return keras.Model(
        inputs[0] if len(inputs) == 1 else inputs, found[0] if len(found) == 1 else found, name=config["name"]
    )


def _input(described: Config) -> Any:
    config = described["config"]
    shape = plain(described, config.get("batch_shape"))
    if not isinstance(shape, list) or config.get("sparse") or config.get("ragged"):
        refuse(described, "is not an input of a known shape")
    return keras.layers.Input(batch_shape=shape, dtype=config.get("dtype"), name=config["name"])


def _layer(described: Config, depth: int) -> Callable[..., Any]:
    made: Callable[..., Any]
    if is_model(described):
        made = make_model(described, depth + 1)
    else:
        made = make_operator(described) if is_operator(described) else make_layer(described)
    return made


def _arguments(given: Any, outputs: _Outputs) -> list[Any]:
    return [_argument(entry, outputs) for entry in given]


def _named(given: Mapping[str, Any], outputs: _Outputs) -> dict[str, Any]:
    """Without `training`: Keras 3 notes it with each call, and gives layers what the model itself is called with. And
    without masks, which tf_keras knows itself."""
    given = {name: entry for name, entry in given.items() if name not in ("training", MASK) and entry is not None}
    return {name: _argument(entry, outputs) for name, entry in given.items()}


def _argument(given: Any, outputs: _Outputs) -> Any:
    if _is_tensor(given):
        return outputs[tuple(given["config"]["keras_history"])]
    if isinstance(given, list):
        return [_argument(entry, outputs) for entry in given]
    return plain({"name": "argument"}, given)


def _histories(node: Any) -> set[tuple[Any, ...]]:
    """The tensors that a call takes, but for its mask."""
    named = {name: entry for name, entry in node.get("kwargs", {}).items() if name != MASK}
    found, waiting = set[tuple[Any, ...]](), [node["args"], named]
    while waiting:
        entry = waiting.pop()
        if _is_tensor(entry):
            found.add(tuple(entry["config"]["keras_history"]))
        elif isinstance(entry, dict):
            waiting.extend(entry.values())
        elif isinstance(entry, list):
            waiting.extend(entry)
    return found


def _is_tensor(given: Any) -> bool:
    return isinstance(given, dict) and given.get("class_name") == "__keras_tensor__"


def _list(ends: Sequence[Any]) -> Sequence[Any]:
    """Keras writes a single end without a list around it, and those of a dict by their names."""
    if isinstance(ends, dict):
        raise TaskError("its inputs or outputs are in a dict; make the model of lists, as keras.Model([x, z], [y, w])")
    return ends if isinstance(ends[0], list) else [ends]
