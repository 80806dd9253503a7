"""The training graphs of a network that are proven when a task is built. Importing this module imports TensorFlow."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from export.proof.probes import make_self_check
from export.proof.proof import Proof
from export.proof.reference import Reference
from fedprune.errors import FedpruneError
from fedprune.graph.training import write_training_graph
from fedprune.network.description import Network
from fedprune.runtime.self_check import ProvenGraph
from fedprune.task.bundle import Task

MAX_GRAPH_BYTES = 2**30
"""The values of a batch in a graph. Of the batch sizes that a task did not ask for, those that take more are left out:
the proof takes four times as much, and a device that chose one would need 4 GB."""
_BATCH_SIZES = (8, 16, 32, 64)
"""A training graph is proven for each, and for the task's own: a device takes what suits its memory and examples."""


@dataclass(frozen=True)
class Outcome:
    """The graphs that were proven, by batch size; and by batch sizes what kept others from it, and the bytes of those
    that are too large to try."""

    proven: tuple[ProvenGraph, ...]
    problems: dict[int, FedpruneError]
    left_out: dict[int, int]


def prove_graphs(model: Any, network: Network, task: Task, rows: Sequence[int] | None = None) -> Outcome:
    """Prove graphs of `network`, which describes `model`, with the tensors of `task`.

    `rows` are the places of these in `model.weights`, if they are in another order there.
    """
    reference = Reference(model, task.objectives, rows)
    proof = Proof(model, task.tensors, task.objectives, reference)
    own = task.training.batch_size
    proven: list[ProvenGraph] = []
    problems: dict[int, FedpruneError] = {}
    left_out: dict[int, int] = {}
    for batch_size in sorted({own, *_BATCH_SIZES}, key=lambda size: (size != own, size)):
        briefly = bool(proven)
        try:
            graph = write_training_graph(network, task.table, task.objectives, batch_size)
            if batch_size != own and graph.memory_bytes > MAX_GRAPH_BYTES:
                left_out[batch_size] = graph.memory_bytes
                continue
            proof.check(graph.blob, briefly=briefly)
            check = make_self_check(reference, task.tensors, graph.blob, briefly=briefly)
        except FedpruneError as error:
            problems[batch_size] = error
        else:
            digest = hashlib.sha256(graph.blob).hexdigest()
            proven.append(ProvenGraph(batch_size, digest, graph.memory_bytes, check))
    return Outcome(tuple(sorted(proven, key=lambda graph: graph.batch_size)), problems, left_out)
