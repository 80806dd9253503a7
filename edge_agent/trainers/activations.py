"""Activations of a frozen base, which a device computes once and keeps: a step then costs the head alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from edge_agent.trainers import TrainingStopped, never
from fedprune.data import Examples
from fedprune.data.stored_rows import Rows
from fedprune.errors import ExportError, TrainingError
from fedprune.model.tensors import Array, TensorTable, Weights, weights_digest
from fedprune.network.description import Network
from fedprune.network.frontier import cut_at_frontier
from fedprune.runtime.proven_head import draw_probe, is_as_told
from fedprune.task.bundle import Bundle
from fedprune.task.evaluation import InferenceGraph

_log = logging.getLogger(__name__)

MAX_KEPT_BYTES = 2**26
"""Bytes of activations that a device keeps in memory, beside its examples. Where they take more, each step computes the
base: of MobileNetV2 with images of 96 x 96 these are 13,000 examples."""


def split(bundle: Bundle, examples: int, threads: int) -> tuple[Bundle, KeptActivations | None]:
    """The task of the head alone, and what keeps activations for it, of a device with so many examples.

    If there is no frozen base, if the activations would take too much, or if the runtime computes others than tf_keras
    did, it is the task as it is and None. Raises `ExportError` if the runtime fails.
    """
    parts = cut_at_frontier(bundle.network, bundle.task.table) if bundle.head is not None else None
    if bundle.head is None or parts is None:
        return bundle, None
    (shape,) = parts.head.inputs
    if examples * int(np.prod(shape)) * np.dtype(np.float32).itemsize > MAX_KEPT_BYTES:
        return bundle, None
    kept = KeptActivations(parts.base, parts.base_table, threads=threads)
    examples_of_probe = draw_probe(parts.base.inputs, parts.base.vocabularies, parts.base.paddings)
    probe = kept.compute(examples_of_probe, bundle.unsent_weights())
    if not is_as_told(probe, bundle.head.activations):
        _log.warning(
            "task %r: the runtime computes other activations of the frozen base than TensorFlow; none are kept, "
            "each step computes it",
            bundle.task.name,
        )
        return bundle, None
    return head_of(bundle), kept


def head_of(bundle: Bundle) -> Bundle:
    """The task of the head alone, of a network with a frozen base."""
    parts = cut_at_frontier(bundle.network, bundle.task.table)
    assert parts is not None
    assert bundle.head is not None
    task = msgspec.structs.replace(bundle.task, input_shapes=parts.head.inputs, tensors=tuple(parts.head_table))
    return replace(bundle, task=task, network=parts.head, graphs=bundle.head.graphs, head=None)


@dataclass(frozen=True, eq=False)
class _Kept:
    """What the base of a digest makes of examples."""

    examples: Examples
    digest: str
    activations: Examples


class KeptActivations:
    """The base's activations of a device's examples, made anew for other examples or another base."""

    def __init__(self, base: Network, table: TensorTable, *, threads: int) -> None:
        self._base = base
        self._table = table
        self._threads = threads
        self._kept: _Kept | None = None

    def of(self, data: Examples, weights: Weights, should_stop: Callable[[], bool]) -> Examples:
        """`data` with activations, float32 `[examples, ...]`, for inputs. `weights` are the whole network's.

        Raises `TrainingStopped` if `should_stop` says so between two batches; `TrainingError` if the runtime fails.
        """
        digest = weights_digest({spec.name: weights[spec.name] for spec in self._table})
        kept = self._kept
        if kept is None or kept.examples is not data or kept.digest != digest:
            self._kept = None  # a device has no room for two
            try:
                activations = self.compute(list(data.inputs.values()), weights, should_stop)
            except ExportError as error:
                raise TrainingError(f"the frozen base: {error}") from error
            self._kept = kept = _Kept(data, digest, data.with_arrays({"x": activations}, data.labels))
        return kept.activations

    def compute(self, x: Sequence[Rows], weights: Weights, should_stop: Callable[[], bool] = never) -> Array:
        """The activations of examples, `[examples, ...]` for each of the inputs, batch after batch."""
        graph = InferenceGraph(self._base, threads=self._threads)
        graph.load(weights)
        (output,) = self._base.outputs
        activations = np.empty((len(x[0]), *self._base.shapes()[output]), np.float32)
        done = 0
        for (batch,) in graph.predict(x):
            activations[done : done + len(batch)] = batch
            done += len(batch)
            if should_stop():
                raise TrainingStopped(f"stopped after the activations of {done} examples")
        return activations
