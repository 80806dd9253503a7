"""Training graphs of networks that benchmarks describe by hand: nothing compares them with tf_keras."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fedprune.graph.training import write_training_graph
from fedprune.model.losses import Objective
from fedprune.model.tensors import TensorTable
from fedprune.network.description import Network
from fedprune.runtime.self_check import Probe, ProvenGraph, SelfCheck, Sketch, draw_case, outputs_of, sums_of
from fedprune.runtime.training_graph import TrainingGraph

_SEED = 0


def unproven_graph(
    network: Network, table: TensorTable, objectives: Sequence[Objective], batch_size: int
) -> ProvenGraph:
    """The graph of a batch size, with a self-check that the runtime here passes: benchmarks are about no other."""
    written = write_training_graph(network, table, objectives, batch_size)
    check = SelfCheck((_probe(written.blob, table, batch_size),))
    return ProvenGraph(batch_size, hashlib.sha256(written.blob).hexdigest(), written.memory_bytes, check)


def _probe(graph: bytes, table: TensorTable, batch_size: int) -> Probe:
    tensors = tuple(table)
    loaded = TrainingGraph(graph, tensors, threads=1)
    outputs = outputs_of(draw_case(loaded, tensors, _SEED, batch_size, 1.0).run(loaded), tensors)
    sketches = {}
    for name, array in outputs.items():
        first, second, third = sums_of(array, _SEED, name)
        sketches[name] = Sketch(1.0, (first, second, third))
    return Probe(seed=_SEED, examples=batch_size, scale=1.0, answers=sketches)
