"""Workers: processes that check and fold updates beside the loop that receives and stores them.

The loop hands over updates as they come, to whichever worker has nothing to do, and goes on. A verdict is an event on
its queue; only then is an update made durable, booked and answered. When a round is merged each worker gives the sums
of what it folded. They are whole numbers: which worker took which update, and how many there are, changes no bit.

A worker that ends takes its sums with it, and nothing else: what it had not answered goes to others, what was accepted
is on the disk, and is read again when the round is merged. One that hangs is ended (`aggregator.worker_watch`).
"""

from __future__ import annotations

import logging
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any, Self

from aggregator.folding import Folded, Folding, Taken
from aggregator.partial_sum import decode_partial_sum
from aggregator.round_state import StoreUpdate
from aggregator.settings import Aggregation
from aggregator.worker_watch import LOOKS, SILENT_S, Watch
from fedprune.codecs import OtherHistory
from fedprune.errors import ProtocolError, TrainingError
from fedprune.model.tensors import weights_digest
from fedprune.network.description import Network
from fedprune.system.usage import activity_of
from fedprune.task.bundle import Task
from fedprune.task.checkpoints import Checkpoint

_log = logging.getLogger(__name__)

_CHILD = "aggregator.worker_child"

_MOST_AT_ONCE = 64
"""Updates that a worker is given together: they are stored together too."""

_MOST_ENDINGS = 4
"""Workers that may end in a row without one that has answered: then it is no accident."""

_LAST_S = 5.0
"""Seconds in which a process that has closed its connection is gone."""


@dataclass(frozen=True)
class Job:
    """What a worker folds: the federation's settings that count, and where the checkpoints are."""

    task: Task
    network: Network
    seed: int
    codec: str
    aggregation: Aggregation
    checkpoints: Path
    sub_gateways: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Check:
    """Asks to check and fold updates to a version of the model: agents, weights, bytes, and what is remembered of the
    agents' last updates."""

    version: int
    updates: tuple[tuple[str, int, bytes, tuple[bytes, ...]], ...]


Verdict = Taken | OtherHistory | str
"""Of an update: that it can be merged, that it is coded by a history that is not remembered here, or why it cannot be
merged."""


@dataclass(frozen=True)
class Verdicts:
    """The answer to `Check`: those of the updates, in its order."""

    found: tuple[Verdict, ...]


@dataclass(frozen=True)
class Sum:
    """Asks for what was folded of the updates to a version."""

    version: int


@dataclass(frozen=True)
class Part:
    """The answer to `Sum`: a partial sum, and the digest and weight of each of its updates by agent. No bytes if
    nothing was folded."""

    blob: bytes
    updates: dict[str, tuple[bytes, int]]


@dataclass(frozen=True, eq=False)
class Checked:
    """Of a worker: its verdicts are here."""

    worker: _Worker
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, eq=False)
class WorkerEnded:
    """A worker's process has ended, which nobody told it to."""

    worker: _Worker


@dataclass(frozen=True)
class _Waiting:
    """An update to a version of the model, and what is remembered of its agent's last ones."""

    version: int
    update: StoreUpdate
    remembered: tuple[bytes, ...]

    @property
    def request(self) -> tuple[str, int, bytes, tuple[bytes, ...]]:
        return self.update.agent, self.update.weight, self.update.blob, self.remembered


class Workers:
    """Some processes that fold for one federation. `events` is told of `Checked` and `WorkerEnded`, which are to be
    given back to `take_verdicts` and `replace`."""

    def __init__(self, count: int, job: Job, events: queue.SimpleQueue[Any]) -> None:
        self._job, self._events = job, events
        self._waiting: deque[_Waiting] = deque()
        self._endings = 0
        self._workers = [_Worker(job, events) for _ in range(count)]
        self._is_over = threading.Event()
        threading.Thread(target=self._watch, name="watch over workers", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for worker in self._workers:
            worker.end()

    @property
    def processes(self) -> list[int]:
        """Their ids."""
        return [worker.process for worker in self._workers]

    def has(self, worker: _Worker) -> bool:
        """True for a worker of these, and not of those that another run had."""
        return worker in self._workers

    def check(self, updates: Sequence[tuple[StoreUpdate, Sequence[bytes]]], version: int) -> None:
        """Have updates to a version of the model checked, and folded, with what is remembered of their agents' last
        ones."""
        self._waiting.extend(_Waiting(version, update, tuple(remembered)) for update, remembered in updates)
        self._hand_out()

    def take_verdicts(self, event: Checked) -> list[tuple[StoreUpdate, Verdict]]:
        """The updates that were checked, each with its norms or the reason why it cannot be merged."""
        self._endings = 0
        updates = event.worker.take_back()
        self._hand_out()
        return [(each.update, verdict) for each, verdict in zip(updates, event.verdicts, strict=True)]

    def replace(self, event: WorkerEnded) -> None:
        """Start another worker in the place of one that has ended. Raises `TrainingError` if they all end."""
        self._endings += 1
        how = event.worker.ending()
        if self._endings > _MOST_ENDINGS:
            raise TrainingError(
                f"{self._endings} worker processes ended one after another, the last with {how}; has "
                "this machine memory enough? Use fewer --workers; nothing that was accepted is lost"
            )
        _log.warning("a worker process has ended (%s); another takes its place", how)
        self._workers[self._workers.index(event.worker)] = _Worker(self._job, self._events)
        self._waiting.extendleft(reversed(event.worker.take_back()))
        self._hand_out()

    def folded(self, model: Checkpoint, folding: Folding) -> Iterator[Folded]:
        """What each worker has folded of the updates to `model`; nothing of one that has ended."""
        asked = [worker for worker in self._workers if worker.send(Sum(model.version))]
        digest = bytes.fromhex(weights_digest(model.weights))
        for worker in asked:
            part = worker.parts.get()
            if part is None or not part.blob:
                continue
            table, known_mask = folding.table_of(model), folding.known_mask(model)
            try:
                sums = decode_partial_sum(part.blob, table, model.weights, known_mask, digest)
            except ProtocolError as error:  # its checkpoint was not this one
                raise TrainingError(f"a worker's sums do not fit: {error}; start again") from error
            yield Folded(sums, part.updates)

    def _watch(self) -> None:
        """End workers that hang, in a thread of its own: the loop may wait for the answer of one of them."""
        while not self._is_over.wait(SILENT_S / LOOKS):
            for worker in list(self._workers):
                worker.end_if_it_hangs()

    def _hand_out(self) -> None:
        for worker in self._workers:
            if not self._waiting:
                return
            if worker.is_idle:
                count = min(len(self._waiting), _MOST_AT_ONCE)
                worker.hand([self._waiting.popleft() for _ in range(count)])


class _Worker:
    """One process. Its answers are read by a thread of its own, in order."""

    def __init__(self, job: Job, events: queue.SimpleQueue[Any]) -> None:
        self.parts: queue.SimpleQueue[Part | None] = queue.SimpleQueue()
        self._taken: list[_Waiting] = []
        self._is_ended_by_us = False
        self._watch: Watch | None = None
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _CHILD, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C is the parent's alone, which then ends its workers
            )
        self.send(job)
        threading.Thread(target=self._hear, args=(events,), name="worker", daemon=True).start()

    @property
    def process(self) -> int:
        return self._process.pid

    @property
    def is_idle(self) -> bool:
        return not self._taken

    def hand(self, updates: list[_Waiting]) -> None:
        """Have updates checked, all to the version of the first: a round ends before the next one's come."""
        self._taken = updates
        self.send(Check(updates[0].version, tuple(each.request for each in updates)))

    def take_back(self) -> list[_Waiting]:
        """The updates that it was handed last."""
        taken, self._taken = self._taken, []
        return taken

    def send(self, request: Job | Check | Sum) -> bool:
        """False if it has ended, of which there is an event."""
        if not isinstance(request, Job):
            self._begin_watch(len(request.updates) if isinstance(request, Check) else 1)
        try:
            self._connection.send(request)
        except OSError:
            return False
        return True

    def end_if_it_hangs(self) -> None:
        """Look at a process that owes an answer."""
        watch, activity, now = self._watch, activity_of(self._process.pid), time.monotonic()
        if watch is None or activity is None:
            return
        watch = watch.seen(activity, now)
        if why := watch.why_it_hangs(now):
            _log.warning("worker process %s hangs: %s; it is ended", self._process.pid, why)
            self._watch = None
            self._process.kill()
        elif self._watch is not None:  # no answer has come meanwhile
            self._watch = watch

    def _begin_watch(self, updates: int) -> None:
        activity = activity_of(self._process.pid)
        self._watch = None if activity is None else Watch.begin(activity, updates, time.monotonic())

    def end(self) -> None:
        self._is_ended_by_us = True
        self._process.kill()
        self._process.wait()

    def ending(self) -> str:
        """How it ended, once it has closed its connection."""
        try:
            code = self._process.wait(_LAST_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _hear(self, events: queue.SimpleQueue[Any]) -> None:
        with suppress(EOFError, OSError):
            while True:
                answer: Verdicts | Part = self._connection.recv()
                self._watch = None
                if isinstance(answer, Verdicts):
                    events.put(Checked(self, answer.found))
                else:
                    self.parts.put(answer)
        self.parts.put(None)
        if not self._is_ended_by_us:
            events.put(WorkerEnded(self))
