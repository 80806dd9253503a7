"""The training thread: the agent trains in one of its own, so that the network is answered meanwhile.

For each task the data are loaded, the trainer is made, and what it needs imported: an agent without work stays small.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.local_round import LocalResult, LocalRound, asks_for_statistics
from edge_agent.trainers import AnsweringTrainer
from edge_agent.trainers.choice import TrainerChoice, make_trainer
from fedprune.data import Data, Examples, fit_to
from fedprune.data.normalization import normalized
from fedprune.model.tensors import Weights
from fedprune.system.disk import Disk
from fedprune.system.process import start_abandonable

if TYPE_CHECKING:
    from fedprune.task.bundle import Bundle
    from fedprune.task.forms import Form

LONGEST_STEP_S = 3600.0
"""A training that neither begins a step nor ends for so long never will: its runtime hangs, and the service is to be
started anew. Reading the data and checking the runtime count as a step."""

Opener = Callable[[], tuple[LocalRound, bytes]]
"""Reads what a round takes, and the task's bundle, from the agent's store."""


@dataclass(frozen=True, eq=False)
class TrainingEnded:
    """The result of training `number`, or the error that ended it."""

    number: int
    result: LocalResult | Exception


@dataclass(frozen=True, eq=False)
class _Training:
    number: int
    open: Opener
    stop: threading.Event = field(default_factory=threading.Event)
    moved: list[float] = field(default_factory=lambda: [time.monotonic()])
    """When the last step began, or could begin again."""


@dataclass(frozen=True, eq=False)
class _Prepared:
    """All that is kept from round to round: a task, the data as it wants them, and its trainer. `aside`: the share and
    the seed by which `held_out` was taken from the data, `seen` what their files looked like."""

    bundle: Bundle
    aside: tuple[float, int]
    seen: bytes
    data: Examples
    held_out: Examples | None
    trainer: AnsweringTrainer


class TrainingThread:
    """Trains one round at a time. `deliver` gets, on the training thread, what came of each that was not stopped.

    `read` gives the examples before normalisation, and is called again once `seen`, which tells what of their files can
    be seen, tells something else. `disk` remembers which runtime was checked. After each training the device's own
    model goes to `personal_model`.
    """

    def __init__(
        self,
        read: Callable[[Data], Examples],
        choice: TrainerChoice,
        threads: int,
        disk: Disk | None,
        deliver: Callable[[TrainingEnded], None],
        personal_model: Path | None = None,
        seen: Callable[[], bytes] = bytes,
    ) -> None:
        self._read, self._seen = read, seen
        self._choice = choice
        self._threads = threads
        self._disk = disk
        self._deliver = deliver
        self._personal_model = personal_model
        self._prepared: _Prepared | None = None
        self._lock = threading.Condition()
        self._is_held = False
        self._current: _Training | None = None
        self._next: _Training | None = None

    def start(self, number: int, open_: Opener) -> None:
        """Train as soon as the training that was stopped has ended.

        On Ctrl-C nobody waits for the rest of the round, which is made again anyway.
        """
        with self._lock:
            self._next = _Training(number, open_)
            if self._current is None:
                self._current, self._next = self._next, None
                start_abandonable(self._work, self._current)

    def stop(self) -> None:
        """End the training between two steps. Nothing is delivered of it."""
        with self._lock:
            self._next = None
            if self._current is not None:
                self._current.stop.set()
                self._lock.notify_all()

    def hold(self, is_held: bool) -> None:
        """Hold whatever trains between two steps, or let it go on. What is held can be stopped."""
        with self._lock:
            self._is_held = is_held
            if self._current is not None:
                self._current.moved[0] = time.monotonic()
            self._lock.notify_all()

    @property
    def is_training(self) -> bool:
        """Something is trained, and uses the processor."""
        with self._lock:
            return self._current is not None and not self._is_held

    def is_stuck(self) -> bool:
        """What is being trained makes no progress."""
        with self._lock:
            if self._current is None or self._is_held:
                return False
            return time.monotonic() - self._current.moved[0] > LONGEST_STEP_S

    def _work(self, training: _Training) -> None:
        """Train, and go on with what was started meanwhile."""
        following: _Training | None = training
        while following is not None:
            following = self._work_on(following)

    def _work_on(self, training: _Training) -> _Training | None:
        """Train and deliver; what is to be trained next. The result is held no longer: it is as large as two models."""
        result = self._train(training)
        with self._lock:
            self._current, self._next = self._next, None
            if not training.stop.is_set():
                self._deliver(TrainingEnded(training.number, result))
            return self._current

    def _train(self, training: _Training) -> LocalResult | Exception:
        """The result or the error, whatever it is: a round that cannot be trained must not end the agent."""
        from edge_agent.local_training import train_locally

        try:
            local, bundle = training.open()
            if asks_for_statistics(local.assignment):
                from edge_agent.gathering import give_statistics

                return give_statistics(local, bundle, self._read)
            prepared = self._prepare(bundle, local)
            return train_locally(
                local,
                prepared.bundle,
                prepared.trainer,
                prepared.data,
                lambda: self._is_stopped(training),
                prepared.held_out,
                partial(self._keep, prepared),
            )
        except Exception as error:
            return error

    def _is_stopped(self, training: _Training) -> bool:
        """Nobody wants the training any more. To be asked before each step; while it is held this waits."""
        with self._lock:
            self._lock.wait_for(lambda: training.stop.is_set() or not self._is_held)
        training.moved[0] = time.monotonic()
        return training.stop.is_set()

    def _keep(self, prepared: _Prepared, weights: Weights, form: Form) -> None:
        if self._personal_model is not None:
            from edge_agent.personal_model import keep_personal_model

            trainer, data, bundle = prepared.trainer, prepared.data, prepared.bundle
            keep_personal_model(self._personal_model, weights, form, trainer, data, bundle)

    def _prepare(self, blob: bytes, local: LocalRound) -> _Prepared:
        """Open the bundle, share the data out and make the trainer, unless all is as in the last round."""
        from edge_agent.evaluating import hold_out
        from fedprune.data.description import hold_out_by
        from fedprune.task.bundle import read_bundle

        share, seed = aside = (local.assignment.known.hold_out, local.assignment.known.seed)
        seen, prepared = self._seen(), self._prepared
        if prepared is None or (prepared.bundle.blob, prepared.aside, prepared.seen) != (blob, aside, seen):
            prepared = self._prepared = None  # a device has no room for two
            bundle = read_bundle(blob)
            form = bundle.task.data
            data = fit_to(normalized(self._read(form), form), bundle.network.input_forms, bundle.task.output_forms)
            data, held_out = hold_out(data, share, seed, local.agent, hold_out_by(form))
            # Only here: what does not fit costs no TensorFlow.
            trainer = make_trainer(self._choice, bundle, examples=len(data), threads=self._threads, disk=self._disk)
            prepared = self._prepared = _Prepared(bundle, aside, seen, data, held_out, trainer)
        return prepared
