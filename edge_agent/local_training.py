"""One round on the device, from the assignment to the update's bytes: decode, check, train, encode."""

from __future__ import annotations

import math
from collections.abc import Callable

from edge_agent.evaluating import evaluate_global
from edge_agent.local_round import LocalResult, LocalRound
from edge_agent.logit_adjustment import adjusted
from edge_agent.owed import Owed
from edge_agent.round_model import round_model
from edge_agent.trainers import Trainer, Work, never
from edge_agent.trainers.divergence import TrainingDiverged
from edge_agent.updates import prepare_update, take_delta
from fedprune.codecs import NO_HISTORY, Codec, Key, moved_since, parse_codec, recall
from fedprune.data import Examples
from fedprune.errors import ProtocolError, TrainingError
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Weights
from fedprune.system.usage import peak_memory_mb
from fedprune.task.bundle import Bundle
from fedprune.task.forms import Form
from fedprune.task.versions import asked_votes
from fedprune.wire.messages import Submit
from fedprune.wire.transfer import content_of


def train_locally(
    local: LocalRound,
    bundle: Bundle,
    trainer: Trainer,
    data: Examples,
    should_stop: Callable[[], bool] = never,
    held_out: Examples | None = None,
    keep: Callable[[Weights, Form], object] = lambda *_: None,
) -> LocalResult:
    """Do the round, until `should_stop` says that nobody wants it. The model is evaluated on `held_out`, if there is;
    `keep` gets the weights that were trained, and their form.

    Raises:
      ProtocolError: the model is not the one the gateway described (`UnusableBase`: what the agent holds is not).
      TaskError: the bundle's frozen tensors do not fit its table.
      TrainingStopped: it was stopped between two steps, two batches of the evaluation, or two parts of the data whose
        classes are counted.
      TrainingError: the trainer could not train. If that is since training diverged, it tells the largest |x|.
    """
    assignment = local.assignment
    codec = _codec(assignment.known.codec)
    model = round_model(local.model, assignment, bundle, local.held, should_stop)
    form, weights, mask = model.form, model.weights, model.mask
    del model
    table, owed = form.task.table, Owed(local, bundle.forms, form)
    weights |= owed.local()
    key = Key(assignment.known.seed, assignment.round, local.agent)
    evaluated = None if held_out is None else evaluate_global(weights, bundle.in_form(form), held_out, should_stop)
    keyed = Keyed(assignment.known.seed, assignment.round, local.agent, "training")
    votes = asked_votes(form.task, assignment.round, mask)
    known_mask = bundle.task.pruning.mask.rules.known_mask(mask)
    first = bundle.forms.drawn_in(form) if codec.asks_what_moved else None
    moved = moved_since(first, weights, table)
    del first
    start = adjusted(weights, bundle.in_form(form), data, should_stop)
    weights, spread = start.weights, start.spread
    del start
    work = Work(weights, mask, assignment.schedule_step, owed.slots(), keyed, should_stop, form, votes, spread)
    try:
        trained = trainer.train(work, data)
        keep(trained.weights, form)
        learned, loss, seconds = take_delta(weights, trained, table), trained.loss, trained.seconds
        steps = trained.steps
        slots = trained.slots if bundle.task.training.optimizer_state == "keep" else None
        own = {spec.name: trained.weights[spec.name] for spec in table.local} or None
        del weights, work, trained  # a device has no room for them beside what follows
        history = recall(local.remembered, table) if codec.remembers else NO_HISTORY
        update = prepare_update(learned, owed.residual(), table, codec, key, known_mask, moved, history)
    except TrainingDiverged as error:
        raise TrainingError(
            f"{error}, or scale this device's examples as the others': their largest |x| is {data.x_largest:.3g}"
        ) from error
    submit = Submit(
        run=assignment.run,
        round=assignment.round,
        update=content_of(update.blob),
        examples=len(data),
        local_steps=steps,
        loss=loss,
        train_hundredths=math.ceil(100 * seconds),
        idle_memory_mb=round(local.idle_memory_mb),
        peak_memory_mb=round(peak_memory_mb()),
        x_mean=data.x_mean,
        x_largest=data.x_largest,
        evaluated=evaluated,
    )
    return LocalResult(submit, update, slots, own, form.name)


def _codec(description: str) -> Codec:
    try:
        return parse_codec(description)
    except ValueError as error:
        raise ProtocolError(f"the gateway asks for a codec that this version does not have: {error}") from None
