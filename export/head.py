"""The head of a network with a frozen base: its graphs are proven, and the base's activations sketched, for devices
that keep them. Importing this module imports TensorFlow."""

from __future__ import annotations

import logging

import msgspec
import numpy as np

from export.proof.graphs import prove_graphs
from export.proof.probes import brief_sketch
from export.proof.reference import norm_of
from fedprune.keras.model import build_model, call_model
from fedprune.model.tensors import Array, Weights
from fedprune.network.description import Network
from fedprune.network.frontier import Parts, cut_at_frontier
from fedprune.runtime.proven_head import ProvenHead, draw_probe, is_as_told, probe_sums
from fedprune.task.bundle import Task
from fedprune.task.evaluation import InferenceGraph

_log = logging.getLogger(__name__)

_TOLERANCE = 1e-3
"""How far a device's activations may be off, of their norm: rounding is far below, a kernel that is wrong far above."""
_LEAST = 1e-5
"""The same of activations that are all zero."""


def proven_head(network: Network, task: Task, weights: Weights) -> ProvenHead | None:
    """What devices need to train the head alone; None if there is no frozen base, or it cannot be proven, as is said.

    `weights` are the task's initial ones, of which those of the base never change.
    """
    parts = cut_at_frontier(network, task.table)
    if parts is None:
        return None
    head = msgspec.structs.replace(task, input_shapes=parts.head.inputs, tensors=tuple(parts.head_table))
    try:
        model, variables = build_model(parts.head, parts.head_table)
        places = {variable.ref(): place for place, variable in enumerate(model.weights)}
        outcome = prove_graphs(model, parts.head, head, [places[variable.ref()] for variable in variables.values()])
        activations = _base_answer(parts, weights)
    except Exception as error:  # whatever Keras raises where it cannot copy a layer that was built; and refusals
        _log.warning("task %r: devices compute the frozen base in every step: %s", task.name, error)
        return None
    told = brief_sketch(max(_TOLERANCE * norm_of(activations), _LEAST), probe_sums(activations))
    for batch_size, problem in outcome.problems.items():
        _log.warning("task %r: with batches of %d, %s", task.name, batch_size, problem)
    if not outcome.proven or not is_as_told(_inferred(parts, weights), told):
        _log.warning("task %r: devices compute the frozen base in every step: it could not be proven apart", task.name)
        return None
    return ProvenHead(outcome.proven, told)


def _base_answer(parts: Parts, weights: Weights) -> Array:
    """tf_keras' activations of the probe."""
    model, variables = build_model(parts.base, parts.base_table)
    for name, variable in variables.items():
        variable.assign(weights[name])
    probe = draw_probe(parts.base.inputs, parts.base.vocabularies, parts.base.paddings)
    (activations,) = call_model(model, probe, training=False)
    answer: Array = activations.numpy()
    return answer


def _inferred(parts: Parts, weights: Weights) -> Array:
    """The inference graph's."""
    graph = InferenceGraph(parts.base, threads=1)
    graph.load(weights)
    probe = draw_probe(parts.base.inputs, parts.base.vocabularies, parts.base.paddings)
    return np.concatenate([activations for (activations,) in graph.predict(probe)])
