"""Logit adjustment: a device trains as if its classes were frequent alike, so that devices which see different ones do
not pull the model their own ways.

The loss of an example is that of its logits plus tau log p, where p are the frequencies of the device's own classes; of
a sigmoid, plus tau times their log odds. Menon et al. 2021, "Long-tail learning via logit adjustment", arXiv
2007.07314, equation 10; with each device's own frequencies as Zhang et al. 2022, "Federated learning with label
distribution skew via logits calibration", arXiv 2209.00189. What is added to logits is added to their bias while a
device trains. What it learns is a difference, from which that falls out: it costs no bytes, and no trainer knows of it.

Label smoothing keeps a model from being too sure: it is drawn a little to an answer that is the same for all examples,
with all logits 0. A model whose logits are adjusted answers that with the frequencies (to the power tau), so that the
part of the targets which is spread is spread like these. Over all classes alike it would draw logits up which are low
only since the device has no example of their classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_agent.trainers import TrainingStopped, never
from fedprune.data import Dataset, Examples, importance_of
from fedprune.model.forms import OutputForm
from fedprune.model.losses import LabelForm
from fedprune.model.tensors import Array
from fedprune.network.description import Network
from fedprune.network.output_bias import output_bias
from fedprune.task.bundle import Bundle
from fedprune.task.padding import Counted, counted_places

_ADDED = 1.0
"""To the number of each class: one that a device has no example of is rare, not impossible (Laplace's rule)."""


@dataclass(frozen=True, eq=False)
class Adjusted:
    """What a device trains from: weights with other biases, and how a target's smoothed part is spread, by the number
    of an output whose logits are adjusted: see `Work`."""

    weights: dict[str, Array]
    spread: dict[int, Array] = field(default_factory=dict)


def adjusted(
    weights: dict[str, Array], bundle: Bundle, examples: Examples, should_stop: Callable[[], bool] = never
) -> Adjusted:
    """What to train from, of `weights`, which are the same where the task does not adjust logits.

    Args:
        weights: in table order.
        bundle: in the form of `weights`. It was checked: logits that are adjusted have a bias.
        examples: that the device trains on, and that fit the task. They may be on a disk, and take long to read.
        should_stop: says that nobody wants the round any more.

    Raises `TrainingStopped` if it does.
    """
    forms, network = bundle.task.output_forms, bundle.network
    if not any(form.objective.logit_adjustment for form in forms):
        return Adjusted(weights)
    logits = {
        output: forms[output].objective.logit_adjustment * log_prior
        for output, log_prior in _log_priors(examples, forms, network, should_stop).items()
    }
    added = {output_bias(network, output): each.astype(np.float32) for output, each in logits.items()}
    return Adjusted(
        {name: array + added[name] if name in added else array for name, array in weights.items()},
        {output: _probabilities(forms[output], each) for output, each in logits.items()},
    )


def _probabilities(form: OutputForm, logits: NDArray[np.float64]) -> Array:
    """What the output's activation makes of logits `[outputs]`."""
    powers = np.exp(logits)
    is_sigmoid = form.objective.loss.rule.activation == "sigmoid"
    return (powers / (1.0 + powers if is_sigmoid else powers.sum())).astype(np.float32)


def _log_priors(
    examples: Examples, forms: tuple[OutputForm, ...], network: Network, should_stop: Callable[[], bool]
) -> dict[int, NDArray[np.float64]]:
    """For each output whose logits are adjusted, by its number, what its classes' frequencies come to in logits
    `[outputs]`: log odds of each output of a sigmoid, else the log of p times the number of classes, so that classes
    that are frequent alike have 0. Other outputs' labels need not be of classes at all.

    Examples count as they do in training, and padded places do not.
    """
    seen = examples if network.output_masks else examples.with_arrays({}, examples.labels)
    wanted = {output: form for output, form in enumerate(forms) if form.objective.logit_adjustment}
    totals = {output: np.zeros(form.shape[-1]) for output, form in wanted.items()}
    counts = dict.fromkeys(wanted, 0.0)
    for part in seen.parts():
        if should_stop():
            raise TrainingStopped("stopped while classes were counted")
        importance = importance_of(part, forms)
        places = counted_places(network, list(part.inputs.values()))
        for output, form in wanted.items():
            weight = None if importance is None else importance[:, output]
            total, count = _count(part, form, weight, places[output])
            totals[output] += total
            counts[output] += count
    return {output: _logits(form, totals[output], counts[output]) for output, form in wanted.items()}


def _count(
    part: Dataset, form: OutputForm, weight: NDArray[np.float32] | None, counted: Counted | None
) -> tuple[NDArray[np.float64], float]:
    """The sum of an output's targets `[outputs]`, and of what its places count."""
    labels, classes = part.labels[form.array], form.shape[-1]
    one_for_each = form.objective.loss.rule.labels is LabelForm.CLASS_NUMBERS
    counts = np.ones(labels.shape if one_for_each else labels.shape[:-1])
    if counted is not None:
        counts *= counted
    if weight is not None:
        counts *= weight.reshape(-1, *[1] * (counts.ndim - 1))
    if one_for_each:
        total = np.bincount(labels.ravel(), counts.ravel(), minlength=classes)[:classes].astype(np.float64)
    else:
        total = counts.ravel() @ labels.reshape(-1, classes).astype(np.float64)
    return total, float(counts.sum())


def _logits(form: OutputForm, total: NDArray[np.float64], count: float) -> NDArray[np.float64]:
    if form.objective.loss.rule.activation == "sigmoid":
        odds: NDArray[np.float64] = (total + _ADDED) / (count - total + _ADDED)
        return np.log(odds)
    return np.log((total + _ADDED) * len(total) / (count + len(total) * _ADDED))
