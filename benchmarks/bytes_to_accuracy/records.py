"""What is recorded of each federation, and the file of it, to which rows are added as they end."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.command_line import write_json
from benchmarks.latency.this_machine import read_machine
from fedprune.errors import StorageError

_WINDOW, _POINTS_BELOW = 5, 0.005


@dataclass(frozen=True)
class Arrangement:
    """What is learned, how the data are spread over the agents, and the fraction of them that takes part in a round."""

    partition: str
    participation: float
    problem: str = "cnn-108k"


class Run(msgspec.Struct, frozen=True):
    """One federation. Bytes are payload, summed over the agents; `bytes_up` and `bytes_down` are by kind (model,
    update, task, control), `bytes_by_round` of both ways. `accuracies` are those of each round.

    `target` is what dense federated averaging reaches on the same data, the best mean of five rounds, less half a
    point; `bytes_to_target` are those until the mean of five rounds is no less, None if it never is.
    """

    name: str
    seed: int
    tuned: bool
    partition: str
    participation: float
    rounds: int
    accuracy_final: float
    sparsity: float
    bytes_up: dict[str, int]
    bytes_down: dict[str, int]
    bytes_total: int
    bytes_to_target: int | None
    target: float
    accuracies: tuple[float, ...]
    bytes_by_round: tuple[int, ...]
    commit: str
    problem: str = "cnn-108k"

    @property
    def arrangement(self) -> Arrangement:
        return Arrangement(self.partition, self.participation, self.problem)


class Flower(msgspec.Struct, frozen=True):
    """Dense federated averaging by Flower's `version`: bytes that a node sends and receives in a round on its sockets,
    TCP's own headers not counted, and federations that its simulation ran, whose bytes are those of its messages."""

    version: str
    bytes_up: int
    bytes_down: int
    runs: tuple[Run, ...] = ()


class Results(msgspec.Struct, frozen=True):
    """The whole file. `commit` is that of the last row; `flower` is None where it was not measured."""

    runs: tuple[Run, ...]
    machine: str
    commit: str
    flower: Flower | None = None


def target_of(accuracies: Sequence[float]) -> float:
    """What is to be reached, by the accuracies of a dense federation's rounds.

    Example:
        >>> round(target_of([0.5, 0.8, 0.8, 0.8, 0.8, 0.8, 0.1]), 3)
        0.795
    """
    return max(means(accuracies)[_WINDOW - 1 :]) - _POINTS_BELOW


def bytes_to(target: float, accuracies: Sequence[float], bytes_by_round: Sequence[int]) -> int | None:
    """The bytes of all rounds until the mean of five is at the target; None if it never is.

    Example:
        >>> bytes_to(0.8, [0.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9], [10] * 7)
        60
    """
    reached = (end for end, mean in enumerate(means(accuracies), 1) if end >= _WINDOW and mean >= target)
    end = next(reached, None)
    return None if end is None else sum(bytes_by_round[:end])


def means(accuracies: Sequence[float]) -> list[float]:
    """For each round the mean of the last five, of fewer at first."""
    return [statistics.mean(accuracies[max(0, end - _WINDOW) : end]) for end in range(1, len(accuracies) + 1)]


class Journal:
    """The runs of a file, written anew with each run that is added; without a file they are only held."""

    def __init__(self, target: Path | None) -> None:
        self._target = target
        found = None if target is None else _read(target)
        self.runs = [] if found is None else list(found.runs)
        self.flower = None if found is None else found.flower

    def find(self, name: str, seed: int, rounds: int, arrangement: Arrangement) -> Run | None:
        """The run that was recorded of these, so that it need not be made again."""
        wanted = (name, seed, rounds, arrangement)
        for run in (*self.runs, *(self.flower.runs if self.flower else ())):
            if (run.name, run.seed, run.rounds, run.arrangement) == wanted:
                return run
        return None

    def add(self, run: Run) -> None:
        """Raises `StorageError`."""
        self.runs.append(run)
        self._write()

    def add_flower(self, flower: Flower) -> None:
        """Put it in the place of what was known of Flower. Raises `StorageError`."""
        self.flower = flower
        self._write()

    def add_flower_run(self, run: Run) -> None:
        """Raises `StorageError`."""
        assert self.flower is not None, "its version is known first"
        self.add_flower(msgspec.structs.replace(self.flower, runs=(*self.flower.runs, run)))

    def _write(self) -> None:
        written = self.runs[-1].commit if self.runs else ""
        write_json(Results(tuple(self.runs), _machine(), written, self.flower), self._target)


def commit() -> str:
    """The commit of this tree, with a plus sign if files differ from it; empty outside a clone."""
    here = Path(__file__).parent
    words = ("git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*")
    done = subprocess.run(words, cwd=here, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.stdout.strip() if not done.returncode else ""


def total(by_kind: Mapping[str, int]) -> int:
    return sum(by_kind.values())


def _read(path: Path) -> Results | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results) if path.exists() else None
    except (OSError, msgspec.MsgspecError) as error:
        raise StorageError(
            f"{path}: it does not hold the runs of this benchmark ({error}); name another file"
        ) from error


def _machine() -> str:
    machine = read_machine()
    return f"{machine.cpu or machine.architecture}, {machine.cores} cores"
