"""Where the agent trains: a thread of its own, so that the network is answered meanwhile.

The trainer is made once for a task, and TensorFlow imported then: an agent without work stays small.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable

from edge_agent.local_round import LocalResult, LocalRound, train_locally
from edge_agent.trainers import Trainer
from fedprune.bundle import Bundle, read_bundle
from fedprune.data import Dataset, fit_to
from fedprune.errors import ConfigurationError


def check_trainer(name: str) -> None:
    """Raise `ConfigurationError` if what the trainer needs is not installed; nothing is imported."""
    if name == "keras" and importlib.util.find_spec("tensorflow") is None:
        raise ConfigurationError("trainer keras: TensorFlow is not installed; run `pip install 'fedprune[keras]'`")


class Workshop:
    """Trains one round at a time. `deliver` gets, on the training thread, the result or the error."""

    def __init__(self, data: Dataset, threads: int, deliver: Callable[[LocalResult | Exception], None]) -> None:
        self._data = data
        self._threads = threads
        self._deliver = deliver
        self._task: bytes | None = None
        self._bundle: Bundle
        self._fitted: Dataset
        self._trainer: Trainer

    def start(self, local: LocalRound, bundle: bytes) -> None:
        # A daemon: on Ctrl-C nobody waits for the rest of the round, which is made again anyway.
        threading.Thread(target=self._work, args=(local, bundle), name="training", daemon=True).start()

    def _work(self, local: LocalRound, bundle: bytes) -> None:
        try:
            self._prepare(bundle)
            self._deliver(train_locally(local, self._bundle, self._trainer, self._fitted))
        except Exception as error:
            self._deliver(error)

    def _prepare(self, blob: bytes) -> None:
        """Open the bundle and make its trainer, unless it is the last round's."""
        if blob == self._task:
            return
        from edge_agent.trainers.keras import KerasTrainer

        self._bundle = read_bundle(blob)
        task = self._bundle.task
        self._fitted = fit_to(self._data, task.input_shape, task.classes)
        self._trainer = KerasTrainer(self._bundle, threads=self._threads)
        self._task = blob
