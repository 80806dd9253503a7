"""Unequal local work: the steps that a round's updates are of, and FedNova's normalisation by them.

Wang et al. 2020, "Tackling the objective inconsistency problem in heterogeneous federated optimization"
(arXiv 2007.07481): where agents make different numbers of steps, FedAvg converges to the minimum of another objective
than the one that weighs each agent by its examples.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.book import AcceptedUpdate
from aggregator.outliers import Norms
from fedprune.errors import ConfigurationError, ProtocolError
from fedprune.task.bundle import Bundle, Task
from fedprune.task.training import MOST_LOCAL_STEPS, Sgd, Training
from fedprune.wire.messages import Submit

_MOST_WORK = 2.0**40
"""The most that a round's steps may add up to for FedNova: sums have room for deltas so many times as large."""


def check_local_steps(submit: Submit, bundle: Bundle) -> None:
    """Raise `ProtocolError` unless so many examples make so many steps, in batches of a size that devices may take."""
    training = bundle.task.training
    graphs = [*bundle.graphs, *(() if bundle.head is None else bundle.head.graphs)]
    sizes = {training.batch_size, *(graph.batch_size for graph in graphs)}
    possible = {training.local_steps(submit.examples, size) for size in sizes}
    if submit.local_steps not in possible:
        known = " or ".join(map(str, sorted(possible)))
        raise ProtocolError(f"it is of {submit.local_steps} local steps; {submit.examples} examples make {known}")


def counted_steps(submit: Submit, weight: int, training: Training) -> int:
    """The steps that an update counts for: as many of those that it says as `weight` is of its examples.

    What an agent says of its examples cannot be checked, so neither can what it says of the steps that they took.
    """
    if training.steps_per_round:
        return submit.local_steps
    return -(-submit.local_steps * weight // submit.examples)


def norms_of_usual_work(updates: Mapping[str, AcceptedUpdate]) -> dict[str, Norms]:
    """The norms of a round's updates, by agent. Those of more steps than the lower median are divided by how many times
    as many they are: twice the steps move a model at most about twice as far."""
    usual = statistics.median_low([update.counted_steps for update in updates.values()]) if updates else 1
    ratios = {agent: max(1.0, update.counted_steps / usual) for agent, update in updates.items()}
    return {
        agent: Norms(update.delta_norm / ratios[agent], update.statistics_norm / ratios[agent])
        for agent, update in updates.items()
    }


def check_normalizable(task: Task) -> None:
    """Raise `ConfigurationError` for a task whose updates FedNova cannot normalise."""
    training, why = task.training, ""
    rate = training.optimizer.learning_rate  # no round has a higher one
    if not isinstance(training.optimizer, Sgd):
        why = "its normalisation is of sums of gradients: build the task with the optimizer sgd"
    elif training.optimizer_state == "keep":
        why = 'gradients of earlier rounds move the weights too: build the task with optimizer_state = "reset"'
    elif not task.pruning.mask.rules.is_shared:
        why = 'with own masks weights are averaged and not deltas: build the task with mask = "shared"'
    elif not all(1.0 <= work <= _MOST_WORK for work in _accumulated(training, rate)[1:].tolist()):
        why = "proximal_mu times the learning rate lets local training diverge: build the task with a smaller one"
    if why:
        raise ConfigurationError(f'aggregation.rule = "fednova": {why}, or set it to "fedavg"')


def fednova_scales(updates: Mapping[str, AcceptedUpdate], training: Training, learning_rate: float) -> dict[str, float]:
    """What each update's delta is to be multiplied by, so that the mean by examples is FedNova's step.

    x_{t+1} - x_t = tau_eff sum_i p_i delta_i / |a_i|, with p_i the share of examples and tau_eff = sum_i p_i |a_i|
    (section 4.1 there). tau_eff counts `counted_steps`, so that nobody who claims much makes others' updates larger.
    Sums are correctly rounded, so that the order of updates changes no bit.

    Args:
        updates: all that are merged, by agent; there is one at least.
        training: the task's, with SGD.
        learning_rate: the round's.

    Returns:
        tau_eff / |a_i| by agent, float64, above 0.
    """
    work = _accumulated(training, learning_rate)
    examples = sum(update.weight for update in updates.values())
    effective = math.fsum(update.weight * float(work[update.counted_steps]) for update in updates.values()) / examples
    return {agent: effective / float(work[update.local_steps]) for agent, update in updates.items()}


def accumulated_work(optimizer: Sgd, proximal_mu: float, most: int) -> NDArray[np.float64]:
    """|a_i| for 0 to `most` local steps: how far they move the weights, in learning rates and gradients.

    It is taken for equal gradients, and so is the sum of a_i's entries. That is its L1 norm, since they are positive
    unless momentum swings about FedProx's pull.

    An entry of a_i is what one step's gradient has moved by the end of the round: with momentum rho (1 - rho^m) /
    (1 - rho) after m steps, with FedProx's mu and the learning rate eta (1 - eta mu)^(m - 1) (Wang et al. 2020, section
    4.1). With both of them, or with Nesterov's momentum, it is what the optimizer's own recursion makes of it.

    Returns:
        float64, `[most + 1]`.

    Example:
        >>> accumulated_work(Sgd(momentum=0.0), 0.0, 3).tolist()
        [0.0, 1.0, 2.0, 3.0]
        >>> accumulated_work(Sgd(momentum=0.5), 0.0, 3).tolist()
        [0.0, 1.0, 2.5, 4.25]
    """
    norms = np.zeros(most + 1)
    rho, pull = optimizer.momentum, optimizer.learning_rate * proximal_mu
    moved = velocity = total = 0.0
    for step in range(1, most + 1):
        gradient = (1.0 if step == 1 else 0.0) - pull * moved
        velocity = rho * velocity + gradient
        moved += rho * velocity + gradient if optimizer.nesterov else velocity
        total += moved
        norms[step] = total
    return norms


def _accumulated(training: Training, learning_rate: float) -> NDArray[np.float64]:
    assert isinstance(training.optimizer, Sgd)
    optimizer = msgspec.structs.replace(training.optimizer, learning_rate=learning_rate)
    return accumulated_work(optimizer, training.proximal_mu, training.steps_per_round or MOST_LOCAL_STEPS)
