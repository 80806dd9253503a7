"""A device's own model as a .tflite file: the weights that it trained last, the layers that stay on it among them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from edge_agent.trainers import AnsweringTrainer
from fedprune.data import Examples
from fedprune.errors import ExportError, FedpruneError
from fedprune.graph.inference import graph_names, write_inference_graph
from fedprune.model.tensors import Weights
from fedprune.prediction.metadata import with_metadata
from fedprune.runtime.answers import answers_of
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle
from fedprune.task.file_metadata import metadata_of
from fedprune.task.forms import Form
from fedprune.task.units import Units, answering_in, units_of

_log = logging.getLogger(__name__)

_COMPARED = 8
"""Examples whose answers are compared, at most."""

_TOLERANCE = 1e-3
"""The most that an answer may be off, relative to the largest one."""


def keep_personal_model(
    path: Path, weights: Weights, form: Form, trainer: AnsweringTrainer, data: Examples, bundle: Bundle
) -> None:
    """Write the model of these weights, in a form of the bundle's task, to `path`, whole or not at all: float32, for
    one example at a time. It answers in the user's units, and says as exported files do how raw data become its inputs.

    It is written only if it answers to some of `data` as `trainer` does. Whatever is wrong is a warning, since the
    round goes on without it: then the file of the round before stays.
    """
    units = units_of(bundle.task)
    try:
        network = form.network if units is None else answering_in(form.network, units)
        blob = write_inference_graph(network, weights, 1)
        _verify(blob, form.expanded(weights), trainer, data, units)
        metadata = metadata_of(bundle, *graph_names(network))
        Directory(path.parent).write(path.name, with_metadata(blob, metadata))
    except FedpruneError as error:
        _log.warning("the personal model %s is not written: %s", path, error)


def _verify(blob: bytes, weights: Weights, trainer: AnsweringTrainer, data: Examples, units: Units | None) -> None:
    """Raise `ExportError` unless the file answers as the trainer does."""
    few = data.take(np.arange(min(_COMPARED, len(data))))
    inputs = list(few.inputs.values())
    one_by_one = [answers_of(blob, [x[place : place + 1] for x in inputs]) for place in range(len(few))]
    tolerance = _TOLERANCE if units is None else _TOLERANCE + units.rounding
    for right, answers in zip(trainer.answers(weights, inputs), zip(*one_by_one, strict=True), strict=True):
        found = np.concatenate(answers)
        error = float(np.abs((found if units is None else units.normalized(found)) - right).max())
        most = tolerance * max(float(np.abs(right).max()), float(np.finfo(np.float32).tiny))
        if not error <= most:
            raise ExportError(
                f"the runtime answers {error:.3g} off what was trained, and {most:.3g} is allowed; update it, or take "
                "the other trainer"
            )
