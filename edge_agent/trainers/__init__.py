"""Trainers: one round's local training as a function of everything that determines it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fedprune.data import Examples
from fedprune.errors import TrainingError
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, Inputs, Mask, Weights

if TYPE_CHECKING:
    from fedprune.pruning.regrowth import Votes
    from fedprune.task.forms import Form

Slots = Mapping[str, NDArray[np.generic]]
"""Optimizer state by name; what the names are is the trainer's own business."""


class TrainingStopped(TrainingError):
    """Nobody wants the rest of the training, which ended between two steps."""


def never() -> bool:
    return False


@dataclass(frozen=True)
class Work:
    """One round's work.

    `weights` are the global model's, in table order; `mask` is the gateway's (with the agents' own masks: where
    the global model is not pruned). `schedule_step` counts the global steps before this round; as TF-MOT counts
    from 1, the first local step is `schedule_step` + 1. `slots` is what the last round returned if the task keeps
    optimizer state, else None. `keyed` orders the examples, and is drawn from. `should_stop` is asked
    before each step, or each half second's steps. `form` is that of the task that all of it is in; None for a task as
    it was built. `most_votes` are the pruned weights of each tensor that are voted for at most, to come back. `spread`
    are probabilities `[outputs]`, by an output's number, by which the smoothed part of its targets is spread; where
    there are none over all classes alike.
    """

    weights: Weights
    mask: Mask
    schedule_step: int
    slots: Slots | None
    keyed: Keyed
    should_stop: Callable[[], bool] = never
    form: Form | None = None
    most_votes: Mapping[str, int] = field(default_factory=dict)
    spread: Mapping[int, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """The outcome of a round's training: weights (zero outside `mask`), the mean loss of its `steps`, and its seconds.

    The loss is with the model's own penalties and without FedProx's term. With `slots` the next round goes on exactly,
    if the task keeps them. `votes` are of each tensor in the work's `most_votes`.
    """

    weights: Weights
    mask: Mask
    slots: Slots
    loss: float
    seconds: float
    steps: int
    votes: Votes = field(default_factory=dict)


class Trainer(Protocol):
    """Trains one task's model on one device. Construction may be slow (TensorFlow); `train` may be called often."""

    def train(self, work: Work, data: Examples) -> Trained:
        """Train the steps of a round (`Training.local_steps`).

        Raises:
          TrainingStopped: `work.should_stop` said so.
          TrainingError: the loss is not finite, or training fails.
        """
        ...


class AnsweringTrainer(Trainer, Protocol):
    """A trainer that also tells what its model answers."""

    def answers(self, weights: Weights, inputs: Sequence[Inputs]) -> tuple[Array, ...]:
        """What the whole model of these weights answers to a few examples, as the trainer computes: for each output
        float32 `[examples, *places, outputs]`.

        Args:
            weights: of the whole tensor table.
            inputs: for each input `[examples, ...]`.

        Raises:
          ExportError: the runtime fails.
        """
        ...
