"""Agents whose loss or inputs stand apart from the others': cheap signals that a device's data are on another scale."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

DEVIATIONS = 5.0
"""Median absolute deviations from the median beyond which an agent stands apart."""

ROUNDS = 3
"""Rounds in a row, of those an agent takes part in, in which it has to stand apart before people are told."""

LEAST_AGENTS = 3
"""Agents of a round that say among themselves what is usual."""

_SCALES_APART = math.log(4.0)
"""A range of inputs within a factor of four of the others' is usual, however alike those are."""

_RANGES_APART = 0.5
"""So is a mean within half of the others' range, or a loss within half of what an answer costs that is always the same:
devices hold different classes, and some are easier."""


@dataclass(frozen=True)
class Signals:
    """What an agent's submit says: its mean training loss, and of the inputs it trained on the mean and the largest
    magnitude."""

    loss: float
    x_mean: float
    x_largest: float


def standing_apart(signals: Mapping[str, Signals], constant_loss: float) -> dict[str, str]:
    """Find the agents that stand apart in one round: by the range of their inputs, their mean, or a loss above others'.

    Args:
        signals: of a round's accepted updates, by agent.
        constant_loss: that of an answer that is the same for all examples.

    Returns:
        For each agent that stands apart, by name, what does and what is usual.

    Example:
        >>> usual = {f"pi-{index}": Signals(0.3, 0.28, 1.0) for index in range(3)}
        >>> standing_apart(usual | {"pi-3": Signals(0.3, 133.6, 148.0)}, constant_loss=2.3)
        {'pi-3': 'its inputs reach 148, those of others 1'}
    """
    if len(signals) < LEAST_AGENTS:
        return {}
    largest = {agent: each.x_largest for agent, each in signals.items()}
    means = {agent: each.x_mean for agent, each in signals.items()}
    losses = {agent: each.loss for agent, each in signals.items()}
    usual_range, usual_mean, usual_loss = (statistics.median(each.values()) for each in (largest, means, losses))
    # Of several reasons the first is said: a range that is off moves mean and loss too.
    reasons = {
        **{
            agent: f"its loss is {losses[agent]:.3g}, that of others {usual_loss:.3g}"
            for agent in _far(losses, _RANGES_APART * constant_loss)
            if losses[agent] > usual_loss
        },
        **{
            agent: f"its inputs are {means[agent]:.3g} on average, those of others {usual_mean:.3g}"
            for agent in _far(means, _RANGES_APART * usual_range)
        },
        **{
            agent: f"its inputs reach {largest[agent]:.3g}, those of others {usual_range:.3g}"
            for agent in _far({agent: _log(each) for agent, each in largest.items()}, _SCALES_APART)
        },
    }
    return dict(sorted(reasons.items()))


def _far(values: Mapping[str, float], least: float) -> list[str]:
    """Those further than `DEVIATIONS` median absolute deviations from the median, and than `least`."""
    median = statistics.median(values.values())
    distances = {agent: abs(value - median) for agent, value in values.items()}
    reach = max(least, DEVIATIONS * statistics.median(distances.values()))
    return [agent for agent, distance in distances.items() if distance > reach]


def _log(magnitude: float) -> float:
    """Inputs that are all 0 count as the smallest there are."""
    return math.log(max(magnitude, 1e-38))
