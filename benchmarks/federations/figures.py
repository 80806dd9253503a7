"""The figures of the federations, and the statistics of pairs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec
from scipy.stats import t as student_t

CONFIDENCE = 0.95


class Pair(msgspec.Struct, frozen=True):
    """One seed on either trainer, both on the same task and data: mean accuracy of the last five rounds, a fraction,
    and the final sparsity.
    """

    seed: int
    source: str
    litert_accuracy: float
    keras_accuracy: float
    litert_sparsity: float
    keras_sparsity: float

    @property
    def points(self) -> float:
        """By how many points LiteRT's accuracy is above TensorFlow's."""
        return (self.litert_accuracy - self.keras_accuracy) * 100

    @property
    def accuracy(self) -> float:
        """The mean of both runs."""
        return (self.litert_accuracy + self.keras_accuracy) / 2


class Parity(msgspec.Struct, frozen=True):
    """All pairs of a network; the mean of litert - keras in points, and its confidence interval (paired t)."""

    network: str
    pairs: tuple[Pair, ...]
    difference_points: float
    interval_points: tuple[float, float]

    @property
    def accuracy(self) -> float:
        """The mean of all runs."""
        return statistics.mean(pair.accuracy for pair in self.pairs)


class TaskPair(msgspec.Struct, frozen=True):
    """A pair of a task with devices' own files, and the number of its agents."""

    task: str
    agents: int
    pair: Pair


class Learned(msgspec.Struct, frozen=True):
    """One seed of a network on the litert trainer: pruned, dense (fp32 both ways: plain federated averaging), and
    trained on all agents' examples together by tf_keras. Accuracies are fractions, means of the last five rounds or
    epochs; `early_accuracy` is that of the pruned model after ten rounds.
    """

    network: str
    seed: int
    accuracy: float
    early_accuracy: float
    sparsity: float
    dense_accuracy: float
    central_accuracy: float


class Figures(msgspec.Struct, frozen=True):
    parities: tuple[Parity, ...]
    tasks: tuple[TaskPair, ...]
    learned: tuple[Learned, ...]
    seconds: float


def compare(network: str, pairs: Sequence[Pair]) -> Parity:
    """The mean of the paired differences, and the interval that Student's t gives for it; two pairs or more."""
    points = [pair.points for pair in pairs]
    mean = statistics.mean(points)
    reach = float(student_t.ppf((1 + CONFIDENCE) / 2, len(points) - 1))
    margin = reach * statistics.stdev(points) / math.sqrt(len(points))
    return Parity(network, tuple(pairs), mean, (mean - margin, mean + margin))
