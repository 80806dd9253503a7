"""The trainers: what a round is, that nothing else leaks into it, and that they cannot be told apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pytest
from keras_bundles import (
    CLASSES,
    bundle_of,
    convolutional,
    keras_optimizer,
    learnable,
    mobile,
    perceptron,
    seeded,
    weights_of,
    with_dropout,
)

from edge_agent.trainers import Trainer, Work
from edge_agent.trainers.batches import draw_batches
from edge_agent.trainers.choice import make_trainer
from edge_agent.trainers.keras import KerasTrainer
from fedprune.data import Dataset
from fedprune.errors import TaskError, TrainingError
from fedprune.keras.stack import keras, tf
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, TensorClass, Weights
from fedprune.network.description import Call
from fedprune.pruning.masks import Allocation, apply_mask, full_mask, score_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity, PolynomialDecay
from fedprune.task.bundle import Bundle
from fedprune.task.training import Adam, Sgd
from tests.closeness import assert_close

STEPS, BATCH, EXAMPLES = 6, 16, 50
DENSE = ConstantSparsity(begin_step=1, frequency=2, target_sparsity=0.0)
EAGER_TO_PRUNE = PolynomialDecay(begin_step=1, end_step=100, frequency=1, initial_sparsity=0.5, target_sparsity=0.9)


MakeTrainer = Callable[[Bundle], Trainer]


@pytest.fixture(params=["keras", "litert"])
def make(request: pytest.FixtureRequest) -> MakeTrainer:
    return partial(make_trainer, request.param, examples=50, threads=1)


def work_of(bundle: Bundle, weights: Weights, *key: int, **changes: Any) -> Work:
    return replace(Work(weights, full_mask(bundle.task.table), 0, None, Keyed(5, *key)), **changes)


def assert_same(found: Weights, expected: Weights) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_shared_mask_is_held_and_never_recomputed(make: MakeTrainer) -> None:
    model = seeded(convolutional())
    bundle = bundle_of(model, EAGER_TO_PRUNE, mask=MaskPolicy.SHARED)
    mask = score_mask(weights_of(model), bundle.task.table, 0.7, Allocation.LAMP, full_mask(bundle.task.table))
    start = apply_mask(weights_of(model), mask)

    trained = make(bundle).train(work_of(bundle, start, mask=mask, schedule_step=30), learnable(50))

    for name, kept in mask.items():
        np.testing.assert_array_equal(trained.mask[name], kept)
        assert not trained.weights[name][~kept].any()
        assert (trained.weights[name][kept] != start[name][kept]).mean() > 0.9


def test_a_round_depends_on_its_work_alone(make: MakeTrainer) -> None:
    """With slots reset, a trainer that has trained much else gives what a fresh one gives, bit for bit."""
    model, data = seeded(with_dropout()), learnable(50)
    start = weights_of(model)
    bundle = bundle_of(model, EAGER_TO_PRUNE, mask=MaskPolicy.OWN, optimizer=Adam(0.01), from_logits=False)
    used, fresh = make(bundle), make(bundle)
    earlier = used.train(work_of(bundle, start, 1, schedule_step=12), learnable(20, seed=1))
    used.train(work_of(bundle, earlier.weights, 2, mask=earlier.mask, schedule_step=18, slots=earlier.slots), data)

    again = used.train(work_of(bundle, start, 3), data)
    first = fresh.train(work_of(bundle, start, 3), data)
    other = fresh.train(work_of(bundle, start, 4), data)

    assert_same(again.weights, first.weights)
    assert_same(again.slots, first.slots)
    assert again.loss == first.loss
    assert other.loss != first.loss


def test_random_layers_follow_the_key(make: MakeTrainer) -> None:
    """Every batch is the same single example, so that only dropout can tell two keys apart."""
    model, data = seeded(with_dropout()), learnable(1)
    bundle = bundle_of(model, DENSE, mask=MaskPolicy.SHARED, from_logits=False)
    trainer = make(bundle)

    losses = [trainer.train(work_of(bundle, weights_of(model), key), data).loss for key in (1, 1, 2)]

    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_what_a_round_gave_is_kept_while_the_next_is_trained(make: MakeTrainer) -> None:
    model, data = seeded(convolutional()), learnable(50)
    bundle = bundle_of(model, EAGER_TO_PRUNE, mask=MaskPolicy.OWN)
    trainer = make(bundle)
    first = trainer.train(work_of(bundle, weights_of(model)), data)
    kept = {name: array.copy() for name, array in first.weights.items()}

    trainer.train(work_of(bundle, first.weights, mask=first.mask, slots=first.slots), data)

    assert_same(first.weights, kept)


@pytest.mark.parametrize("policy", MaskPolicy)
@pytest.mark.parametrize(
    ("build", "optimizer"), [(perceptron, Sgd(0.1, 0.9)), (convolutional, Adam(0.01))], ids=["sgd", "adam, batch norm"]
)
def test_without_sparsity_it_is_plain_keras(
    make: MakeTrainer, build: Callable[[], Any], optimizer: Sgd | Adam, policy: MaskPolicy
) -> None:
    model, data = seeded(build()), learnable(50)
    start = weights_of(model)
    bundle = bundle_of(model, DENSE, mask=policy, optimizer=optimizer, steps_per_round=3 * STEPS)

    trained = make(bundle).train(work_of(bundle, start), data)
    plain, losses = train_plainly(model, optimizer, data, draw_batches(Keyed(5), len(data), 3 * STEPS, BATCH))

    assert_close(trained.weights, plain, 1e-5)
    assert trained.loss == pytest.approx(np.mean(losses), abs=1e-5)


def train_plainly(
    model: Any, optimizer: Sgd | Adam, data: Dataset, batches: np.ndarray
) -> tuple[dict[str, Array], list[float]]:
    model.compile(keras_optimizer(optimizer), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = []
    for batch in batches:
        model.reset_metrics()
        losses.append(model.train_on_batch(data.x[batch], data.y[batch]))
    return weights_of(model), losses


@pytest.mark.parametrize("optimizer", [Sgd(0.05, 0.9), Adam(0.01)], ids=["sgd", "adam"])
def test_the_proximal_term_is_that_of_fedprox(make: MakeTrainer, optimizer: Sgd | Adam) -> None:
    """Against Keras with the gradient of mu/2 ||w - w_t||^2 written out; the loss is told without the term."""
    model, data, mu = seeded(convolutional()), learnable(50), 0.7
    start = weights_of(model)
    bundle = bundle_of(
        model, DENSE, mask=MaskPolicy.SHARED, optimizer=optimizer, steps_per_round=3 * STEPS, proximal_mu=mu
    )

    trained = make(bundle).train(work_of(bundle, start), data)
    expected, losses = train_near(model, optimizer, data, draw_batches(Keyed(5), len(data), 3 * STEPS, BATCH), mu)

    assert_close(trained.weights, expected, 1e-5)
    assert trained.loss == pytest.approx(np.mean(losses), abs=1e-5)


def train_near(
    model: Any, optimizer: Sgd | Adam, data: Dataset, batches: np.ndarray, mu: float
) -> tuple[dict[str, Array], list[float]]:
    steps, losses = keras_optimizer(optimizer), []
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    start = [variable.numpy() for variable in model.trainable_variables]
    for batch in batches:
        with tf.GradientTape() as tape:
            loss = crossentropy(data.y[batch], model(data.x[batch], training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        pulled = [
            gradient + mu * (variable - origin)
            for gradient, variable, origin in zip(gradients, model.trainable_variables, start, strict=True)
        ]
        steps.apply_gradients(zip(pulled, model.trainable_variables, strict=True))
        losses.append(float(loss))
    return weights_of(model), losses


@pytest.mark.parametrize("policy", MaskPolicy)
def test_the_proximal_term_keeps_weights_near_the_global_model(make: MakeTrainer, policy: MaskPolicy) -> None:
    """Pruned weights stay zero, however far the global model's were from it."""
    model, data = seeded(perceptron()), learnable(50)
    table = bundle_of(model, DENSE, mask=policy).task.table
    mask = score_mask(weights_of(model), table, 0.4, Allocation.UNIFORM, full_mask(table))
    start = apply_mask(weights_of(model), mask)

    def distance(mu: float) -> float:
        bundle = bundle_of(model, EAGER_TO_PRUNE, mask=policy, steps_per_round=30, proximal_mu=mu)
        trained = make(bundle).train(work_of(bundle, start, mask=mask), data)
        for name, kept in trained.mask.items():
            assert not trained.weights[name][~kept].any()
        moved = (trained.weights[name][kept] - start[name][kept] for name, kept in trained.mask.items())
        return float(np.sqrt(sum(np.square(array).sum() for array in moved)))

    free, near, nearer = (distance(mu) for mu in (0.0, 1.0, 4.0))

    assert nearer < near / 1.5 < free / 2


def test_rounds_learn_and_are_traced_once() -> None:
    """A device with fewer examples than a batch, and one with more, train through the same graph."""
    model = seeded(with_dropout())
    bundle = bundle_of(model, EAGER_TO_PRUNE, mask=MaskPolicy.OWN, steps_per_round=20, from_logits=False)
    trainer = KerasTrainer(bundle, threads=1)
    work, losses = work_of(bundle, weights_of(model)), []
    for number, examples in enumerate([5, 60, 80, 60]):
        trained = trainer.train(work, learnable(examples))
        work = work_of(
            bundle, trained.weights, number, mask=trained.mask, schedule_step=(number + 1) * 20, slots=trained.slots
        )
        losses.append(trained.loss)

    guessing = np.log(CLASSES)
    assert losses[-1] < guessing / 2
    assert trainer._run.experimental_get_tracing_count() == 1


def test_divergence_names_the_step_and_leaves_the_trainer_usable(make: MakeTrainer) -> None:
    model, data = seeded(perceptron()), learnable(50)
    bundle = bundle_of(model, DENSE, mask=MaskPolicy.SHARED)
    trainer = make(bundle)
    start = weights_of(model)
    expected = trainer.train(work_of(bundle, start), data)
    huge = {name: array * np.float32(1e38) for name, array in start.items()}

    with pytest.raises(TrainingError, match=r"at step 1 of the round; lower the task's learning rate"):
        trainer.train(work_of(bundle, huge), data)

    assert_same(trainer.train(work_of(bundle, start), data).weights, expected.weights)


def test_labels_out_of_range_are_a_training_error_of_one_line(make: MakeTrainer) -> None:
    model, data = seeded(perceptron()), learnable(50)
    bundle = bundle_of(model, DENSE, mask=MaskPolicy.SHARED)

    with pytest.raises(TrainingError, match=r"label (value of )?7 .*\Z") as caught:
        make(bundle).train(work_of(bundle, weights_of(model)), Dataset(data.x, data.y + 4))

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("slots", [{}, {"optimizer/0": np.zeros((), np.int64)}, {"x": np.zeros(3)}], ids=str)
def test_foreign_slots_are_refused(make: MakeTrainer, slots: dict[str, np.ndarray]) -> None:
    model = seeded(perceptron())
    bundle = bundle_of(model, DENSE, mask=MaskPolicy.SHARED)

    with pytest.raises(TrainingError, match="optimizer state"):
        make(bundle).train(work_of(bundle, weights_of(model), slots=slots), learnable(50))


def without_last_tensor(bundle: Bundle) -> Bundle:
    return replace(bundle, task=msgspec.structs.replace(bundle.task, tensors=bundle.task.tensors[:-1]))


def with_another_shape(bundle: Bundle) -> Bundle:
    return replace(bundle, network=msgspec.structs.replace(bundle.network, inputs=((9, 9, 1),)))


def with_a_call_of_nothing(bundle: Bundle) -> Bundle:
    return replace(
        bundle, network=msgspec.structs.replace(bundle.network, calls=(*bundle.network.calls, Call(9, (0,))))
    )


def with_a_statistic_that_is_pruned(bundle: Bundle) -> Bundle:
    tensors = tuple(msgspec.structs.replace(spec, kind=TensorClass.STATISTICS) for spec in bundle.task.tensors)
    return replace(bundle, task=msgspec.structs.replace(bundle.task, tensors=tensors))


@pytest.mark.parametrize(
    "spoil", [without_last_tensor, with_another_shape, with_a_call_of_nothing, with_a_statistic_that_is_pruned]
)
def test_a_bundle_that_does_not_fit_is_refused_in_one_line(spoil: Callable[[Bundle], Bundle]) -> None:
    bundle = bundle_of(perceptron(), DENSE, mask=MaskPolicy.SHARED)

    with pytest.raises(TaskError) as caught:
        KerasTrainer(spoil(bundle), threads=1)

    assert "\n" not in str(caught.value)


def test_all_that_the_table_marks_is_pruned_and_nothing_else(make: MakeTrainer) -> None:
    """A depthwise kernel and a bias, which TF-MOT would leave alone, and a kernel that it would prune."""
    model = seeded(mobile())
    bundle = bundle_of(model, EAGER_TO_PRUNE, mask=MaskPolicy.OWN)
    first, *_, bias = (spec.name for spec in bundle.task.tensors if spec.name.endswith(("/kernel", "/bias")))
    (depthwise, *_) = (spec.name for spec in bundle.task.tensors if spec.name.endswith("/depthwise_kernel"))
    kinds = {first: TensorClass.DENSE, bias: TensorClass.PRUNABLE, depthwise: TensorClass.PRUNABLE}
    tensors = tuple(msgspec.structs.replace(spec, kind=kinds.get(spec.name, spec.kind)) for spec in bundle.task.tensors)
    bundle = replace(bundle, task=msgspec.structs.replace(bundle.task, tensors=tensors))

    trained = make(bundle).train(work_of(bundle, weights_of(model), schedule_step=30), learnable(50))

    assert {depthwise, bias} <= trained.mask.keys()
    assert first not in trained.mask
    assert not trained.weights[depthwise][~trained.mask[depthwise]].any()
    assert not trained.mask[depthwise].all()
