"""Inference graphs of real models on the real runtime: they answer as Keras does, with weights handed in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_agent.trainers import Work
from edge_agent.trainers.keras import KerasTrainer
from export.architecture import task_outputs, tensor_table
from export.describing.model import describe
from export.models import cnn_108k
from export.proof.inference import verify_inference_graph
from fedprune.data import Dataset, save_npz
from fedprune.errors import DataError, TaskError
from fedprune.graph.inference import inference_batch
from fedprune.keras.stack import keras
from fedprune.model.metrics import Metric
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array
from fedprune.pruning.masks import full_mask
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.task.bundle import Bundle, Pruning, Task, read_bundle, write_bundle
from fedprune.task.evaluation import Evaluator, InferenceGraph
from fedprune.task.training import Training

L = keras.layers
EXAMPLES = 117  # no multiple of a batch


def sequential(input_shape: tuple[int, ...], *layers: Any) -> Any:
    return keras.Sequential([L.Input(input_shape), *layers])


def classifier(input_shape: tuple[int, ...], *layers: Any) -> Any:
    return sequential(input_shape, *layers, L.Flatten(), L.Dense(3))


def branched() -> Any:
    """Residual, nested, normalised, ending in probabilities."""
    x = L.Input((8, 8, 3))
    y = L.BatchNormalization()(L.Conv2D(4, 3, padding="same", use_bias=False)(x))
    y = L.DepthwiseConv2D(3)(L.ReLU(6.0)(y))
    y = L.GlobalAveragePooling2D()(L.Add()([y, L.Activation("tanh")(y)]))
    y = sequential((4,), L.Dense(5, "sigmoid"), L.Dropout(0.2))(y)
    return keras.Model(x, L.Dense(3, "softmax")(y))


MODELS: dict[str, Callable[[], Any]] = {
    "cnn-108k": lambda: cnn_108k((20, 20, 1), 3),
    "branched": branched,
    "strides": lambda: classifier((9, 9, 2), L.Conv2D(4, 3, strides=2, padding="same", activation="relu")),
    "oblong": lambda: classifier((9, 7, 2), L.Conv2D(4, (3, 2), strides=(2, 1), activation="relu")),
    "no bias": lambda: classifier((9, 9, 2), L.Conv2D(4, 3, activation="relu", use_bias=False)),
    "pointwise": lambda: classifier((9, 9, 2), L.Conv2D(4, 1), L.BatchNormalization(), L.ReLU()),
    "separable": lambda: classifier((9, 9, 2), L.SeparableConv2D(4, 3, activation="relu")),
    "Conv1D": lambda: classifier((20, 2), L.Conv1D(4, 3, padding="causal", activation="relu"), L.MaxPooling1D()),
    "constants": lambda: classifier((9, 2), L.Rescaling(0.5), L.Normalization(mean=[1.0, 2.0], variance=[3.0, 4.0])),
    "no bias, ReLU": lambda: sequential((9,), L.Dense(4, "relu", use_bias=False), L.Dense(3)),
    "pooled": lambda: classifier((9, 7, 2), L.AveragePooling2D(3, 2, padding="same"), L.GlobalMaxPooling2D()),
    "leaky": lambda: classifier((9, 2), L.ZeroPadding1D((2, 1)), L.LeakyReLU(), L.Dense(3, "softmax")),
}


def bundle_of(model: Any) -> Bundle:
    network, table = describe(model)
    training = Training(steps_per_round=2, batch_size=8)
    (output,) = task_outputs(network, training)
    task = Task(
        name="test",
        input_shapes=network.inputs,
        outputs=(msgspec.structs.replace(output, metrics=(Metric.ACCURACY,)),),
        tensors=table,
        training=training,
        pruning=Pruning(ConstantSparsity(begin_step=0, target_sparsity=0.5, frequency=1)),
        members={},
    )
    weights = {spec.name: array for spec, array in zip(task.tensors, model.get_weights(), strict=True)}
    return read_bundle(write_bundle(task, network=network, weights=weights))


def examples(shape: tuple[int, ...], classes: int = 3) -> Dataset:
    keyed = Keyed(0, "examples")
    x = keyed.uniform(EXAMPLES * int(np.prod(shape)), -1.0, 1.0).reshape(EXAMPLES, *shape)
    return Dataset(x, (keyed.integers(EXAMPLES) % np.uint64(classes)).astype(np.int64))


def shifted(model: Any) -> dict[str, Array]:
    """Other weights than the model's first, none of them zero; the model is given them too."""
    model.set_weights([np.asarray(array) + np.float32(0.1) for array in model.get_weights()])
    names = (spec.name for spec in tensor_table(model))
    return dict(zip(names, model.get_weights(), strict=True))


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_graph_answers_as_keras_does_with_any_weights(make: Callable[[], Any]) -> None:
    model = make()
    bundle = bundle_of(model)
    data = examples(bundle.network.inputs[0])

    verify_inference_graph(bundle.network, bundle.task.tensors, model)
    graph = InferenceGraph(bundle.network, threads=1)
    for _ in range(2):
        graph.load(shifted(model))
        answers = np.concatenate([outputs for (outputs,) in graph.predict([data.x])])

        np.testing.assert_allclose(answers, model(data.x, training=False).numpy(), rtol=1e-3, atol=1e-4)


def test_a_graph_of_another_network_is_noticed() -> None:
    model = sequential((9,), L.Dense(4, "relu"), L.Dense(3))
    other, table = describe(sequential((9,), L.Dense(4, "tanh"), L.Dense(3)))

    with pytest.raises(TaskError, match="its inference graph differs from Keras by"):
        verify_inference_graph(other, table, model)


def test_large_images_are_inferred_in_smaller_batches() -> None:
    small, large = (
        inference_batch(describe(classifier((side, side, 3), L.Conv2D(8, 3), L.MaxPooling2D(7)))[0])
        for side in (9, 160)
    )

    assert small == 50
    assert 1 <= large <= 10


def test_attention_over_many_places_is_inferred_in_smaller_batches() -> None:
    x = L.Input((512, 4))
    attended = L.MultiHeadAttention(8, 2)(x, x)  # 8 MB of scores an example
    network, _ = describe(keras.Model(x, L.Dense(3)(L.GlobalAveragePooling1D()(attended))))

    assert inference_batch(network) == 1


@pytest.mark.parametrize("make", [MODELS["cnn-108k"], branched], ids=["logits", "probabilities"])
def test_an_evaluation_is_that_of_keras(make: Callable[[], Any], tmp_path: Path) -> None:
    model = make()
    bundle = bundle_of(model)
    data = examples(bundle.network.inputs[0])
    save_npz(tmp_path / "held-out.npz", data)
    weights = shifted(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=bundle.task.outputs[0].from_logits)
    model.compile(loss=loss, metrics=["accuracy"])
    expected_loss, expected_accuracy = model.evaluate(data.x, data.y, verbose=0)

    evaluation = Evaluator(bundle, tmp_path / "held-out.npz", threads=2).evaluate(weights)

    assert evaluation.examples == EXAMPLES
    assert evaluation.metrics == {"accuracy": pytest.approx(expected_accuracy)}
    assert evaluation.loss == pytest.approx(expected_loss, rel=1e-4)


def test_held_out_examples_that_do_not_fit_are_named(tmp_path: Path) -> None:
    bundle = bundle_of(MODELS["strides"]())
    path = tmp_path / "held-out.npz"
    for data in (examples((5, 5, 2)), examples((9, 9, 2), classes=4)):
        save_npz(path, data)
        with pytest.raises(DataError, match=r"held-out\.npz"):
            Evaluator(bundle, path, threads=1)


@pytest.mark.parametrize("make", [branched, MODELS["separable"]], ids=["branched", "separable"])
def test_agents_can_train_the_bundle(make: Callable[[], Any]) -> None:
    """The table's prunable tensors are those that the trainer's TF-MOT wraps."""
    bundle = bundle_of(make())
    weights, mask = bundle.initial_weights(), full_mask(bundle.task.table)
    work = Work(weights=weights, mask=mask, schedule_step=0, slots=None, keyed=Keyed(0, "work"))

    trained = KerasTrainer(bundle, threads=1).train(work, examples(bundle.network.inputs[0]))

    bundle.task.table.check(trained.weights)
    assert any(not np.array_equal(trained.weights[name], array) for name, array in weights.items())


def test_evaluating_and_showing_need_no_tensorflow(tmp_path: Path) -> None:
    bundle = bundle_of(MODELS["strides"]())
    (tmp_path / "task.fedtask").write_bytes(bundle.blob)
    save_npz(tmp_path / "held-out.npz", examples(bundle.network.inputs[0]))
    program = """
import sys
from pathlib import Path
from export.command import task
from fedprune.task.bundle import load_bundle
from fedprune.task.evaluation import Evaluator
bundle = load_bundle(Path("task.fedtask"))
Evaluator(bundle, Path("held-out.npz"), threads=1).evaluate(bundle.initial_weights())
task(["show", "task.fedtask"], standalone_mode=False)
found = {"tensorflow", "keras", "tf_keras"} & set(sys.modules)
sys.exit(f"imported {found}" if found else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "conv2d" in done.stdout
