"""Layers that were trained elsewhere stay as they are, in training, merging and pruning; what cannot be learned
or pruned is refused when the task is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.global_model import new_model
from aggregator.merging import Aggregate
from edge_agent.trainers import Trainer, Work
from edge_agent.trainers.keras import KerasTrainer
from edge_agent.trainers.litert import LiteRTTrainer
from edge_agent.updates import prepare_update, take_delta
from export.build import build_task
from export.settings import ConstantSettings, ModelSettings, PruningSettings, TaskSettings
from fedprune.codecs import DEFAULT_CODEC, Key, Values, decode_update, parse_codec
from fedprune.data import Dataset
from fedprune.errors import TaskError
from fedprune.keras.stack import keras, tf, tfmot
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorClass
from fedprune.pruning.masks import Allocation, full_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.task.bundle import Bundle, read_bundle
from fedprune.task.training import Training
from tests.processes import run, toml

layers = keras.layers

ROUNDS, EXAMPLES = 2, 40


def backbone() -> Any:
    """A model that was trained elsewhere, of layers that are frozen one by one."""
    return keras.Sequential(
        [
            layers.Input((8, 8, 2)),
            layers.Conv2D(4, 3, use_bias=False, trainable=False, name="edges"),
            layers.BatchNormalization(trainable=False, name="scale"),
            layers.ReLU(6.0),
        ],
        name="backbone",
    )


def transfer() -> Any:
    """A frozen backbone with a new head, which has statistics of its own."""
    x = layers.Input((8, 8, 2))
    y = layers.Flatten()(backbone()(x))
    y = layers.BatchNormalization(name="norm")(layers.Dense(6, activation="relu", name="hidden")(y))
    model = keras.Model(x, layers.Dense(3, name="head")(y))
    for variable in model.weights:
        variable.assign(variable + tf.random.stateless_uniform(variable.shape, (1, 2)) / 3)
    return model


def settings_of(directory: Path, model: Any, sparsity: float = 0.5, **changes: Any) -> TaskSettings:
    model.save(str(directory / "model.keras"))
    pruning = changes.pop("pruning", PruningSettings(ConstantSettings(begin_round=1, target_sparsity=sparsity)))
    return TaskSettings("frozen", ModelSettings(file="model.keras", **changes), Training(4, 8), pruning)


def built(directory: Path, model: Any, sparsity: float = 0.5, **changes: Any) -> Bundle:
    return read_bundle(build_task(settings_of(directory, model, sparsity, **changes), directory))


def kinds(bundle: Bundle) -> dict[str, TensorClass]:
    return {spec.name: spec.kind for spec in bundle.task.tensors}


FROZEN = {"edges/kernel", "scale/gamma", "scale/beta", "scale/moving_mean", "scale/moving_variance"}


def test_frozen_layers_have_a_class_of_their_own(tmp_path: Path) -> None:
    found = kinds(built(tmp_path, transfer()))
    assert {name for name, kind in found.items() if kind is TensorClass.FROZEN} == FROZEN
    assert found["hidden/kernel"] is TensorClass.PRUNABLE
    assert found["norm/moving_mean"] is TensorClass.STATISTICS


def test_it_does_not_matter_how_they_were_frozen(tmp_path: Path) -> None:
    x = layers.Input((5, 2))
    inner = keras.Sequential([layers.Input((5, 4)), layers.Dense(4), layers.BatchNormalization()], name="inner")
    y = inner(layers.SeparableConv1D(4, 3, padding="same", name="windows")(x))
    model = keras.Model(x, layers.Dense(3)(layers.Flatten()(y)))
    for layer in model.layers[:-1]:
        layer.trainable = False
    found = kinds(built(tmp_path, model))
    assert {kind for name, kind in found.items() if not name.startswith("dense_")} == {TensorClass.FROZEN}
    assert TensorClass.PRUNABLE in found.values()


def litert_trainer(bundle: Bundle, *, threads: int) -> LiteRTTrainer:
    return LiteRTTrainer(bundle, examples=EXAMPLES, threads=threads)


@pytest.mark.parametrize(
    ("make", "policy"),
    [
        (KerasTrainer, MaskPolicy.SHARED),
        (litert_trainer, MaskPolicy.OWN),
        pytest.param(KerasTrainer, MaskPolicy.OWN, marks=pytest.mark.slow),
        pytest.param(litert_trainer, MaskPolicy.SHARED, marks=pytest.mark.slow),
    ],
)
def test_no_bit_of_them_changes_in_rounds_that_prune_and_learn(
    tmp_path: Path, make: Callable[..., Trainer], policy: MaskPolicy
) -> None:
    """Models travel in fp16 and updates in int8, which round all that is trained."""
    schedule = ConstantSettings(begin_round=1, target_sparsity=0.5)
    bundle = built(tmp_path, transfer(), pruning=PruningSettings(schedule, policy, Allocation.UNIFORM))
    task, table = bundle.task, bundle.task.table
    start = bundle.initial_weights()
    keyed = Keyed(1)
    data = Dataset(keyed.uniform(EXAMPLES * 128, 0.0, 1.0).reshape(EXAMPLES, 8, 8, 2), np.arange(EXAMPLES) % 3)
    trainer = make(bundle, threads=1)
    codec = parse_codec(DEFAULT_CODEC)
    version = new_model(start, task, "run", 0, Values.FP16, full_mask(table)).checkpoint
    for round_ in range(ROUNDS):
        known = task.pruning.mask.rules.known_mask(version.mask)
        work = Work(version.weights, version.mask, round_ * task.training.steps_per_round, None, Keyed(round_))
        learned = take_delta(version.weights, trainer.train(work, data), table)
        key = Key(1, round_, "pi-1")
        sent = prepare_update(learned, None, table, codec, key, known)
        aggregate = Aggregate(table, version.weights, known)
        aggregate.add(decode_update(sent.blob, table, known, codec, key), examples=EXAMPLES)
        merged = aggregate.result(version.exact)
        version = new_model(merged.weights, task, "run", round_ + 1, Values.FP16, merged.mask).checkpoint

    for name, array in start.items():
        if name in FROZEN:
            np.testing.assert_array_equal(version.weights[name], array, err_msg=name)
            np.testing.assert_array_equal(version.exact[name], array, err_msg=name)
        else:
            assert not np.array_equal(version.weights[name], array), name
    assert np.mean(version.weights["hidden/kernel"] == 0) == pytest.approx(0.5, abs=0.01)


def test_the_task_may_have_them_trained_and_pruned(tmp_path: Path) -> None:
    bundle = built(tmp_path, transfer(), frozen="train")
    assert TensorClass.FROZEN not in kinds(bundle).values()
    assert kinds(bundle)["edges/kernel"] is TensorClass.PRUNABLE


def _entirely_frozen() -> Any:
    model = transfer()
    model.trainable = False
    return model


def _without_kernels() -> Any:
    x = layers.Input((3,))
    return keras.Model(x, layers.Softmax()(layers.BatchNormalization()(x)))


def _with_a_frozen_kernel() -> Any:
    return keras.Sequential(
        [layers.Input((3,)), layers.Dense(3, trainable=False), layers.BatchNormalization(), layers.Softmax()]
    )


@pytest.mark.parametrize(
    ("model", "sparsity", "said"),
    [
        (_entirely_frozen, 0.5, "has nothing to train"),
        (_entirely_frozen, 0.0, "has nothing to train"),
        (_without_kernels, 0.5, "has no weights that can be pruned"),
        (_with_a_frozen_kernel, 0.5, "has no weights that can be pruned"),
    ],
)
def test_a_task_that_could_do_nothing_is_refused(
    tmp_path: Path, model: Callable[[], Any], sparsity: float, said: str
) -> None:
    with pytest.raises(TaskError, match=said):
        built(tmp_path, model(), sparsity)


def test_without_sparsity_there_need_be_nothing_to_prune(tmp_path: Path) -> None:
    assert built(tmp_path, _without_kernels(), 0.0).task.table.prunable == 0


def test_frozen_layers_are_not_drawn_anew(tmp_path: Path) -> None:
    with pytest.raises(
        TaskError, match=r"layer '.*' is frozen, and model.initial = \"seed\" would draw its weights anew"
    ):
        built(tmp_path, transfer(), initial="seed")


def test_the_command_names_them(tmp_path: Path) -> None:
    transfer().save(str(tmp_path / "model.keras"))
    task = {
        "name": "frozen",
        "model": {"file": "model.keras"},
        "training": {"steps_per_round": 4, "batch_size": 8},
        "pruning": {"schedule": {"kind": "constant", "target_sparsity": 0.5, "begin_round": 1}},
    }
    (tmp_path / "task.toml").write_text(toml(task))
    code, said = run("task", "build", tmp_path / "task.toml", "--out", tmp_path / "task.fedtask")
    assert code == 0
    assert 'frozen layers are neither trained nor pruned (2: edges, scale); model.frozen = "train" changes that' in said


def _pruned() -> Any:
    inner = keras.Sequential([layers.Input((4,)), layers.Dense(4, "relu", name="first")], name="inner")
    x = layers.Input((4,))
    return tfmot.sparsity.keras.prune_low_magnitude(keras.Model(x, layers.Dense(3, name="head")(inner(x))))


def _mixed() -> Any:
    first = layers.Dense(4, "relu", dtype="mixed_float16", name="first")
    return keras.Sequential([layers.Input((4,)), first, layers.Dense(3, name="head")])


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("make", [_pruned, _mixed], ids=["pruned", "mixed"])
def test_a_model_that_is_still_wrapped_or_mixed_is_read_as_a_plain_one(
    tmp_path: Path, suffix: str, make: Callable[[], Any]
) -> None:
    """Its weights, though not what its wrappers know, are those of the file."""
    path, model = tmp_path / f"model{suffix}", make()
    model.save(str(path))
    pruning = PruningSettings(ConstantSettings(begin_round=1, target_sparsity=0.5))
    bundle = read_bundle(
        build_task(TaskSettings("x", ModelSettings(file=path.name), Training(4, 8), pruning), tmp_path)
    )

    assert list(bundle.initial_weights()) == ["first/kernel", "first/bias", "head/kernel", "head/bias"]
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    first, first_bias, head, head_bias = bundle.initial_weights().values()
    expected = np.maximum(x @ first + first_bias, 0) @ head + head_bias
    np.testing.assert_allclose(model(x, training=False), expected, atol=2e-3)
