"""Logit adjustment: what a device adds to the logits' bias while it trains, of which nobody else sees anything."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from aggregator.global_model import new_model
from edge_agent.local_round import LocalResult, LocalRound
from edge_agent.local_training import train_locally
from edge_agent.trainers import Trained, TrainingStopped, Work, never
from fedprune.codecs import Key, Values, decode_update, parse_codec
from fedprune.data import Arrays, Dataset, Examples, open_examples
from fedprune.data.room import Room
from fedprune.errors import TaskError
from fedprune.model.losses import Loss
from fedprune.model.tensors import Array
from fedprune.network.description import Call, Network, Penalty
from fedprune.network.layers import Activation, AnyLayer, Dense, Embedding, Function, GlobalPooling, IdMask, Statistic
from fedprune.pruning.masks import full_mask
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.task.bundle import Bundle, Pruning, Task, read_bundle, write_bundle
from fedprune.task.outputs import Output, OutputLoss
from fedprune.task.training import Training
from tests.described import chain_of, table_of, weights_of
from tests.samples import assignment, changed

TAU, INPUTS = 0.5, 4
CODEC = "mask | fp32"


def head(units: int, *, bias: str | None = "head/bias") -> Dense:
    return Dense(name="head", units=units, kernel="head/kernel", bias=bias)


def softmax(function: Function = Function.SOFTMAX) -> Activation:
    return Activation(name=function, function=function)


def bundle_of(
    *layers: AnyLayer,
    loss: Loss = Loss.SPARSE_CATEGORICAL_CROSSENTROPY,
    tau: float = TAU,
    shape: tuple[int, ...] = (INPUTS,),
    network: Network | None = None,
    frozen: Sequence[str] = (),
    class_weights: tuple[float, ...] = (),
) -> Bundle:
    network = network or chain_of(shape, *layers)
    table = table_of(network, frozen)
    from_logits = not isinstance(layers[-1], Activation) if layers else True
    task = Task(
        name="skewed",
        input_shapes=network.inputs,
        outputs=(Output(network.shapes()[network.outputs[0]], from_logits),),
        tensors=tuple(table),
        training=Training(steps_per_round=2, loss=loss, logit_adjustment=tau, class_weights=class_weights),
        pruning=Pruning(ConstantSparsity(target_sparsity=0.0, begin_step=1, frequency=1)),
        members={},
    )
    return read_bundle(write_bundle(task, network=network, weights=weights_of(table)))


class Mover:
    """Moves every weight by 0.25, and keeps the weights, and the spread of smoothed targets, that it was given."""

    def __init__(self) -> None:
        self.began_with: dict[str, Array] = {}
        self.spread: Mapping[int, Array] = {}

    def train(self, work: Work, _: Examples) -> Trained:
        self.began_with = {name: array.copy() for name, array in work.weights.items()}
        self.spread = work.spread
        moved = {name: array + np.float32(0.25) for name, array in work.weights.items()}
        return Trained(moved, work.mask, {}, loss=1.0, seconds=1.0, steps=2)


def do_round(bundle: Bundle, trainer: Mover, data: Examples, should_stop: Callable[[], bool] = never) -> LocalResult:
    mask = full_mask(bundle.task.table)
    made = new_model(bundle.initial_weights(), bundle.task, "run", 0, Values.FP32, mask)
    asked = changed(assignment(0), weights_digest=made.model.weights_digest, codec=CODEC)
    local = LocalRound("pi-1", asked, made.blob, lambda: None, None, 40.0)
    return train_locally(local, bundle, trainer, data, should_stop)


def trained_on(bundle: Bundle, labels: np.ndarray, weight: Array | None = None) -> Mover:
    """A round of examples with these labels."""
    trainer = Mover()
    x = np.zeros((len(labels), *bundle.task.input_shapes[0]), np.float32)
    do_round(bundle, trainer, Dataset(x, labels, weight=weight))
    return trainer


def added(bundle: Bundle, labels: np.ndarray, weight: Array | None = None) -> Array:
    """What a round adds to the head's bias, for examples with these labels."""
    trainer = trained_on(bundle, labels, weight)
    start = bundle.initial_weights()
    for name, array in trainer.began_with.items():
        if name != "head/bias":
            np.testing.assert_array_equal(array, start[name])
    difference: Array = trainer.began_with["head/bias"] - start["head/bias"]
    return difference


def test_classes_count_by_how_often_they_are_seen_and_none_is_impossible() -> None:
    """Six examples and one more of each class are nine: 4, 3, 1 and 1 of them, twice which over nine a class."""
    found = added(bundle_of(head(4)), np.array([0, 0, 0, 1, 1, 0]))

    np.testing.assert_allclose(found, TAU * np.log(4 * np.array([5, 3, 1, 1]) / 10), atol=1e-6)


def test_classes_that_are_seen_alike_change_nothing() -> None:
    np.testing.assert_allclose(added(bundle_of(head(3), softmax()), np.arange(12) % 3), np.zeros(3), atol=1e-6)


def test_one_hot_rows_count_as_their_class_numbers() -> None:
    classes = np.array([0, 2, 2, 1, 2])
    rows = np.eye(3, dtype=np.float32)[classes]

    np.testing.assert_array_equal(
        added(bundle_of(head(3), softmax(), loss=Loss.CATEGORICAL_CROSSENTROPY), rows),
        added(bundle_of(head(3), softmax()), classes),
    )


def test_a_sigmoid_is_moved_by_log_odds() -> None:
    labels = np.array([[1, 0], [1, 0], [1, 1]], np.float32)

    found = added(bundle_of(head(2), softmax(Function.SIGMOID), loss=Loss.BINARY_CROSSENTROPY), labels)

    np.testing.assert_allclose(found, TAU * np.log([4 / 1, 2 / 3]), atol=1e-6)


def test_smoothed_targets_are_spread_as_a_model_answers_that_knows_the_frequencies_alone() -> None:
    """The square roots of 5, 3, 1 and 1 tenths, as tau is a half; odds of two outputs to the same power."""
    classes = trained_on(bundle_of(head(4)), np.array([0, 0, 0, 1, 1, 0])).spread[0]
    sigmoids = trained_on(
        bundle_of(head(2), softmax(Function.SIGMOID), loss=Loss.BINARY_CROSSENTROPY),
        np.array([[1, 0], [1, 0], [1, 1]], np.float32),
    ).spread[0]

    roots, odds = np.sqrt([5, 3, 1, 1]), np.array([4 / 1, 2 / 3]) ** 0.5
    np.testing.assert_allclose(classes, roots / roots.sum(), rtol=1e-6)
    np.testing.assert_allclose(sigmoids, odds / (1 + odds), rtol=1e-6)


def test_examples_count_as_they_do_in_training() -> None:
    """Class weights and the weights of examples, together: 2 * 1 + 2 * 3 of class 0, 1 * 2 of class 1."""
    bundle = bundle_of(head(2), class_weights=(2.0, 1.0))

    found = added(bundle, np.array([0, 1, 0]), np.array([1, 2, 3], np.float32))

    np.testing.assert_allclose(found, TAU * np.log(2 * np.array([9, 3]) / 12), atol=1e-6)


def test_each_place_counts() -> None:
    bundle = bundle_of(head(3), shape=(2, INPUTS))

    found = added(bundle, np.array([[0, 1], [1, 1]]))

    np.testing.assert_allclose(found, TAU * np.log(3 * np.array([2, 4, 1]) / 7), atol=1e-6)


TAGGER = Network(
    name="tagger",
    inputs=((4,),),
    layers=(
        IdMask(name="there"),
        Embedding(name="words", vocabulary=9, units=INPUTS, table="words/table"),
        head(2),
    ),
    calls=(Call(0, (0,)), Call(1, (0,)), Call(2, (2,))),
    outputs=(3,),
    output_masks=(1,),
)


def test_padded_places_do_not_count() -> None:
    """Of five words four are of class 1; padding is labelled 0, and is of no class."""
    bundle, trainer = bundle_of(network=TAGGER), Mover()
    words = np.array([[5, 3, 8, 0], [2, 4, 0, 0]], np.int32)

    do_round(bundle, trainer, Dataset(words, np.array([[0, 1, 1, 0], [1, 1, 0, 0]])))

    found = trainer.began_with["head/bias"] - bundle.initial_weights()["head/bias"]
    np.testing.assert_allclose(found, TAU * np.log(2 * np.array([2, 5]) / 7), atol=1e-6)


def test_examples_on_a_disk_count_as_those_in_memory(tmp_path: Path) -> None:
    """Of words their padding is read too; of others the labels alone."""
    y = np.array([[0, 1, 1, 0], [1, 1, 0, 0]] * 100)
    tags = {"x": np.array([[5, 3, 8, 0], [2, 4, 0, 0]] * 100, np.int32), "y": y}
    numbers = {"x": np.zeros((200, 4, INPUTS), np.float32), "y": y, "weight": np.arange(200, dtype=np.float32)}
    found = []
    for name, bundle, saved in (
        ("tags", bundle_of(network=TAGGER), tags),
        ("numbers", bundle_of(head(2), shape=(4, INPUTS)), numbers),
    ):
        np.savez(tmp_path / f"{name}.npz", **saved)
        stored, on_disk, in_memory = (
            open_examples(tmp_path / f"{name}.npz", Arrays(), Room(512, tmp_path)),
            Mover(),
            Mover(),
        )
        assert stored.stored
        do_round(bundle, on_disk, stored)
        do_round(bundle, in_memory, Dataset(saved["x"], y, weight=saved.get("weight")))
        np.testing.assert_array_equal(on_disk.began_with["head/bias"], in_memory.began_with["head/bias"])
        found.append(on_disk.began_with["head/bias"] - bundle.initial_weights()["head/bias"])
    assert all(found[0] != found[1])


def test_a_round_that_nobody_wants_any_more_ends_before_the_next_part_is_counted() -> None:
    """Of data on a disk all may have to be read."""
    asked, trainer, data = list[bool](), Mover(), Dataset(np.zeros((3, INPUTS), np.float32), np.array([0, 1, 1]))

    def should_stop() -> bool:
        asked.append(True)
        return True

    do_round(bundle_of(head(2), tau=0.0), trainer, data, should_stop)
    assert not asked, "only the trainer asks, and the count"
    with pytest.raises(TrainingStopped, match="classes"):
        do_round(bundle_of(head(2)), trainer, data, should_stop)


TWO_HEADED = Network(
    name="two-headed",
    inputs=((INPUTS,),),
    layers=(head(3), Dense(name="box", units=2, kernel="box/kernel", bias="box/bias")),
    calls=(Call(0, (0,)), Call(1, (0,))),
    outputs=(1, 2),
    output_names=("kind", "size"),
)


def test_labels_of_an_output_that_is_not_adjusted_may_be_any_numbers() -> None:
    table = table_of(TWO_HEADED)
    losses = {
        "kind": OutputLoss(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, logit_adjustment=TAU),
        "size": OutputLoss(Loss.MEAN_SQUARED_ERROR),
    }
    task = Task(
        name="two",
        input_shapes=TWO_HEADED.inputs,
        outputs=(Output((3,), from_logits=True, name="kind"), Output((2,), from_logits=False, name="size")),
        tensors=tuple(table),
        training=Training(steps_per_round=2, losses=losses),
        pruning=Pruning(ConstantSparsity(target_sparsity=0.0, begin_step=1, frequency=1)),
        members={},
    )
    bundle, trainer = read_bundle(write_bundle(task, network=TWO_HEADED, weights=weights_of(table))), Mover()
    labels = {"y_kind": np.array([0, 1, 0]), "y_size": np.float32([[-9, 1], [-9, 1], [-9, 1]])}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        do_round(bundle, trainer, Dataset({"x": np.zeros((3, INPUTS), np.float32)}, labels))

    start = bundle.initial_weights()
    np.testing.assert_array_equal(trainer.began_with["box/bias"], start["box/bias"])
    found = trainer.began_with["head/bias"] - start["head/bias"]
    np.testing.assert_allclose(found, TAU * np.log(3 * np.array([3, 2, 1]) / 6), atol=1e-6)


@given(arrays.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 4)))
def test_what_is_added_to_logits_is_finite_and_falls_out_of_the_update(labels: np.ndarray) -> None:
    bundle, trainer = bundle_of(head(5)), Mover()

    result = do_round(bundle, trainer, Dataset(np.zeros((len(labels), INPUTS), np.float32), labels))

    assert np.isfinite(trainer.began_with["head/bias"]).all()
    table, key = bundle.task.table, Key(assignment(0).known.seed, assignment(0).round, "pi-1")
    update = decode_update(result.update.blob, table, full_mask(table), parse_codec(CODEC), key)
    for delta in update.delta.values():
        np.testing.assert_allclose(delta, 0.25, atol=1e-6)


def test_without_it_training_begins_with_the_models_own_bias() -> None:
    np.testing.assert_array_equal(added(bundle_of(head(3), tau=0.0), np.array([0, 0, 1])), np.zeros(3))


FORKED = Network(
    name="forked",
    inputs=((INPUTS,),),
    layers=(head(3), Dense(name="next", units=3, kernel="next/kernel", bias="next/bias")),
    calls=(Call(0, (0,)), Call(1, (1,)), Call(0, (0,))),
    outputs=(3,),
)
"""Its output's layer has another call."""

PENALISED = msgspec.structs.replace(chain_of((INPUTS,), head(3)), penalties=(Penalty("head/bias", l2=0.1),))
"""What is added to its output's bias would be unlearned."""


@pytest.mark.parametrize(
    ("layers", "network", "frozen"),
    [
        ((head(3, bias=None),), None, ()),
        ((head(3), GlobalPooling(name="mean", statistic=Statistic.MEAN)), None, ()),
        ((head(3), Activation(name="relu", function=Function.RELU)), None, ()),
        ((), FORKED, ()),
        ((), PENALISED, ()),
        ((Dense(name="base", units=3, kernel="base/kernel"), head(3)), None, ("head/kernel", "head/bias")),
    ],
    ids=["no bias", "pooled", "cut off", "called twice", "penalised", "frozen"],
)
def test_a_task_whose_logits_have_no_bias_of_their_own_is_refused(
    layers: tuple[AnyLayer, ...], network: Network | None, frozen: tuple[str, ...]
) -> None:
    shape = (2, INPUTS) if any(isinstance(layer, GlobalPooling) for layer in layers) else (INPUTS,)

    with pytest.raises(TaskError, match="logit_adjustment needs a bias that is trained"):
        bundle_of(*layers, shape=shape, network=network, frozen=frozen)


def test_a_sigmoid_of_probabilities_has_no_logits_with_a_bias() -> None:
    with pytest.raises(TaskError, match="logit_adjustment needs a bias that is trained"):
        bundle_of(head(3), softmax(), softmax(Function.SIGMOID), loss=Loss.BINARY_CROSSENTROPY)


def test_it_is_for_crossentropies_alone() -> None:
    with pytest.raises(ValueError, match="logit_adjustment is for crossentropies, not for mean_squared_error"):
        bundle_of(head(3), loss=Loss.MEAN_SQUARED_ERROR)
