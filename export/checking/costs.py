"""What a task costs: a training step's time on this machine, and the bytes of a round."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import numpy as np

from fedprune.codecs import Codec, Key, Values, encode_model, encode_update
from fedprune.graph.training import write_training_graph
from fedprune.model.tensors import Inputs, TensorClass
from fedprune.network.description import Network
from fedprune.pruning.masks import full_mask, score_mask, take_kept
from fedprune.runtime.training_graph import TrainingGraph
from fedprune.task.bundle import Bundle

_LEAST_STEPS, _MOST_STEPS, _ENOUGH_S = 3, 30, 1.0
"""Steps of which the quickest counts, and seconds of processor time after which there are enough of them."""


class RoundBytes(msgspec.Struct, frozen=True):
    """Of one agent and one round, without messages around them: its update, and the model that it is given."""

    up: int
    down: int
    sparsity: float


def step_seconds(bundle: Bundle, batch_size: int) -> float:
    """Processor time of one step, in one thread: a batch's gradients. Raises `ExportError` if nothing here runs it.

    Drawn numbers do for examples: no operation takes longer for some than for others.
    """
    task, chance = bundle.task, np.random.default_rng(0)
    blob = write_training_graph(bundle.network, task.table, task.objectives, batch_size).blob
    graph = TrainingGraph(blob, task.tensors, threads=1)
    graph.hold(bundle.initial_weights())
    x = drawn_inputs(bundle.network, batch_size)
    y = [np.zeros((batch_size, *shape), np.float32) for shape in graph.target_shapes]
    noise = [chance.random(shape, np.float32) for shape in graph.noise_shapes]
    graph.step(x, y, noise)
    taken: list[float] = []
    while len(taken) < _LEAST_STEPS or (len(taken) < _MOST_STEPS and sum(taken) < _ENOUGH_S):
        began = time.process_time()
        graph.step(x, y, noise)
        taken.append(time.process_time() - began)
    return min(taken)


def drawn_inputs(network: Network, examples: int) -> Sequence[Inputs]:
    """Examples of nothing: for each input `[examples, ...]`, float32 or ids."""
    chance = np.random.default_rng(0)
    return [
        chance.standard_normal((examples, *shape), np.float32)
        if vocabulary is None
        else chance.integers(0, vocabulary, (examples, *shape), np.int32)
        for shape, vocabulary in zip(network.inputs, network.vocabularies, strict=True)
    ]


def round_bytes(bundle: Bundle, codec: Codec, sparsity: float) -> RoundBytes:
    """The bytes of a drawn update, and of the initial model, once so much is pruned."""
    task, table, chance = bundle.task, bundle.task.table, np.random.default_rng(0)
    weights, key = bundle.initial_weights(), Key(0, 0, "agent")
    pruning = task.pruning
    mask = score_mask(weights, table, sparsity, pruning.allocation, full_mask(table), pruning.block)
    alive = {}
    for spec in table.of(TensorClass.PRUNABLE, TensorClass.DENSE):
        delta = chance.standard_normal(spec.shape, np.float32) * np.float32(1e-3)
        alive[spec.name] = take_kept(delta, mask[spec.name]) if spec.name in mask else delta.reshape(-1)
    statistics = {spec.name: weights[spec.name] for spec in table.of(TensorClass.STATISTICS)}
    known = str(task.pruning.mask) == "shared"
    sent = codec.compress(alive, codec.init(table), key)
    return RoundBytes(
        up=len(encode_update(sent, statistics, mask, table, codec, mask_is_known=known)),
        down=len(encode_model(weights, mask, table, Values.FP16)),
        sparsity=sparsity,
    )
