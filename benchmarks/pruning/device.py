"""A device of a federation whose network becomes smaller, as a process of its own: what its rounds take."""

from __future__ import annotations

import math
import time
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.without_network import RUN
from edge_agent.agent_state import Outcome
from edge_agent.history import Durations
from edge_agent.local_round import LocalRound
from edge_agent.local_training import train_locally
from edge_agent.store import AgentStore
from edge_agent.trainers import Trained, Trainer, Work
from edge_agent.trainers.choice import make_trainer
from fedprune.data import Dataset, Examples
from fedprune.model.randomness import Keyed
from fedprune.system.disk import Directory
from fedprune.system.memory import return_large_arrays
from fedprune.system.usage import peak_memory_mb
from fedprune.task.bundle import Bundle, read_bundle
from fedprune.wire.messages import Assignment

EXAMPLES = 128


class Done(msgspec.Struct, frozen=True):
    """A round on the device: its submit and update as bytes, the processor time of a training step, the memory of the
    process at the round's start, and its high-water mark since then."""

    submit: bytes
    update: bytes
    step_ms: float
    held_mb: float
    peak_mb: float


class _Timed:
    """A trainer, and the processor time that it has taken for its last round."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.seconds = 0.0

    def train(self, work: Work, data: Examples) -> Trained:
        began = time.process_time()
        trained = self._trainer.train(work, data)
        self.seconds = time.process_time() - began
        return trained


def work(folder: str, gateway: Connection) -> None:
    """Do rounds until there are no more: for each an assignment and a model come in, `Done` goes out. The first answer
    is the memory of the idle process, in MB."""
    return_large_arrays()
    gateway.send(peak_memory_mb())
    bundle = read_bundle(Path(folder, "task").read_bytes())
    disk = Directory(Path(folder, "agent"))
    data = _examples(bundle)
    trainer = _Timed(make_trainer("litert", bundle, examples=len(data), threads=1, disk=disk))
    while (received := gateway.recv()) is not None:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        assignment, model = msgspec.msgpack.decode(received[0], type=Assignment), received[1]
        store = AgentStore(disk, "device", "benchmark")
        gateway.send(_round(assignment, model, store, bundle, trainer, data))


def _round(
    assignment: Assignment, model: bytes, store: AgentStore, bundle: Bundle, trainer: _Timed, data: Dataset
) -> Done:
    held_mb = peak_memory_mb()
    local = LocalRound(
        "device", assignment, model, lambda: store.residual(RUN, assignment.round), store.slots(RUN), 0.0,
        held=store.held, owed_form=store.owed_form(RUN),
    )  # fmt: skip
    result = train_locally(local, bundle, trainer, data)
    store.remember(result.submit, result.update, result.slots, Durations(b"", ()), result.local, result.form)
    store.settle(Outcome.ACCEPTED)
    step_ms = 1e3 * trainer.seconds / result.submit.local_steps
    return Done(msgspec.msgpack.encode(result.submit), result.update.blob, step_ms, held_mb, peak_memory_mb())


def _examples(bundle: Bundle) -> Dataset:
    (shape,) = bundle.network.inputs
    keyed, classes = Keyed(0, "examples"), bundle.task.outputs[0].shape[-1]
    size = EXAMPLES * math.prod(shape)
    y = (keyed.integers(EXAMPLES) % np.uint64(classes)).astype(np.int64)
    return Dataset(keyed.uniform(size, 0.0, 1.0).reshape(EXAMPLES, *shape), y)
