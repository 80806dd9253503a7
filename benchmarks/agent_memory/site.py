"""The site where the agents are measured: their data, their tasks and a broker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.agent_memory.figures import BATCH_SIZE, EXAMPLES, LEARNING_RATE, MOMENTUM, STEPS
from benchmarks.children import Children, find_mosquitto
from fedprune.data.partition import parse_partition
from fedprune.data.prepare import prepare
from fedprune.data.source import open_source

AGENT = "device"
ONE_STEP, WHOLE_ROUND = "one-step", "whole-round"
"""The two tasks: they differ in the steps of a round only."""

_HELD_OUT = 1_000


@dataclass(frozen=True)
class Site:
    """A directory, and the address of a broker."""

    path: Path
    broker: str

    @property
    def data(self) -> Path:
        """The agent's examples."""
        return self.path / "data" / "agent-0.npz"

    def write_federation(self, name: str, task: str, rounds: int) -> Path:
        """A federation.toml of one agent."""
        path = self.path / name / "federation.toml"
        path.write_text(f"""\
name = "{name}"
task = "../{task}.fedtask"
held_out = "../data/held-out.npz"
state = "gateway"
threads = 1

[broker]
url = "{self.broker}"

[rounds]
count = {rounds}
cohort = 1
quorum = 1.0
""")
        return path


def prepare_site(path: Path, children: Children) -> tuple[Site, str]:
    """Data, tasks and a broker, which `children` ends; and what is to be said of the data. Raises `FedpruneError`s."""
    how = parse_partition("iid")
    split = prepare(
        open_source("auto"),
        how,
        agents=1,
        examples_per_agent=EXAMPLES,
        held_out=_HELD_OUT,
        seed=0,
        out=path / "data",
    )
    for task, steps in ((ONE_STEP, 1), (WHOLE_ROUND, STEPS)):
        (path / f"{task}.toml").write_text(_task_toml(steps))
        children.run("task", "task", "build", str(path / f"{task}.toml"), "--out", str(path / f"{task}.fedtask"))
    broker = children.start_broker("mosquitto" if find_mosquitto() else "embedded")
    return Site(path, broker), split.note or split.source


def _task_toml(steps: int) -> str:
    """CNN-108k, half of it pruned from the first step on."""
    return f"""\
name = "agent-memory"

[model]
builtin = "cnn-108k"
input_shape = [28, 28, 1]
outputs = 10
initial = "seed"

[training]
steps_per_round = {steps}
batch_size = {BATCH_SIZE}
optimizer = {{ name = "sgd", learning_rate = {LEARNING_RATE}, momentum = {MOMENTUM} }}

[pruning.schedule]
kind = "constant"
target_sparsity = 0.5
begin_step = 0
frequency = {STEPS}
"""
