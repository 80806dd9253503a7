"""Tasks whose examples are token ids: both trainers learn the same of them, gateways evaluate them, files take them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_bundles import CLASSES, bundle_of, weights_of

from edge_agent.trainers import Trained, Work
from edge_agent.trainers.choice import make_trainer
from export.converter import Job
from export.report import DENSE_FORMATS, Format
from export.workbench import Workbench
from fedprune.data import Dataset, load_npz, save_npz
from fedprune.errors import DataError
from fedprune.keras.stack import keras
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Weights
from fedprune.pruning.masks import full_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.runtime.tflite import default_runtime
from fedprune.task.bundle import Bundle
from fedprune.task.evaluation import Evaluator, InferenceGraph
from fedprune.task.training import Adam
from tests.closeness import assert_close

L = keras.layers
VOCABULARY, LENGTH = 50, 7
ROUNDS = 3


def reader() -> Any:
    """A word's neighbours both ways, in one row of outputs. Sentences are padded with 0."""
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            L.Input((LENGTH,), dtype="int32"),
            L.Embedding(VOCABULARY, 6, mask_zero=True, name="words"),
            L.Bidirectional(L.GRU(5, return_sequences=True)),
            L.TimeDistributed(L.Dense(4, "tanh")),
            L.LSTM(4),
            L.Dense(CLASSES),
        ]
    )


def attentive_reader() -> Any:
    """Words that look up each other, but for padding, and the mean of what they find."""
    keras.utils.set_random_seed(3)
    x = L.Input((LENGTH,), dtype="int32")
    y = L.Embedding(VOCABULARY, 6, mask_zero=True, name="words")(x)
    y = L.LayerNormalization()(L.Add()([y, L.MultiHeadAttention(2, 3)(y, y)]))
    return keras.Model(x, L.Dense(CLASSES)(L.GlobalAveragePooling1D()(L.Dense(8, "tanh")(y))))


def sentences(examples: int) -> Dataset:
    """Ids that say their class: those of class c are more often c more than a multiple of the number of classes. They
    are of different lengths."""
    keyed = Keyed(0, "sentences")
    ids = (keyed.integers(examples * LENGTH) % np.uint64(VOCABULARY)).astype(np.int32).reshape(examples, LENGTH)
    y = (keyed.integers(examples) % np.uint64(CLASSES)).astype(np.int64)
    ids[:, ::2] = ids[:, ::2] // CLASSES * CLASSES + y[:, None]
    ids = np.minimum(ids, VOCABULARY - 1)
    ids[np.arange(LENGTH) > 2 + np.arange(examples)[:, None] % (LENGTH - 2)] = 0
    return Dataset(ids, y)


@pytest.mark.parametrize("build", [reader, attentive_reader])
def test_both_trainers_learn_the_same_over_rounds(build: Callable[[], Any]) -> None:
    model, data = build(), sentences(40)
    pruned = ConstantSparsity(begin_step=1, frequency=4, target_sparsity=0.5)
    bundle = bundle_of(model, pruned, mask=MaskPolicy.OWN, optimizer=Adam(0.01))

    theirs, ours = (rounds(choice, bundle, weights_of(model), data) for choice in ("keras", "litert"))

    assert_close(ours[-1].weights, theirs[-1].weights, 5e-4)
    losses = [trained.loss for trained in ours]
    assert losses == pytest.approx([trained.loss for trained in theirs], abs=5e-4)
    assert losses[-1] < losses[0]
    assert np.mean(ours[-1].weights["words/embeddings"] == 0.0) == pytest.approx(0.5, abs=0.01)


def test_a_sentence_without_a_word_spoils_the_training_of_neither_trainer() -> None:
    """Its mean is 0. Keras' own divides by the number of its words."""
    words = L.Embedding(VOCABULARY, 6, mask_zero=True)
    model = keras.Sequential([L.Input((LENGTH,), dtype="int32"), words, L.GlobalAveragePooling1D(), L.Dense(CLASSES)])
    bundle = bundle_of(model, ConstantSparsity(begin_step=1, frequency=4, target_sparsity=0.5), mask=MaskPolicy.OWN)
    data = sentences(20)
    data.x[3] = 0

    theirs, ours = (rounds(choice, bundle, weights_of(model), data) for choice in ("keras", "litert"))

    assert np.isfinite([trained.loss for trained in theirs]).all()
    assert [trained.loss for trained in ours] == pytest.approx([trained.loss for trained in theirs], abs=5e-4)
    assert_close(ours[-1].weights, theirs[-1].weights, 5e-4)


def rounds(choice: str, bundle: Bundle, weights: Weights, data: Dataset) -> list[Trained]:
    """Rounds of one agent, each from where the one before it ended."""
    trainer = make_trainer(choice, bundle, examples=len(data), threads=1)
    made: list[Trained] = []
    mask, slots = full_mask(bundle.task.table), None
    for number in range(ROUNDS):
        made.append(trainer.train(Work(weights, mask, 6 * number, slots, Keyed(5, number)), data))
        weights, mask, slots = made[-1].weights, made[-1].mask, made[-1].slots
    return made


def test_gateways_answer_as_keras_does(tmp_path: Path) -> None:
    model, data = reader(), sentences(60)
    bundle = bundle_of(model, ConstantSparsity(begin_step=1, frequency=4, target_sparsity=0.5), mask=MaskPolicy.SHARED)
    graph = InferenceGraph(bundle.network, threads=1)
    graph.load(bundle.initial_weights())

    found = np.concatenate([outputs for (outputs,) in graph.predict([data.x])])

    np.testing.assert_allclose(found, model(data.x).numpy(), atol=1e-4)
    save_npz(tmp_path / "held-out.npz", data)
    scores = Evaluator(bundle, tmp_path / "held-out.npz", threads=1).evaluate(bundle.initial_weights())
    assert scores.metrics == {"accuracy": pytest.approx(np.mean(found.argmax(axis=1) == data.y))}


def test_gateways_refuse_ids_that_the_model_does_not_know(tmp_path: Path) -> None:
    bundle = bundle_of(reader(), ConstantSparsity(begin_step=1, frequency=4, target_sparsity=0.5), mask=MaskPolicy.OWN)
    data = sentences(5)
    data.x[3, 2] = VOCABULARY
    save_npz(tmp_path / "held-out.npz", data)

    with pytest.raises(DataError, match=r"held-out\.npz: .* example 3 with 50: it knows 0 to 49"):
        Evaluator(bundle, tmp_path / "held-out.npz", threads=1)


def test_ids_come_from_their_file_as_they_went(tmp_path: Path) -> None:
    data = sentences(5)
    save_npz(tmp_path / "data.npz", data)

    loaded = load_npz(tmp_path / "data.npz")

    assert loaded.x.dtype == np.int32
    np.testing.assert_array_equal(loaded.x, data.x)


@pytest.mark.parametrize("form", DENSE_FORMATS)
def test_files_take_ids_as_they_are(form: Format) -> None:
    """Also those of int8, which quantise all other numbers."""
    keras.utils.set_random_seed(1)
    layers = [
        L.Embedding(VOCABULARY, 6, mask_zero=True),
        L.GlobalAveragePooling1D(),
        L.Dense(8, "relu"),
        L.Dense(CLASSES),
    ]
    model, data = keras.Sequential([L.Input((LENGTH,), dtype="int32"), *layers]), sentences(40)
    schedule = ConstantSparsity(begin_step=1, frequency=4, target_sparsity=0.5)
    bundle = bundle_of(model, schedule, mask=MaskPolicy.SHARED)
    weights = {name: 20 * array for name, array in weights_of(model).items()}
    bench = Workbench(Job(bundle.network, bundle.task.tensors, weights, [data.x], [data.x]))

    content = bench.convert(form)

    (source,) = default_runtime().interpreter(content).get_input_details()
    assert source["dtype"] is np.int32
    answers, (expected,) = bench.run().answers, bench.evaluate()
    assert answers is not None
    assert np.abs(answers[0] - expected).max() <= 0.1 * np.abs(expected).max()
