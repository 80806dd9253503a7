"""Kept activations of a frozen base: rounds give what they give without, and what is kept is the base's of these
examples."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_agent.trainers import Trained, TrainingStopped, Work
from edge_agent.trainers.litert import LiteRTTrainer
from export.build import build_task
from export.settings import ConstantSettings, ModelSettings, PruningSettings, TaskSettings
from export.show import show
from fedprune.data import Dataset
from fedprune.keras.stack import keras, tf
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorClass, Weights
from fedprune.pruning.masks import Allocation, full_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.runtime.training_graph import TrainingGraph
from fedprune.task.bundle import Bundle, read_bundle
from fedprune.task.training import Sgd, Training
from tests.closeness import assert_close

L = keras.layers

SHAPE, CLASSES, EXAMPLES = (8, 8, 2), 3, 40
TOLERANCE = 1e-4


def transfer(*, drops: bool = False) -> Any:
    """A frozen base with a join, and a head that is normalised, penalised and has a frozen layer of its own."""
    x = L.Input(SHAPE)
    y = L.BatchNormalization()(L.Conv2D(4, 3, padding="same", use_bias=False)(x))
    y = L.Dropout(0.3 if drops else 0.0)(y)
    y = L.Add()([y, L.Conv2D(4, 3, padding="same", activation="relu")(y)])
    base = keras.Model(x, L.ReLU(6.0)(y), name="base")
    base.trainable = False
    end = L.Dense(CLASSES, name="end", trainable=False)
    y = L.BatchNormalization(name="norm")(L.Dense(6, kernel_regularizer="l2", name="hidden")(L.Flatten()(base.output)))
    model = keras.Model(x, end(L.Dense(5, activation="tanh", name="middle")(y)))
    for number, variable in enumerate(model.weights):
        variable.assign(variable + tf.random.stateless_uniform(variable.shape, (1, number)) / 3)
    return model


def built(directory: Path, model: Any, policy: MaskPolicy = MaskPolicy.SHARED, mu: float = 0.0) -> Bundle:
    model.save(directory / "model.keras")
    schedule = ConstantSettings(begin_round=1, target_sparsity=0.5)
    training = Training(4, 8, Sgd(0.02, 0.9), proximal_mu=mu, optimizer_state="keep")
    pruning = PruningSettings(schedule, policy, Allocation.UNIFORM)
    settings = TaskSettings("frozen", ModelSettings(file="model.keras"), training, pruning)
    return read_bundle(build_task(settings, directory))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    made = built(tmp_path_factory.mktemp("frozen"), transfer())
    assert made.head is not None
    return made


def examples(seed: int = 1) -> Dataset:
    x = Keyed(seed).uniform(EXAMPLES * 128, 0.0, 1.0).reshape(EXAMPLES, *SHAPE)
    return Dataset(x, np.arange(EXAMPLES) % CLASSES)


def trainer_of(bundle: Bundle, count: int = EXAMPLES) -> LiteRTTrainer:
    return LiteRTTrainer(bundle, examples=count, threads=1)


def without(bundle: Bundle) -> Bundle:
    return replace(bundle, head=None)


def work_of(bundle: Bundle, weights: Weights | None = None, key: int = 0, **changes: Any) -> Work:
    start = bundle.initial_weights() if weights is None else weights
    return replace(Work(start, full_mask(bundle.task.table), 0, None, Keyed(2, key)), **changes)


def rounds(bundle: Bundle) -> list[Trained]:
    """Two rounds of one agent, the second going on from the first."""
    trainer, data = trainer_of(bundle), examples()
    first = trainer.train(work_of(bundle), data)
    going_on = work_of(bundle, first.weights, 1, mask=first.mask, slots=first.slots, schedule_step=4)
    return [first, trainer.train(going_on, data)]


def assert_equal(found: Trained, expected: Trained) -> None:
    assert found.loss == pytest.approx(expected.loss, abs=TOLERANCE)
    assert_close(found.weights, expected.weights, TOLERANCE)
    assert_close(found.slots, expected.slots, TOLERANCE)
    for name, kept in expected.mask.items():
        np.testing.assert_array_equal(found.mask[name], kept)


@pytest.mark.parametrize(("policy", "mu"), [(MaskPolicy.SHARED, 0.0), (MaskPolicy.OWN, 0.5)])
def test_rounds_with_kept_activations_equal_those_without(tmp_path: Path, policy: MaskPolicy, mu: float) -> None:
    bundle = built(tmp_path, transfer(), policy, mu)

    kept, computed = rounds(bundle), rounds(without(bundle))

    for found, expected in zip(kept, computed, strict=True):
        assert_equal(found, expected)
    start = bundle.initial_weights()
    for spec in bundle.task.tensors:
        same = np.array_equal(kept[-1].weights[spec.name], start[spec.name])
        assert same == (spec.kind is TensorClass.FROZEN), spec.name


def test_the_graph_of_the_head_takes_activations_and_the_heads_tensors_alone(bundle: Bundle) -> None:
    trainer = trainer_of(bundle)

    graph: TrainingGraph = trainer._load_graph()

    assert (graph.batch_size, graph.input_shapes) == (8, ((256,),))
    assert {name.partition("/")[0] for name in graph.trained} == {"hidden", "norm", "middle"}


def test_a_head_is_proven_whose_tensors_the_table_has_in_another_order(tmp_path: Path) -> None:
    """Nested branches are one after the other in the file, and side by side where they are built of the description."""
    x = L.Input(SHAPE)
    y = L.Flatten()(L.Conv2D(2, 3, strides=2, trainable=False)(x))
    branches = [
        keras.Sequential([L.Input(y.shape[1:]), L.Dense(units, "relu"), L.Dense(units + 1)])(y) for units in (3, 5)
    ]
    model = keras.Model(x, L.Dense(CLASSES)(L.Concatenate()(branches)))

    head = built(tmp_path, model).head

    assert head is not None
    assert [graph.batch_size for graph in head.graphs] == [8, 16, 32, 64]


def test_a_device_is_given_the_head(bundle: Bundle) -> None:
    given = read_bundle(bundle.for_devices())

    assert given.head == bundle.head
    found = trainer_of(given).train(work_of(bundle), examples())
    assert_equal(found, trainer_of(bundle).train(work_of(bundle), examples()))


def test_activations_are_computed_once(bundle: Bundle) -> None:
    trainer, data = trainer_of(bundle), examples()
    first = trainer.train(work_of(bundle), data)

    data.x[...] = 0.0  # nobody looks at them again

    np.testing.assert_array_equal(
        trainer.train(work_of(bundle), data).weights["hidden/kernel"], first.weights["hidden/kernel"]
    )


def test_other_examples_make_them_anew(bundle: Bundle) -> None:
    used = trainer_of(bundle)
    used.train(work_of(bundle), examples())

    found = used.train(work_of(bundle), examples(seed=5))

    assert_equal(found, trainer_of(without(bundle)).train(work_of(bundle), examples(seed=5)))


def test_another_base_makes_them_anew(bundle: Bundle) -> None:
    trainer, data = trainer_of(bundle), examples()
    trainer.train(work_of(bundle), data)
    frozen = {spec.name for spec in bundle.task.table.of(TensorClass.FROZEN)}
    other = {name: array * 1.5 if name in frozen else array for name, array in bundle.initial_weights().items()}

    found = trainer.train(work_of(bundle, other), data)

    assert_equal(found, trainer_of(without(bundle)).train(work_of(bundle, other), data))


def test_activations_that_would_take_too_much_are_not_kept(bundle: Bundle) -> None:
    many = trainer_of(bundle, 2**26 // (256 * 4) + 1)

    found = many.train(work_of(bundle), examples())

    assert many._load_graph().input_shapes == (SHAPE,)
    assert_equal(found, trainer_of(bundle).train(work_of(bundle), examples()))


def test_a_runtime_that_computes_other_activations_trains_the_whole_network(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    assert bundle.head is not None
    told = bundle.head.activations
    first, *others = told.sums
    wrong = msgspec.structs.replace(told, sums=(first + 2 * told.tolerance, *others))

    with caplog.at_level(logging.WARNING):
        trainer = trainer_of(replace(bundle, head=msgspec.structs.replace(bundle.head, activations=wrong)))

    assert "computes other activations of the frozen base than TensorFlow" in caplog.text
    assert trainer._load_graph().input_shapes == (SHAPE,)


def test_nobody_waits_for_activations_that_are_not_wanted(bundle: Bundle) -> None:
    with pytest.raises(TrainingStopped):
        trainer_of(bundle).train(work_of(bundle, should_stop=lambda: True), examples())


def _drops() -> Any:
    return transfer(drops=True)


def _augments() -> Any:
    x = L.Input(SHAPE)
    return keras.Model(x, transfer()(L.RandomFlip()(x)))


@pytest.mark.parametrize(("make", "head"), [(_drops, ((8, 8, 4),)), (_augments, None)])
def test_what_is_drawn_anew_in_every_step_is_not_kept(
    tmp_path: Path, make: Callable[[], Any], head: tuple[tuple[int, ...], ...] | None
) -> None:
    made = built(tmp_path, make())

    found = None if made.head is None else trainer_of(made)._load_graph().input_shapes
    assert found == head


def test_the_task_says_what_is_kept(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    show(bundle)

    said = capsys.readouterr().out
    assert "devices may keep its activations (1,024 bytes an example) and train the head alone" in said
