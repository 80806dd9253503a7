"""One round on the device: only from the model that was meant, only as the gateway asks."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_agent.local_round import LocalResult, LocalRound, owed_since
from edge_agent.local_training import train_locally
from edge_agent.trainers import Trained, Work
from fedprune.codecs import Key, Values, decode_update, encode_model, parse_codec
from fedprune.data import Dataset
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Array, TensorClass, weights_digest
from fedprune.pruning.masks import full_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.task.bundle import Bundle
from fedprune.wire.messages import Assignment, LeftOut, decode, encode
from fedprune.wire.transfer import content_of
from tests.samples import assignment, changed, digest
from tests.simulation.stand_ins import DATA, make_bundle

BUNDLE = make_bundle(MaskPolicy.SHARED)
WEIGHTS = BUNDLE.initial_weights()
MASK = full_mask(BUNDLE.task.table)
MODEL = encode_model(WEIGHTS, MASK, BUNDLE.task.table, Values.FP32)


class WatchedTrainer:
    """Moves every weight by 0.25, and keeps the work that it was given."""

    def __init__(self) -> None:
        self.works: list[Work] = []

    def train(self, work: Work, _: Dataset) -> Trained:
        self.works.append(work)
        moved = {name: array + np.float32(0.25) for name, array in work.weights.items()}
        return Trained(moved, work.mask, {"momentum": np.ones(3)}, loss=3e38, seconds=2.0, steps=5)


def asked(**changes: object) -> Assignment:
    right = {"weights_digest": bytes.fromhex(weights_digest(WEIGHTS)), "codec": "mask | fp32"}
    return changed(assignment(3), **{**right, **changes})


def do_round(
    trainer: WatchedTrainer, bundle: Bundle = BUNDLE, *, model: bytes = MODEL, agent: str = "pi-1", **changes: object
) -> LocalResult:
    return train_locally(LocalRound(agent, asked(**changes), model, lambda: None, None, 40.0), bundle, trainer, DATA)


def test_what_is_submitted_is_what_was_learned() -> None:
    trainer = WatchedTrainer()

    result = do_round(trainer)

    submit = result.submit
    assert (submit.run, submit.round, submit.examples, submit.train_hundredths) == (asked().run, 3, len(DATA), 200)
    assert submit.update == content_of(result.update.blob)
    assert decode(type(submit), encode(submit)).loss == pytest.approx(3e38), "it takes any loss that a trainer may have"
    key = Key(asked().known.seed, asked().round, "pi-1")
    update = decode_update(result.update.blob, BUNDLE.task.table, MASK, parse_codec("mask | fp32"), key)
    assert all((delta == 0.25).all() for delta in update.delta.values())
    (work,) = trainer.works
    assert work.schedule_step == asked().schedule_step
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(work.weights[name], array)


def test_neither_base_nor_trained_model_is_held_once_the_residual_is_read() -> None:
    class Forgetful(WatchedTrainer):
        def train(self, work: Work, data: Dataset) -> Trained:
            trained = super().train(work, data)
            self.works.clear()
            held.extend(weakref.ref(array) for array in (*work.weights.values(), *trained.weights.values()))
            return trained

    def read_residual() -> None:
        trainable = [spec.name for spec in BUNDLE.task.table.of(TensorClass.PRUNABLE, TensorClass.DENSE)]
        rows = [spec.name in trainable for spec in BUNDLE.task.table]
        assert len(held) == 2 * len(rows)
        assert all(array() is None for array, is_trainable in zip(held, rows * 2, strict=True) if is_trainable)
        read.append(True)

    held: list[weakref.ref[Array]] = []
    read: list[bool] = []
    train_locally(LocalRound("pi-1", asked(), MODEL, read_residual, None, 40.0), BUNDLE, Forgetful(), DATA)
    assert read == [True]


def test_what_is_drawn_depends_on_seed_round_and_agent() -> None:
    trainer = WatchedTrainer()
    for changes in ({}, {"seed": 8}, {"round": 4}):
        do_round(trainer, **changes)
    do_round(trainer, agent="pi-2")
    do_round(trainer)

    drawn = [int(work.keyed.integers(1)[0]) for work in trainer.works]
    assert len(set(drawn)) == 4
    assert drawn[0] == drawn[-1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights_digest": digest("another")}, "the decoded model's digest is not the gateway's"),
        ({"model": b""}, "truncated"),
        ({"model": MODEL[:-1]}, "truncated"),
        ({"codec": "mask | int4"}, "asks for a codec that this version does not have: codec: 'int4' is unknown"),
    ],
)
def test_nothing_is_trained_that_would_be_in_vain(changes: dict[str, Any], said: str) -> None:
    trainer = WatchedTrainer()

    with pytest.raises(ProtocolError, match=said):
        do_round(trainer, **changes)
    assert trainer.works == []


def test_optimizer_slots_are_kept_only_if_the_task_says_so() -> None:
    training = msgspec.structs.replace(BUNDLE.task.training, optimizer_state="keep")
    keeping = replace(BUNDLE, task=msgspec.structs.replace(BUNDLE.task, training=training))

    assert do_round(WatchedTrainer()).slots is None
    kept = do_round(WatchedTrainer(), keeping).slots
    assert kept is not None
    assert list(kept) == ["momentum"]


def test_a_submit_says_what_range_the_inputs_have() -> None:
    data = Dataset(np.array([[-150.0], [100.0], [20.0]], np.float32), np.zeros(3, np.int64))

    local = LocalRound("pi-1", asked(), MODEL, lambda: None, None, 40.0)
    submit = train_locally(local, BUNDLE, WatchedTrainer(), data).submit
    assert (submit.x_mean, submit.x_largest) == (-10.0, 150.0)


def test_what_a_left_out_round_owes_does_not_count_any_more() -> None:
    assert owed_since(asked()) == 0
    assert owed_since(asked(left_out=LeftOut(round=2, why="it is huge"))) == 3
