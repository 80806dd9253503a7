"""A gateway's memory: a round of a sparse model takes no whole copies of it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np

from aggregator.global_model import GlobalModel, new_model
from aggregator.round_merge import Merger
from benchmarks.large_model import large_network, large_task
from benchmarks.without_network import take_update
from fedprune.codecs import Key, Values, encode_update, parse_codec, parse_model_codec
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorClass
from fedprune.pruning.masks import full_mask, take_kept
from fedprune.system.disk import Directory
from fedprune.task.bundle import Task
from fedprune.task.checkpoints import load_sparse_checkpoint, save_checkpoint
from fedprune.task.training import Training
from fedprune.wire.messages import Submit
from fedprune.wire.transfer import content_of

SIZES = (256, 1024, 1024, 256, 10)
"""A perceptron of 1.6 million parameters: what does not grow with them is little."""
CODEC = parse_codec("mask | int8")
MOST_BYTES = 16
"""A parameter: four times the model as float32."""


def first_model(task: Task) -> GlobalModel:
    drawn = Keyed(1, "weights")
    weights = {s.name: drawn.uniform(s.size, -0.1, 0.1).astype(np.float32).reshape(s.shape) for s in task.table}
    return new_model(weights, task, "run", 1, Values.FP16, full_mask(task.table))


def update(task: Task, model: GlobalModel, agent: str) -> bytes:
    drawn, mask, delta = Keyed(1, agent), model.checkpoint.mask, {}
    for spec in task.table.of(TensorClass.PRUNABLE, TensorClass.DENSE):
        whole = drawn.uniform(spec.size, -0.01, 0.01).astype(np.float32)
        delta[spec.name] = take_kept(whole, mask[spec.name].reshape(-1)) if spec.name in mask else whole
    sent = CODEC.compress(delta, {}, Key(1, 1, agent))
    return encode_update(sent, {}, mask, task.table, CODEC, mask_is_known=True)


def test_a_round_at_90_percent_sparsity_takes_at_most_four_times_the_model(tmp_path: Path) -> None:
    task = large_task(Training(steps_per_round=1), 0.9, SIZES)
    updates, checkpoints = Directory(tmp_path / "updates"), Directory(tmp_path / "checkpoints")
    made = first_model(task)
    save_checkpoint(checkpoints, made.checkpoint)
    blobs = {agent: update(task, made, agent) for agent in ("pi-0", "pi-1", "pi-2")}
    merger = Merger(task, large_network(SIZES), "run", 1, parse_model_codec("fp16"), CODEC, updates, None, None)
    blob = made.blob
    del made

    tracemalloc.start()
    try:
        model = GlobalModel(load_sparse_checkpoint(checkpoints, 1), blob)
        accepted = {}
        for agent, sent in blobs.items():
            submit = Submit(run="run", round=1, update=content_of(sent), examples=7, local_steps=1, loss=1.0)
            accepted[agent] = take_update(merger, updates, model, agent, submit, sent, task.training)
        merged = merger.merge(model, accepted, ()).model
        save_checkpoint(checkpoints, merged.checkpoint)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert merged.checkpoint.version == 2
    assert peak <= MOST_BYTES * task.table.parameters
