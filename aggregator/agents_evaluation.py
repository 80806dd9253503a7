"""The agents' evaluations of a round's model, together: one evaluation, and how far the agents are apart.

A gateway without held-out examples knows by these alone how good a model is: one round later than by its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aggregator.book import AcceptedUpdate, RoundRecord, Spread
from aggregator.merging import MOST_PART_UPDATES
from fedprune.errors import ProtocolError
from fedprune.model.forms import OutputForm
from fedprune.model.metrics import metric_named
from fedprune.task.bundle import Task
from fedprune.task.evaluation import Evaluation, EvaluationTally, LossScale, LossTally
from fedprune.task.tallies import MOST_SUMMED, have_room, pack_unpacked, unpack_tallies
from fedprune.wire.messages import Evaluated, Submit

LOSS = "loss"

assert MOST_PART_UPDATES <= MOST_SUMMED, "tallies have room for each other"


@dataclass(frozen=True)
class AgentsEvaluation:
    """The evaluation of all agents' examples together, and the spread over agents of the loss and of each metric that
    is defined, by name. Without examples, or with a loss that is finite for nobody, the loss is NaN and all else empty;
    `examples` is 0 where nobody has evaluated."""

    evaluation: Evaluation
    spreads: dict[str, Spread]


def check_evaluated(submit: Submit, task: Task) -> None:
    """Raise `ProtocolError` for an evaluation that cannot be: of more examples than trained, or of other metrics."""
    evaluated = submit.evaluated
    if evaluated is None:
        return
    if evaluated.examples > submit.examples:
        raise ProtocolError(f"its evaluation is of {evaluated.examples} examples, its training of {submit.examples}")
    if evaluated.loss is not None:
        unpack_tallies(evaluated.tallies, task, evaluated.examples)


def agents_evaluation(updates: Mapping[str, AcceptedUpdate], task: Task) -> AgentsEvaluation:
    """Put together the evaluations that came with a round's updates. None weighs more than its update does.

    Agents for whom the loss is not finite count only if it is for nobody: one device's data may make it so. Tallies are
    read one after another, since those of a large cohort take much memory.
    """
    total: EvaluationTally | None = None
    figures: dict[str, dict[str, float]] = {}
    evaluated = [(agent, update) for agent, update in sorted(updates.items()) if update.evaluated_examples]
    for agent, update in evaluated:
        if update.evaluated_loss is None:
            continue
        tally = _tally(update, update.evaluated_loss, task)
        total = tally if total is None else total + tally
        found = tally.evaluation
        for name, value in {**found.metrics, LOSS: found.loss}.items():
            if value is not None:
                figures.setdefault(name, {})[agent] = value
    spreads = {name: _spread(each, larger_is_better=_larger_is_better(name)) for name, each in figures.items()}
    if total is None:
        return AgentsEvaluation(Evaluation(len(evaluated), math.nan, {}), spreads)
    return AgentsEvaluation(total.evaluation, spreads)


def evaluated_together(updates: Mapping[str, AcceptedUpdate], task: Task) -> Evaluated | None:
    """The evaluations that came with updates as one agent would tell it; None if nobody's counts. Its tallies may be
    more than an agent may send.

    An agent whose update weighs less than it evaluated on is passed over: there are no fractions of counts. So is one
    for which there is no room in what may be told.
    """
    total: EvaluationTally | None = None
    for _, update in sorted(updates.items()):
        if update.evaluated_loss is None or not 0 < update.evaluated_examples <= update.weight:
            continue
        tally = _tally(update, update.evaluated_loss, task)
        together = tally if total is None else total + tally
        total = together if have_room(together.metrics) else total
    if total is None:
        return None
    return Evaluated(examples=total.examples, loss=total.losses[0].mean, tallies=pack_unpacked(total.metrics))


def loss_scale(task: Task, records: Sequence[RoundRecord]) -> LossScale:
    """The scale of losses where no labels are at hand: of a crossentropy, an answer that knows nothing costs no more
    than equal probabilities do. Where an output has another loss, what the model cost before anything was learned
    stands in."""
    costs = [_cost_of_equal_probabilities(form) for form in task.output_forms]
    known = [cost for cost in costs if cost is not None]
    first = next((record.loss for record in records if record.loss is not None), 0.0)
    constant = sum(known) if len(known) == len(costs) else first
    return LossScale(constant, sum(objective.weight * objective.ceiling for objective in task.objectives))


def _cost_of_equal_probabilities(form: OutputForm) -> float | None:
    """The output's part of the loss, weighted."""
    match form.objective.loss.rule.activation:
        case "softmax":
            return form.objective.weight * math.log(form.shape[-1])
        case "sigmoid":
            return form.objective.weight * math.log(2.0)
        case None:
            return None


def _tally(update: AcceptedUpdate, loss: float, task: Task) -> EvaluationTally:
    examples = min(update.evaluated_examples, update.weight)
    share = examples / update.evaluated_examples
    tallies = unpack_tallies(update.tallies, task, update.evaluated_examples)
    weighted = {name: tally if share == 1.0 else tally * np.float64(share) for name, tally in tallies.items()}
    return EvaluationTally(examples, (LossTally(loss * examples, examples),), weighted)


def _larger_is_better(name: str) -> bool:
    return name != LOSS and metric_named(name).larger_is_better


def _spread(values: Mapping[str, float], *, larger_is_better: bool) -> Spread:
    """Quartiles as numpy interpolates them (Hyndman and Fan 1996, "Sample quantiles in statistical packages", type 7).
    Of agents that are equally bad the first by name is named."""
    sign = 1.0 if larger_is_better else -1.0
    goodness = np.array(list(values.values())) * sign
    worst, *quartiles, best = (float(each) * sign for each in np.quantile(goodness, (0, 0.25, 0.5, 0.75, 1)))
    named = list(values)[int(goodness.argmin())]
    return Spread(len(values), worst, (quartiles[0], quartiles[1], quartiles[2]), best, named)
