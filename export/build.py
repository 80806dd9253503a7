"""From task.toml to a bundle: model, tensor table, initial weights and verified graphs for inference and training.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from export.architecture import Form, form_of, tensor_table
from export.graphs import make_inference_graph, verify_inference_graph
from export.initial import recipe, redrawn
from export.model_files import load_model_file
from export.models import cnn_108k
from export.settings import ModelSettings, TaskSettings
from export.training_graph.build import make_training_graph
from export.training_graph.network import NoTrainingGraph
from export.training_graph.probes import make_self_check
from export.training_graph.proof import Proof
from fedprune.errors import TaskError
from fedprune.keras.model import build_model
from fedprune.model.tensors import Array, TensorSpec
from fedprune.runtime.self_check import SelfCheck
from fedprune.task.bundle import SeededWeights, Task, read_bundle, write_bundle

_log = logging.getLogger(__name__)

_IMAGE, _OUTPUTS = (28, 28, 1), 10
"""The form of a built-in model where task.toml does not say: Fashion-MNIST's."""


def build_task(settings: TaskSettings, base: Path) -> bytes:
    """The bundle's bytes: equal settings and model files give equal bytes. Paths are relative to `base`.

    Raises `TaskError` if the model cannot be loaded, has not one input and one output that suits the loss, does not
    fit the settings, or cannot be converted to an inference graph that answers as Keras does. A model without a
    training graph makes a bundle without one, and a warning that says why.
    """
    model = _load(settings.model, base)
    form = form_of(model, settings.training.loss)
    _check_form(form, settings.model)
    table = tensor_table(model)
    initial, weights = _initial_weights(model, table, settings.model)
    task = Task(
        name=settings.name,
        input_shape=form.input_shape,
        outputs=form.outputs,
        from_logits=form.from_logits,
        tensors=table,
        training=settings.training,
        pruning=settings.pruning,
        members={},
        initial=initial,
    )
    training_graph, self_check = _training_graph(model, task)
    blob = write_bundle(
        task,
        model_json=model.to_json(),
        inference_graph=make_inference_graph(model),
        training_graph=training_graph,
        self_check=self_check,
        weights=weights,
    )
    _verify(blob)
    return blob


def _load(settings: ModelSettings, base: Path) -> Any:
    if settings.file is not None:
        return load_model_file(base / settings.file)
    return cnn_108k(settings.input_shape or _IMAGE, settings.outputs or _OUTPUTS)


def _check_form(form: Form, settings: ModelSettings) -> None:
    """Check that a model file has the form that task.toml says."""
    if settings.input_shape not in (None, form.input_shape):
        raise TaskError(f"{settings.file}: takes {list(form.input_shape)}; correct model.input_shape in task.toml")
    if settings.outputs not in (None, form.outputs):
        raise TaskError(f"{settings.file}: has {form.outputs} outputs; correct model.outputs in task.toml")


def _initial_weights(
    model: Any, table: tuple[TensorSpec, ...], settings: ModelSettings
) -> tuple[SeededWeights | None, dict[str, Array] | None]:
    """A recipe, or else the weights themselves."""
    if not settings.keeps_weights:
        model = redrawn(model, settings.seed)
        drawn = recipe(model, settings.seed)
        if drawn is not None:
            return drawn, None
    return None, {spec.name: np.asarray(array) for spec, array in zip(table, model.get_weights(), strict=True)}


def _training_graph(model: Any, task: Task) -> tuple[bytes, SelfCheck] | tuple[None, None]:
    """The graph, proven, with what a device checks its runtime by; or nothing, and a warning."""
    try:
        graph = make_training_graph(model, task.training.loss, task.training.batch_size)
        Proof(model, task.tensors, task.objective).check(graph)
        return graph, make_self_check(model, task.tensors, task.objective, graph)
    except NoTrainingGraph as error:
        _log.warning("devices without TensorFlow cannot train task %r: %s", task.name, error)
        return None, None


def _verify(blob: bytes) -> None:
    """Use the bundle as agents and the gateway will."""
    bundle = read_bundle(blob)
    bundle.initial_weights()
    model, _ = build_model(bundle.task, bundle.model_json)
    verify_inference_graph(bundle, model)
