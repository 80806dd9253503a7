"""A run that learns nothing: models no better than one answer for all examples, and what the causes may be."""

from __future__ import annotations

from collections.abc import Sequence

from aggregator.book import RoundRecord

ROUNDS = 5
"""So many rounds from the first one tell: honest runs are seldom so slow."""

_NO_BETTER = 0.98
"""A loss below so much of that of the best answer that is the same for all examples is better than chance."""
_RISE = 0.02
"""An accuracy that rises by more is learning, whatever the loss says: a loss may grow with confidence."""
_LARGE_INPUTS = 10.0
"""Inputs that were scaled for a network are seldom larger."""
_TOO_FAST = 1.1
"""A loss of more than so many times the constant answer's is that of steps which are too large."""
_DENSE = 0.5
"""Sparsity from which on pruning may be why a model learns nothing."""


def causes_at_chance(records: Sequence[RoundRecord], x_largest: float, constant: float) -> str:
    """Say what may be wrong where the run's first `ROUNDS` models are all at chance; empty where they are not, and in
    later rounds, so that it is said once.

    Args:
        records: those of all rounds so far.
        x_largest: the largest magnitude of inputs that an agent told, as they are trained on.
        constant: the loss of the best answer that is the same for all examples; 0 if it is not known.

    Returns:
        Causes, the likeliest first: what the figures point to, then what no figure shows.
    """
    losses = [record.loss for record in records if record.loss is not None]
    if len(records) != ROUNDS or len(losses) < ROUNDS or min(losses) < _NO_BETTER * constant or not constant:
        return ""
    accuracies = [record.accuracy for record in records if record.accuracy is not None]
    if accuracies and max(accuracies) - accuracies[0] > _RISE:
        return ""
    shown, hidden = list[str](), list[str]()
    scaling = f"inputs are not scaled as the model expects them (the largest is {x_largest:.3g}): see data.normalize"
    (shown if x_largest > _LARGE_INPUTS else hidden).append(scaling)
    if max(losses) > _TOO_FAST * constant:
        shown.append("the learning rate is too high")
    else:
        hidden.append("the learning rate is too low, or steps are too few")
    if records[-1].sparsity >= _DENSE:
        shown.append(f"weights were pruned before they learned (sparsity {records[-1].sparsity:.2f})")
    hidden.insert(0, "labels do not belong to their examples, or classes are numbered otherwise on some devices")
    return "; ".join([*shown, *hidden])
