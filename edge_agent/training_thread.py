"""Where the agent trains: a thread of its own, so that the network is answered meanwhile.

For each task the data are loaded, the trainer is made, and what it needs imported: an agent without work stays small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.local_round import LocalResult, LocalRound, train_locally
from edge_agent.trainers import Trainer
from edge_agent.trainers.choice import TrainerChoice, make_trainer
from fedprune.data import Dataset, fit_to
from fedprune.system.disk import Disk
from fedprune.system.process import start_abandonable
from fedprune.task.bundle import Bundle, read_bundle


@dataclass(frozen=True, eq=False)
class _Prepared:
    """All that is kept from round to round: a task, the data as it wants them, and its trainer."""

    bundle: Bundle
    data: Dataset
    trainer: Trainer


class TrainingThread:
    """Trains one round at a time. `deliver` gets, on the training thread, the result or the error: a `StorageError` if
    `disk` refuses, which remembers what was checked."""

    def __init__(
        self,
        load: Callable[[], Dataset],
        choice: TrainerChoice,
        threads: int,
        disk: Disk | None,
        deliver: Callable[[LocalResult | Exception], None],
    ) -> None:
        self._load = load
        self._choice = choice
        self._threads = threads
        self._disk = disk
        self._deliver = deliver
        self._prepared: _Prepared | None = None

    def start(self, local: LocalRound, bundle: bytes) -> None:
        """On Ctrl-C nobody waits for the rest of the round, which is made again anyway."""
        start_abandonable(self._work, local, bundle)

    def _work(self, local: LocalRound, bundle: bytes) -> None:
        try:
            prepared = self._prepare(bundle)
            self._deliver(train_locally(local, prepared.bundle, prepared.trainer, prepared.data))
        except Exception as error:
            self._deliver(error)

    def _prepare(self, blob: bytes) -> _Prepared:
        """Open the bundle and make its trainer, unless it is the last round's."""
        if self._prepared is None or self._prepared.bundle.blob != blob:
            self._prepared = None  # a device has no room for two
            bundle = read_bundle(blob)
            task = bundle.task
            data = fit_to(self._load(), task.input_shape, task.outputs, task.training.loss)
            # Only here: what does not fit costs no TensorFlow.
            trainer = make_trainer(self._choice, bundle, threads=self._threads, disk=self._disk)
            self._prepared = _Prepared(bundle, data, trainer)
        return self._prepared
