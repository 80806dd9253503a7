"""How a federation learns: defaults for a model and its data, each of which stands in the files to be changed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from export.scaffold.data_look import DataLook
from export.scaffold.describing import Described
from export.scaffold.model_look import ModelLook, OutputLook
from export.scaffold.questions import Questions
from export.scaffold.statistics import Statistics, look_closely
from export.scaffold.targets import loss_given, loss_of_arrays
from fedprune.data.dataset import Dataset
from fedprune.data.description import Data, Standard
from fedprune.data.fit import fit_to
from fedprune.data.normalization import with_normalization
from fedprune.errors import DataError, TaskError
from fedprune.model.forms import InputForm, OutputForm
from fedprune.model.losses import LabelForm, Loss, Objective

_BATCHES = (32, 16, 8)
"""Those that training graphs are proven for; an agent's examples should fill two of them."""
_FEWEST_STEPS, _MOST_STEPS = 20, 200
"""Local steps: an epoch, but so many at least where there are few examples, and so many at most."""
_PRUNING_BEGINS, _PRUNING_ENDS = 0.1, 0.5
"""The part of the rounds over which sparsity grows; the rest fine-tunes the pruned model."""
_SPARSITY, _SMALL_SPARSITY = 0.8, 0.5
_SMALL = 10_000
"""Weights below which a model has few to spare."""
_LEARNED_ON = 0.8
"""The part of its examples that an agent trains on; it holds the rest out."""


@dataclass(frozen=True)
class Wishes:
    """What options say; None is for init to choose."""

    agents: int
    rounds: int
    sparsity: float | None


@dataclass(frozen=True)
class Plan:
    """All that the files say beside the model."""

    data: Data
    loss: Loss
    batch_size: int
    steps_per_round: int
    sparsity: float
    begin_round: int
    end_round: int
    rounds: int
    agents: int
    examples: int
    notes: tuple[str, ...]


def make_plan(
    path: Path,
    look: DataLook,
    described: Described,
    model: ModelLook,
    questions: Questions,
    wishes: Wishes,
) -> Plan:
    """Raises `DataError` for data of which nothing can be used, `TaskError` where they do not fit the model."""
    statistics = look_closely(path, look, described, model)
    loss = loss_given(questions, described.loss or _loss_of(statistics, model))
    if statistics.dataset is not None:
        _check_fit(statistics.dataset, model, loss)
    each = max(1, math.floor(_LEARNED_ON * statistics.examples / wishes.agents))
    batch_size = next((size for size in _BATCHES if 2 * size <= each), _BATCHES[-1])
    begin = round(wishes.rounds * _PRUNING_BEGINS)
    usual = _SPARSITY if model.prunable >= _SMALL else _SMALL_SPARSITY
    return Plan(
        data=_normalized(described.data, statistics, loss),
        loss=loss,
        batch_size=batch_size,
        steps_per_round=min(max(math.ceil(each / batch_size), _FEWEST_STEPS), _MOST_STEPS),
        sparsity=0.0 if not model.prunable else usual if wishes.sparsity is None else wishes.sparsity,
        begin_round=begin,
        end_round=min(wishes.rounds, max(begin + 1, round(wishes.rounds * _PRUNING_ENDS))),
        rounds=wishes.rounds,
        agents=wishes.agents,
        examples=statistics.examples,
        notes=(*statistics.notes, *_few(statistics, wishes), *_unpruned(model)),
    )


def _normalized(data: Data, statistics: Statistics, loss: Loss) -> Data:
    """The form with what suits its numbers. Of a regression the devices tell: what they measure is not known here."""
    if loss.rule.labels is not LabelForm.NUMBERS:
        return with_normalization(data, statistics.normalize, None)
    inputs = statistics.normalize
    if isinstance(inputs, Standard):
        inputs = Standard(statistics="federated")
    return with_normalization(data, inputs, statistics.targets)


def _loss_of(statistics: Statistics, model: ModelLook) -> Loss:
    if len(model.inputs) == len(model.outputs) == 1 and statistics.dataset is not None:
        _check_names(statistics.dataset)
    if statistics.dataset is None or set(statistics.dataset.labels) != {"y"} or len(model.outputs) > 1:
        raise TaskError(
            f"model {model.name!r} or its data have several inputs or outputs: write task.toml by docs/SETTINGS.md, "
            "with a loss for each output"
        )
    return loss_of_arrays(model.outputs[0], statistics.dataset)


def _check_names(dataset: Dataset) -> None:
    """Raise `DataError` for arrays of several inputs or outputs, which the model does not have."""
    names = [*dataset.inputs, *dataset.labels]
    if names != ["x", "y"]:
        raise DataError(
            f"{dataset.origin}: it holds {', '.join(names)[:80]}, and the model takes one array and learns one; save "
            "those to learn from as arrays x and y"
        )


def _check_fit(dataset: Dataset, model: ModelLook, loss: Loss) -> None:
    """Raises `DataError`, which says how to mend, unless the model takes the examples and learns their labels."""
    inputs = InputForm("x", model.inputs[0], model.vocabularies[0])
    output: OutputLook = model.outputs[0]
    fit_to(
        dataset, [inputs], [OutputForm("y", output.shape, Objective(loss, from_logits=output.activation == "linear"))]
    )


def _few(statistics: Statistics, wishes: Wishes) -> list[str]:
    if statistics.examples < 2 * wishes.agents:
        raise DataError(
            f"{statistics.examples} examples are too few for {wishes.agents} agents; name more data, or fewer --agents"
        )
    if statistics.examples < 20 * wishes.agents:
        return [f"{statistics.examples} examples are few for {wishes.agents} agents"]
    return []


def _unpruned(model: ModelLook) -> list[str]:
    return [] if model.prunable else [f"model {model.name!r} has no weights that can be pruned: it is trained dense"]
