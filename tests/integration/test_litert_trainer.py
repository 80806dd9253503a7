"""The trainer without TensorFlow gives what the keras trainer gives: over rounds, for both mask policies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from keras_bundles import (
    bundle_of,
    learnable,
    mobile,
    perceptron,
    relabelled,
    seeded,
    weights_of,
    with_dropout,
)

from edge_agent.trainers import Slots, Trained, Trainer, Work
from edge_agent.trainers.keras import KerasTrainer
from edge_agent.trainers.litert import LiteRTTrainer
from export.models import cnn_108k
from fedprune.data import Dataset
from fedprune.errors import TaskError
from fedprune.keras.stack import keras
from fedprune.model.losses import Loss
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Weights
from fedprune.pruning.masks import Allocation, apply_mask, full_mask, score_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.regrowth import most_votes
from fedprune.pruning.schedules import PolynomialDecay
from fedprune.task.bundle import Bundle
from fedprune.task.learning_rates import CosineDecay
from fedprune.task.training import Adam, Sgd
from tests.closeness import assert_close

ROUNDS, STEPS = 3, 6
TOLERANCE = 1e-4
"""Adam moves a weight by 2e-3 however small its gradient is: this is a twentieth of a step, where rounding decides."""
NORMALISED_TOLERANCE = 5e-4
"""Of networks with BatchNormalization, whose rounding errors grow from step to step. TensorFlow adds up in no certain
order on several threads: after 18 steps of Adam, each of 2e-3, a weight was 1.5e-5 off in some runs, 1e-4 in one."""

# Masks are updated at steps 1, 4, 7, …: on the first step of each round, inside rounds, and not at their last steps.
PRUNING = PolynomialDecay(begin_step=1, end_step=16, frequency=3, initial_sparsity=0.2, target_sparsity=0.8)


def branches() -> Any:
    """Logits; two branches that meet in a sum, so that their biases have one and the same gradient."""
    x = keras.layers.Input((8, 8, 1))
    parts = [keras.layers.Conv2D(4, size, padding="same", bias_initializer="ones")(x) for size in (1, 3)]
    return keras.Model(x, keras.layers.Dense(4)(keras.layers.Flatten()(keras.layers.Add()(parts))))


MODELS: dict[str, Callable[[], Any]] = {
    "CNN-108k": lambda: cnn_108k((28, 28, 1), 10),
    "mobile": mobile,
    "branches": branches,
}
CASES = {
    "momentum, shared mask": (Sgd(0.02, 0.9), MaskPolicy.SHARED, "keep"),
    "momentum, own mask": (Sgd(0.02, 0.9), MaskPolicy.OWN, "keep"),
    "Nesterov, own mask, reset": (Sgd(0.02, 0.9, True), MaskPolicy.OWN, "reset"),
    "Adam, shared mask, reset": (Adam(0.002), MaskPolicy.SHARED, "reset"),
    "Adam, own mask": (Adam(0.002), MaskPolicy.OWN, "keep"),
}


USUAL = ("momentum, shared mask", "Adam, own mask")
"""The cases of every model in `make test`, which has all of one of them."""


def cases() -> list[Any]:
    return [
        pytest.param(
            model,
            *settings,
            id=f"{name}, {case}",
            marks=() if model is mobile or case in USUAL else (pytest.mark.slow,),
        )
        for name, model in MODELS.items()
        for case, settings in CASES.items()
    ]


@pytest.mark.parametrize(("build", "optimizer", "policy", "state"), cases())
def test_rounds_equal_the_keras_trainers(
    build: Callable[[], Any], optimizer: Sgd | Adam, policy: MaskPolicy, state: str
) -> None:
    model = seeded(build())
    bundle = bundle_of(model, PRUNING, mask=policy, optimizer=optimizer, steps_per_round=STEPS)
    data = learnable(70, shape=bundle.network.inputs[0], classes=bundle.task.outputs[0].shape[-1])

    tolerance = NORMALISED_TOLERANCE if build is mobile else TOLERANCE
    theirs, ours = rounds_of_both(bundle, weights_of(model), data, state, tolerance)

    for expected, found in zip(theirs, ours, strict=True):
        for name, kept in expected.mask.items():
            np.testing.assert_array_equal(found.mask[name], kept, err_msg=name)
    assert any(not kept.all() for kept in ours[-1].mask.values())


@pytest.mark.parametrize(
    ("alpha", "optimizer", "policy"),
    [(2.0, Sgd(0.05, 0.9), MaskPolicy.SHARED), (1.5, Adam(0.002), MaskPolicy.OWN)],
)
def test_rounds_with_powerpropagation_equal_the_keras_trainers(
    alpha: float, optimizer: Sgd | Adam, policy: MaskPolicy
) -> None:
    model = seeded(branches())
    bundle = bundle_of(model, PRUNING, mask=policy, optimizer=optimizer, steps_per_round=STEPS, powerpropagation=alpha)
    data = learnable(70, shape=bundle.network.inputs[0], classes=bundle.task.outputs[0].shape[-1])

    theirs, ours = rounds_of_both(bundle, weights_of(model), data, "keep", TOLERANCE)

    for expected, found in zip(theirs, ours, strict=True):
        for name, kept in expected.mask.items():
            np.testing.assert_array_equal(found.mask[name], kept, err_msg=name)


LOSSES = {
    "classes": (Loss.SPARSE_CATEGORICAL_CROSSENTROPY, 4, "linear"),
    "classes, softmax": (Loss.SPARSE_CATEGORICAL_CROSSENTROPY, 4, "softmax"),
    "one-hot": (Loss.CATEGORICAL_CROSSENTROPY, 4, "linear"),
    "one-hot, softmax": (Loss.CATEGORICAL_CROSSENTROPY, 4, "softmax"),
    "binary": (Loss.BINARY_CROSSENTROPY, 1, "linear"),
    "multi-label, sigmoid": (Loss.BINARY_CROSSENTROPY, 3, "sigmoid"),
    "one number": (Loss.MEAN_SQUARED_ERROR, 1, "linear"),
    "numbers, tanh": (Loss.MEAN_SQUARED_ERROR, 3, "tanh"),
}


def regularised(outputs: int, end: str) -> Any:
    """L1 and L2, of kernels and a bias."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(5, 3, strides=2, activation="relu", kernel_regularizer="l1"),
            layers.Flatten(),
            layers.Dense(9, "tanh", kernel_regularizer="l1_l2", bias_regularizer="l2"),
            layers.Dense(outputs, end, kernel_regularizer="l2"),
        ]
    )


@pytest.mark.parametrize(
    ("policy", "state", "mu"),
    [
        (MaskPolicy.SHARED, "reset", 0.5),
        (MaskPolicy.OWN, "keep", 0.0),
        pytest.param(MaskPolicy.SHARED, "reset", 0.0, marks=pytest.mark.slow),
        pytest.param(MaskPolicy.OWN, "keep", 0.5, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("loss", "outputs", "end"), LOSSES.values(), ids=LOSSES.keys())
def test_every_loss_is_the_keras_trainers(
    loss: Loss, outputs: int, end: str, policy: MaskPolicy, state: str, mu: float
) -> None:
    model = seeded(regularised(outputs, end))
    bundle = bundle_of(
        model, PRUNING, mask=policy, steps_per_round=STEPS, loss=loss, proximal_mu=mu,
        from_logits=end == "linear" and loss is not Loss.MEAN_SQUARED_ERROR,
    )  # fmt: skip
    data = relabelled(learnable(70), loss, outputs)

    _, ours = rounds_of_both(bundle, weights_of(model), data, state, TOLERANCE)

    assert ours[-1].loss < ours[0].loss


@pytest.mark.parametrize("optimizer", [Sgd(0.02, 0.9), Adam(0.002)], ids=["momentum", "Adam"])
def test_the_learning_rate_decays_to_nothing_as_the_keras_trainers(optimizer: Sgd | Adam) -> None:
    model, data = seeded(perceptron()), learnable(50)
    decay = CosineDecay(end_round=ROUNDS - 1)
    bundle = bundle_of(model, PRUNING, mask=MaskPolicy.SHARED, optimizer=optimizer, steps_per_round=STEPS, decay=decay)

    _, ours = rounds_of_both(bundle, weights_of(model), data, "reset", TOLERANCE)

    *_, before, last = ours
    for name, weights in last.weights.items():
        np.testing.assert_array_equal(weights, before.weights[name] * last.mask.get(name, np.True_), err_msg=name)
    assert ours[1].loss < ours[0].loss


def rounds_of_both(
    bundle: Bundle, weights: Weights, data: Dataset, state: str, tolerance: float
) -> tuple[list[Trained], list[Trained]]:
    """The rounds of the keras and of the litert trainer, which have equal losses, weights and slots."""
    theirs = rounds(KerasTrainer(bundle, threads=1), bundle, weights, data, state)
    ours = rounds(LiteRTTrainer(bundle, examples=len(data), threads=1), bundle, weights, data, state)
    for expected, found in zip(theirs, ours, strict=True):
        assert found.loss == pytest.approx(expected.loss, abs=tolerance)
        assert_close(found.weights, expected.weights, tolerance)
        assert_close(found.slots, expected.slots, tolerance)
    return theirs, ours


def rounds(trainer: Trainer, bundle: Bundle, weights: Weights, data: Dataset, state: str) -> list[Trained]:
    """Rounds of one agent whose gateway takes its weights as they are, and prunes them to the schedule."""
    made: list[Trained] = []
    slots: Slots | None = None
    for number in range(ROUNDS):
        sparsity = PRUNING.sparsity_in_force(number * STEPS)
        mask = score_mask(weights, bundle.task.table, sparsity, Allocation.UNIFORM, full_mask(bundle.task.table))
        work = Work(apply_mask(weights, mask), mask, number * STEPS, slots, Keyed(3, number))
        made.append(trainer.train(work, data))
        weights, slots = made[-1].weights, reordered(made[-1].slots) if state == "keep" else None
    return made


@pytest.mark.parametrize("optimizer", [Sgd(0.02, 0.9), Adam(0.002)])
def test_both_trainers_vote_for_the_same_pruned_weights(optimizer: Sgd | Adam) -> None:
    model, data = seeded(branches()), learnable(70)
    bundle = bundle_of(model, PRUNING, mask=MaskPolicy.SHARED, optimizer=optimizer, steps_per_round=STEPS)
    table, weights = bundle.task.table, weights_of(model)
    mask = score_mask(weights, table, 0.6, Allocation.UNIFORM, full_mask(table))
    most = most_votes(mask, 0.3)

    theirs, ours = (
        trainer.train(Work(apply_mask(weights, mask), mask, 0, None, Keyed(3), most_votes=most), data).votes
        for trainer in (KerasTrainer(bundle, threads=1), LiteRTTrainer(bundle, examples=len(data), threads=1))
    )

    assert theirs.keys() == ours.keys() == most.keys()
    for name, count in most.items():
        expected, found = theirs[name].astype(int), ours[name].astype(int)
        named = (expected != 0) & (found != 0)
        assert np.count_nonzero(named) >= 0.9 * count - 1  # at the last places rounding decides
        assert np.abs(expected - found)[named].max() <= 2


def reordered(slots: Slots) -> Slots:
    """As they come back from the disk."""
    return dict(sorted(slots.items()))


def test_an_agent_may_change_its_trainer_between_rounds() -> None:
    """What one trainer keeps, the other goes on with."""
    model, data = seeded(perceptron()), learnable(50)
    bundle = bundle_of(model, PRUNING, mask=MaskPolicy.OWN, optimizer=Adam(0.01))
    first, second = KerasTrainer(bundle, threads=1), LiteRTTrainer(bundle, examples=len(data), threads=1)
    start = rounds(first, bundle, weights_of(model), data, "keep")[0]
    work = Work(start.weights, start.mask, STEPS, start.slots, Keyed(4))

    assert_close(second.train(work, data).weights, first.train(replace(work, keyed=Keyed(4)), data).weights, TOLERANCE)


def test_dropout_drops_its_share() -> None:
    """At a learning rate of nothing, a half of the hidden units gets no gradient from a single example a step."""
    model, data = seeded(with_dropout()), learnable(1)
    bundle = bundle_of(
        model, PRUNING, mask=MaskPolicy.SHARED, optimizer=Sgd(1e-6, 0.0), steps_per_round=1, batch_size=1,
        from_logits=False,
    )  # fmt: skip
    trainer, weights = LiteRTTrainer(bundle, examples=len(data), threads=1), weights_of(model)
    work = Work(weights, full_mask(bundle.task.table), 0, None, Keyed(9))

    moved = np.array([np.any(trainer.train(work, data).slots["optimizer/3"], axis=1) for _ in range(400)])

    alive = moved.any(axis=0)
    assert alive.sum() > 5
    assert moved[:, alive].mean() == pytest.approx(0.5, abs=0.03)


def without_graph(bundle: Bundle) -> Bundle:
    return replace(bundle, graphs=())


def with_other_batches(bundle: Bundle) -> Bundle:
    other = bundle_of(perceptron(), PRUNING, mask=MaskPolicy.SHARED, batch_size=3)
    return replace(bundle, graphs=(msgspec.structs.replace(bundle.graphs[0], sha256=other.graphs[0].sha256),))


@pytest.mark.parametrize("spoil", [without_graph, with_other_batches])
def test_a_bundle_that_does_not_fit_is_refused_in_one_line(spoil: Callable[[Bundle], Bundle]) -> None:
    bundle = bundle_of(perceptron(), PRUNING, mask=MaskPolicy.SHARED)

    with pytest.raises(TaskError) as caught:
        LiteRTTrainer(spoil(bundle), examples=50, threads=1)

    assert "\n" not in str(caught.value)
