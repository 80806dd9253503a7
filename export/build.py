"""From task.toml to a bundle: model, tensor table, initial weights and a verified inference graph.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from export.graphs import make_inference_graph, verify_inference_graph
from export.initial import recipe, redrawn
from export.model_files import load_model_file
from export.models import cnn_108k
from export.settings import ModelSettings, TaskSettings
from export.table import tensor_table
from fedprune.bundle import SeededWeights, Task, read_bundle, write_bundle
from fedprune.errors import TaskError
from fedprune.keras_model import build_model
from fedprune.tensorflow_stack import keras
from fedprune.tensors import Array, TensorSpec

_IMAGE, _CLASSES = (28, 28, 1), 10
"""What a built-in model takes where task.toml does not say: Fashion-MNIST."""

_LOGITS = {"linear": True, "softmax": False}


def build_task(settings: TaskSettings, base: Path) -> bytes:
    """The bundle's bytes: equal settings and model files give equal bytes. Paths are relative to `base`.

    Raises `TaskError` if the model cannot be loaded, is not a classifier of one input and one output, does not fit
    the settings, or cannot be converted to an inference graph that answers as Keras does.
    """
    model = _load(settings.model, base)
    _check_form(model, settings.model)
    table = tensor_table(model)
    initial, weights = _initial_weights(model, table, settings.model)
    task = Task(
        name=settings.name,
        input_shape=tuple(model.input_shape[1:]),
        classes=model.output_shape[-1],
        from_logits=_ends_in_logits(model),
        tensors=table,
        training=settings.training,
        pruning=settings.pruning,
        members={},
        initial=initial,
    )
    graph = make_inference_graph(model)
    blob = write_bundle(task, model_json=model.to_json(), inference_graph=graph, weights=weights)
    _verify(blob)
    return blob


def _load(settings: ModelSettings, base: Path) -> Any:
    if settings.file is not None:
        return load_model_file(base / settings.file)
    return cnn_108k(settings.input_shape or _IMAGE, settings.classes or _CLASSES)


def _check_form(model: Any, settings: ModelSettings) -> None:
    """Raise `TaskError` unless `model` classifies single float32 examples of a known shape, as the settings say."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise _unfit(model, f"{len(model.inputs)} inputs and {len(model.outputs)} outputs; one of each is needed")
    shape, answer = model.input_shape[1:], model.output_shape[1:]
    if None in shape or model.inputs[0].dtype != "float32":
        raise _unfit(model, f"input {model.inputs[0].dtype.name}{list(shape)}; it must be float32 of a fixed shape")
    if len(answer) != 1 or answer[0] is None or answer[0] < 2:
        raise _unfit(model, f"an output of shape {list(answer)}; it must be one number for each of at least 2 classes")
    if settings.input_shape not in (None, shape):
        raise _unfit(model, f"input {list(shape)}, task.toml says input_shape = {list(settings.input_shape or ())}")
    if settings.classes not in (None, answer[0]):
        raise _unfit(model, f"{answer[0]} outputs, task.toml says classes = {settings.classes}")
    if not model.trainable_weights:
        raise _unfit(model, "no weights that training could change")
    _check_layers(model)


def _check_layers(model: Any) -> None:
    for layer in model.submodules:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            # Keras computes with what it was adapted to, but builds it from its configuration without that.
            raise _unfit(model, f"layer {layer.name!r}, adapted to data; give it mean= and variance= instead")
    for variable in model.weights:
        if variable.dtype.is_floating and variable.dtype.name != "float32":
            raise _unfit(model, f"{variable.name} as {variable.dtype.name}; use float32, without mixed precision")


def _ends_in_logits(model: Any) -> bool:
    """Whether the last layer leaves softmax to the loss. Raises `TaskError` where that cannot be told."""
    layer = model.layers[-1] if isinstance(model, keras.Sequential) else model.outputs[0]._keras_history.layer
    if isinstance(layer, keras.Model):
        return _ends_in_logits(layer)
    if isinstance(layer, keras.layers.Softmax):
        return False
    activation = keras.activations.serialize(layer.activation) if hasattr(layer, "activation") else "none of its own"
    if activation not in _LOGITS:
        raise _unfit(
            model,
            f"a last layer {layer.name!r} with activation {activation}; let it end in a layer with softmax "
            "(probabilities) or linear activation (logits)",
        )
    return _LOGITS[activation]


def _initial_weights(
    model: Any, table: tuple[TensorSpec, ...], settings: ModelSettings
) -> tuple[SeededWeights | None, dict[str, Array] | None]:
    """A recipe, or else the weights themselves."""
    if settings.initial == "seed":
        model = redrawn(model, settings.seed)
        drawn = recipe(model, settings.seed)
        if drawn is not None:
            return drawn, None
    return None, {spec.name: array for spec, array in zip(table, model.get_weights(), strict=True)}


def _verify(blob: bytes) -> None:
    """Use the bundle as agents and the gateway will."""
    bundle = read_bundle(blob)
    bundle.initial_weights()
    model, _ = build_model(bundle.task, bundle.model_json)
    verify_inference_graph(bundle, model)


def _unfit(model: Any, problem: str) -> TaskError:
    return TaskError(f"model {model.name!r} has {problem}")
