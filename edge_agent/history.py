"""An agent's earlier rounds: those that it is done with, and how long they took."""

from __future__ import annotations

from dataclasses import dataclass

MAX_RUNS_REMEMBERED = 16
"""Runs whose last round an agent remembers. Who replays an assignment of an older one has it trained once more."""

MAX_DURATIONS = 3
"""Trainings that tell how long the next one will take."""


@dataclass(frozen=True)
class RoundsDone:
    """The last round of each run that the agent is done with; the run that was heard of last stands last.

    >>> done = RoundsDone().with_round("a", 0).with_round("b", 5).with_round("a", 1)
    >>> done.of("a"), done.of("b"), done.of("c")
    (1, 5, -1)
    """

    last: tuple[tuple[str, int], ...] = ()

    def of(self, run: str) -> int:
        """The last round of `run` that is done, -1 for none."""
        return dict(self.last).get(run, -1)

    def with_round(self, run: str, round_: int) -> RoundsDone:
        others = tuple(entry for entry in self.last if entry[0] != run)
        return RoundsDone((*others, (run, max(round_, self.of(run))))[-MAX_RUNS_REMEMBERED:])


@dataclass(frozen=True)
class Durations:
    """Seconds that the last trainings of one task took on this device, from their start to the update; the newest
    stands last. `task` is the digest of its bundle.

    >>> Durations().with_training(b"task", 41.0).of(b"task"), Durations(b"task", (41.0,)).of(b"another")
    ((41.0,), ())
    """

    task: bytes = b""
    seconds: tuple[float, ...] = ()

    def of(self, task: bytes) -> tuple[float, ...]:
        return self.seconds if task == self.task else ()

    def with_training(self, task: bytes, seconds: float) -> Durations:
        return Durations(task, (*self.of(task), seconds)[-MAX_DURATIONS:])

    def without_oldest(self) -> Durations:
        return Durations(self.task, self.seconds[1:])
