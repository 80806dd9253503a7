"""The model of a round, from what was fetched for it and from what the agent holds: decoded, checked, and held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.held_model import Held, UnusableBase
from edge_agent.trainers import TrainingStopped, never
from fedprune.codecs import (
    NOTHING_SENT,
    DecodedModel,
    ModelCodec,
    Values,
    apply_delta,
    decode_replay,
    delta_key,
    encode_model,
    moved_since,
    parse_model_codec,
)
from fedprune.errors import ProtocolError, StorageError, TaskError
from fedprune.model.tensors import Array, Mask, weights_digest
from fedprune.pruning.masks import apply_mask
from fedprune.task.bundle import Bundle
from fedprune.task.forms import Form
from fedprune.task.succession import first_version, following_version
from fedprune.wire.messages import Assignment


@dataclass(frozen=True, eq=False)
class RoundModel:
    """The model of a round: the form of the task that it is in, its weights, the task's frozen ones among them, in
    table order, the mask, and what the last deltas to it sent."""

    form: Form
    weights: dict[str, Array]
    mask: Mask
    sent: bytes


def round_model(
    fetched: bytes, assignment: Assignment, bundle: Bundle, held: Held, should_stop: Callable[[], bool] = never
) -> RoundModel:
    """Decode the model of an assignment's round, and hold it from then on where models travel as deltas.

    Args:
        fetched: the content that the assignment names; empty if it names none.
        assignment: says what that is, and the digest that the weights must have.
        bundle: the task's.
        held: what the agent holds.
        should_stop: says between two deltas that nobody wants the model any more.

    Raises:
        TrainingStopped: `should_stop` said so.
        UnusableBase: it was to be made of what is held, which does not lead to it; nothing is held any more.
        ProtocolError: the whole model is not the one that the gateway described.
        TaskError: the bundle's frozen tensors do not fit its table.
    """
    if assignment.base < 0:
        codec = _codec(assignment.known.model_codec)
        model = _checked(*_decoded(fetched, bundle, codec), assignment, bundle)
        if codec.deltas is not None:
            held.keep(assignment.run, assignment.round, fetched)
        return model
    try:
        codec = _codec(assignment.known.model_codec)
        form, decoded, blob = _led_to(fetched, assignment, bundle, codec, held, should_stop)
        model = _checked(form, decoded, assignment, bundle)
    except (StorageError, TrainingStopped):
        raise
    except Exception as error:  # whatever it is, the whole model does not need what fails here
        held.forget()
        raise UnusableBase(f"what this device holds does not lead to the model: {error}") from error
    if blob is not None and codec.deltas is not None:
        held.keep(assignment.run, assignment.round, blob)
    return model


def _decoded(blob: bytes, bundle: Bundle, codec: ModelCodec) -> tuple[Form, DecodedModel]:
    """A whole model and its form."""
    form, model = bundle.forms.read(blob)
    return form, codec.decode(model, form.task.table)


def _checked(form: Form, decoded: DecodedModel, assignment: Assignment, bundle: Bundle) -> RoundModel:
    weights = form.task.table.with_unsent(decoded.weights, form.cut_all(bundle.unsent_weights()))
    if not bytes.fromhex(weights_digest(weights)).startswith(assignment.weights_digest):
        raise ProtocolError("the decoded model's digest is not the gateway's; do both run the same version?")
    return RoundModel(form, weights, decoded.mask, decoded.sent)


def _led_to(
    replay: bytes,
    assignment: Assignment,
    bundle: Bundle,
    codec: ModelCodec,
    held: Held,
    should_stop: Callable[[], bool],
) -> tuple[Form, DecodedModel, bytes | None]:
    """The form of the round's model, the model, and its bytes, or None if these are what is held.

    What is held may be newer than the base: the agent said what it held before a training that was stopped.
    """
    task, base = bundle.task, assignment.base
    steps = assignment.round - base
    if steps < 0 or bool(steps) != bool(replay):
        raise ProtocolError(f"nothing leads from version {base} to {assignment.round}")
    deltas = decode_replay(replay, steps) if replay else []
    found = held.read(assignment.run)
    start, blob = found if found is not None and base <= found[0] <= assignment.round else (base, None)
    is_held = blob is not None and start == assignment.round
    blob = blob or _first(assignment, bundle, codec)
    form, (weights, mask, sent) = _decoded(blob, bundle, codec)
    unsent = bundle.unsent_weights() if deltas else {}
    first = task.drawn_weights() if deltas and codec.deltas is not None and codec.deltas.asks_what_moved else None
    for version, delta in enumerate(deltas[start - base :], start + 1):
        if should_stop():
            raise TrainingStopped(f"task {task.name!r}: stopped at version {version - 1} of the model")
        if codec.deltas is None:
            raise ProtocolError("the gateway sends deltas and does not say by what codec")
        former, known = form, form.task.table.with_unsent(weights, form.cut_all(unsent))
        form, mask = following_version(bundle.forms, former, version - 1, known, mask)
        table, key = form.task.table, delta_key(assignment.known.seed, version)
        base_weights, before = form.carry_all(former, weights), sent if form.is_as(former) else NOTHING_SENT
        moved = moved_since(None if first is None else form.cut_all(first), base_weights, table)
        weights, sent, model = apply_delta(
            base_weights, delta, mask, table, codec.deltas, key, codec.values, moved, before
        )
        blob = form.name + model
    return form, DecodedModel(weights, mask, sent), None if is_held else blob + sent


def _first(assignment: Assignment, bundle: Bundle, codec: ModelCodec) -> bytes:
    """Version 0 of a model with a random start, which follows from the task. Raises `ProtocolError` for any other."""
    task = bundle.task
    if assignment.base or task.initial is None:
        raise ProtocolError(f"version {assignment.base} of the model is not held here")
    try:
        initial = bundle.initial_weights()
    except TaskError as error:
        raise ProtocolError(str(error)) from error
    form, mask = first_version(bundle.forms, initial)
    weights = form.cut_all(apply_mask(initial, mask))
    return form.name + encode_model(weights, form.cut_all(mask), form.task.table, codec.values)


def _codec(description: str) -> ModelCodec:
    """How models travel; whole ones if the gateway does not say."""
    try:
        return parse_model_codec(description or Values.FP16)
    except ValueError as error:
        raise ProtocolError(f"the gateway sends models in a way that this version does not have: {error}") from None
