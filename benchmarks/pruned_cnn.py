"""CNN-108k, 80 % pruned from its first round on: the task of benchmarks for which all rounds have to cost the same."""

from __future__ import annotations

from pathlib import Path

from benchmarks.children import Children
from benchmarks.demo.settings import cnn_table
from benchmarks.task_file import BATCH_SIZE
from fedprune.data.partition import parse_partition
from fedprune.data.prepare import prepare
from fedprune.data.source import open_source
from fedprune.system.disk import Directory

_SPARSITY = 0.8


def build_pruned_cnn(out: Path, children: Children, *, agents: int, examples: int, held_out: int) -> None:
    """Build task.fedtask in the directory `out`, and share Fashion-MNIST out into its data/: so many `examples` to each
    agent, and so many held out."""
    split = prepare(
        open_source("fashion-mnist"),
        parse_partition("iid"),
        agents=agents,
        examples_per_agent=examples,
        held_out=held_out,
        seed=1,
        out=out / "data",
    )
    task = f"""\
name = "pruned"
[model]
{cnn_table(split, 1)}
[training]
steps_per_round = 4
batch_size = {BATCH_SIZE}
optimizer = {{ name = "sgd", learning_rate = 0.05 }}
[pruning.schedule]
kind = "constant"
target_sparsity = {_SPARSITY}
begin_step = 0
frequency = 4
"""
    Directory(out).write("task.toml", task.encode())
    children.run("task", "task", "build", str(out / "task.toml"), "--out", str(out / "task.fedtask"))
