"""Networks that answer for each place of an example: images and sequences out, a class for each pixel, a tag for each
word. They are built, proven, trained alike by both trainers, evaluated and exported as those that answer once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_bundles import weights_of

from edge_agent.trainers import Work
from edge_agent.trainers.choice import make_trainer
from export.build import build_task
from export.converter import Job
from export.describing.model import describe
from export.report import Format
from export.settings import ConstantSettings, ModelSettings, PruningSettings, TaskSettings
from export.verify import judge
from export.workbench import Workbench
from fedprune.data import Dataset, fit_to, load_npz, save_npz
from fedprune.errors import DataError
from fedprune.keras.model import keras_loss
from fedprune.keras.stack import keras
from fedprune.model.forms import InputForm, OutputForm
from fedprune.model.losses import Loss, Objective
from fedprune.model.metrics import Metric
from fedprune.model.randomness import Keyed
from fedprune.pruning.masks import full_mask
from fedprune.task.bundle import Bundle, read_bundle
from fedprune.task.evaluation import Evaluator
from fedprune.task.padding import counted_places
from fedprune.task.training import Sgd, Training
from tests.closeness import assert_close

L = keras.layers
EXAMPLES, ROUNDS, STEPS = 40, 2, 6
WORDS, LENGTH, TAGS = 20, 4, 3


@dataclass(frozen=True)
class Problem:
    """A model, examples with labels for it, and the accuracy that Keras has for the loss, if any."""

    model: Any
    loss: Loss
    data: Dataset
    metric: str | None = None


def autoencoder() -> Problem:
    """Grey images through a narrow middle. y is x itself."""
    keyed = Keyed(0, "images")
    x = keyed.uniform(EXAMPLES * 64, 0.0, 1.0).reshape(EXAMPLES, 8, 8, 1)
    layers = [
        L.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
        L.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu"),
        L.Conv2D(1, 3, padding="same"),
    ]
    return Problem(keras.Sequential([L.Input((8, 8, 1)), *layers]), Loss.MEAN_SQUARED_ERROR, Dataset(x, x))


def segmentation() -> Problem:
    """A small U-Net (Ronneberger et al. 2015), which ends in a softmax. A pixel's class is its colour's."""
    x = L.Input((4, 4, 2))
    fine = L.Conv2D(6, 3, padding="same", activation="relu")(x)
    coarse = L.Conv2D(8, 3, padding="same", activation="relu")(L.MaxPooling2D()(fine))
    joined = L.Concatenate()([L.UpSampling2D()(coarse), fine])
    model = keras.Model(x, L.Conv2D(3, 1, activation="softmax")(joined))
    images = Keyed(0, "colours").uniform(EXAMPLES * 32, 0.0, 1.0).reshape(EXAMPLES, 4, 4, 2)
    classes = (images[..., 0] > 0.5).astype(np.int64) + (images[..., 1] > 0.5)
    return Problem(model, Loss.SPARSE_CATEGORICAL_CROSSENTROPY, Dataset(images, classes), "sparse_categorical_accuracy")


def tagging() -> Problem:
    """A tag for each word, in logits: it is the word's, and after the first word's kind another."""
    layers = [L.Embedding(WORDS, 5), L.GRU(6, return_sequences=True), L.Dense(TAGS)]
    model = keras.Sequential([L.Input((LENGTH,), dtype="int32"), *layers])
    words = (Keyed(0, "words").integers(EXAMPLES * LENGTH) % np.uint64(WORDS)).astype(np.int32)
    x = words.reshape(EXAMPLES, LENGTH)
    tags = (x + x[:, :1] % 2).astype(np.int64) % TAGS
    return Problem(model, Loss.SPARSE_CATEGORICAL_CROSSENTROPY, Dataset(x, tags), "sparse_categorical_accuracy")


def padded_tagging() -> Problem:
    """The same for sentences of different lengths, which are filled up with 0. What fills up has any tags."""
    layers = [
        L.Embedding(WORDS, 5, mask_zero=True),
        L.Bidirectional(L.GRU(4, return_sequences=True)),
        L.Dense(TAGS, "softmax"),
    ]
    model = keras.Sequential([L.Input((LENGTH,), dtype="int32"), *layers])
    data = tagging().data
    x, tags = data.x.copy(), data.y.copy()
    padding = np.arange(LENGTH) > np.arange(EXAMPLES)[:, None] % LENGTH
    x[padding], tags[padding] = 0, np.arange(np.count_nonzero(padding)) % TAGS
    return Problem(model, Loss.SPARSE_CATEGORICAL_CROSSENTROPY, Dataset(x, tags), "sparse_categorical_accuracy")


def events() -> Problem:
    """Which of two things happens at each step of a series: zeros and ones, through a sigmoid."""
    layers = [L.Conv1D(6, 3, padding="same", activation="relu"), L.Dense(2, "sigmoid")]
    x = Keyed(0, "series").uniform(EXAMPLES * 18, -1.0, 1.0).reshape(EXAMPLES, 6, 3)
    y = (x[..., :2] > 0).astype(np.float32)
    return Problem(
        keras.Sequential([L.Input((6, 3)), *layers]), Loss.BINARY_CROSSENTROPY, Dataset(x, y), "binary_accuracy"
    )


PROBLEMS = {
    "autoencoder": autoencoder,
    "segmentation": segmentation,
    "tagging": tagging,
    "padded tagging": padded_tagging,
    "events": events,
}


@pytest.fixture(scope="module", params=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> Problem:
    keras.utils.set_random_seed(1)
    return PROBLEMS[request.param]()


@pytest.fixture(scope="module")
def bundle(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """As it is built from a file, proofs and all."""
    path = tmp_path_factory.mktemp("places")
    problem.model.save(path / "model.keras")
    settings = TaskSettings(
        name="places",
        model=ModelSettings(file="model.keras"),
        training=Training(STEPS, batch_size=12, optimizer=Sgd(0.1), loss=problem.loss),
        pruning=PruningSettings(ConstantSettings(target_sparsity=0.3, begin_step=4, frequency=4)),
    )
    return read_bundle(build_task(settings, path))


def fitted(problem: Problem, bundle: Bundle) -> Dataset:
    task = bundle.task
    return fit_to(problem.data, bundle.network.input_forms, task.output_forms)


def test_training_graphs_of_every_batch_size_are_proven(problem: Problem, bundle: Bundle) -> None:
    assert [graph.batch_size for graph in bundle.graphs] == [8, 12, 16, 32, 64]
    assert bundle.task.outputs[0].shape == problem.model.output_shape[1:]


def test_both_trainers_learn_the_same_over_rounds(problem: Problem, bundle: Bundle) -> None:
    data = fitted(problem, bundle)
    ends, losses = [], []
    for choice in ("keras", "litert"):
        trainer = make_trainer(choice, bundle, examples=len(data), threads=1)
        weights = weights_of(problem.model)
        for number in range(ROUNDS):
            mask = full_mask(bundle.task.table)
            trained = trainer.train(Work(weights, mask, STEPS * number, None, Keyed(5, number)), data)
            weights = trained.weights
            losses.append(trained.loss)
        ends.append(weights)

    assert_close(ends[1], ends[0], 1e-4)
    assert losses[:ROUNDS] == pytest.approx(losses[ROUNDS:], rel=1e-4)
    assert losses[1] < losses[0]


def test_gateways_score_as_keras_evaluates(problem: Problem, bundle: Bundle, tmp_path: Path) -> None:
    save_npz(tmp_path / "held-out.npz", problem.data)
    evaluator = Evaluator(bundle, tmp_path / "held-out.npz", threads=1)

    scores = evaluator.evaluate(bundle.initial_weights())

    problem.model.compile(
        loss=keras_loss(bundle.task.objectives[0]), metrics=[problem.metric] if problem.metric else None
    )
    data = fitted(problem, bundle)
    # In one batch: Keras' mean of batches counts examples, whatever padding they have.
    evaluated = problem.model.evaluate(data.x, data.y, batch_size=EXAMPLES, verbose=0, return_dict=True)
    assert scores.examples == EXAMPLES
    assert scores.loss == pytest.approx(evaluated["loss"], rel=1e-4)
    if problem.metric is None:
        assert "accuracy" not in scores.metrics
    else:
        assert scores.metrics["accuracy"] == pytest.approx(evaluated[problem.metric], abs=1e-3)


def test_labels_of_other_places_are_refused_with_a_line(problem: Problem, bundle: Bundle, tmp_path: Path) -> None:
    save_npz(tmp_path / "held-out.npz", Dataset(problem.data.x, problem.data.y[:, 1:]))

    with pytest.raises(
        DataError, match=r"^[^\n]*held-out\.npz: y (is|does not hold class numbers).*\[examples, \d[^\n]*$"
    ):
        Evaluator(bundle, tmp_path / "held-out.npz", threads=1)


@pytest.mark.parametrize("make", [segmentation, padded_tagging])
def test_files_answer_for_each_place(make: Callable[[], Problem]) -> None:
    keras.utils.set_random_seed(1)
    problem = make()
    network, tensors = describe(problem.model)
    bench = Workbench(Job(network, tensors, weights_of(problem.model), [problem.data.x], [problem.data.x]))
    bench.convert(Format.FP32)

    objective = Objective(problem.loss, from_logits=False)
    form = OutputForm("y", problem.model.output_shape[1:], objective, metrics=(Metric.MEAN_IOU,))
    counted = counted_places(network, [problem.data.x])
    verdict = judge(bench.run(), problem.data, [form], bench.evaluate(), counted)

    assert verdict.max_difference is not None
    assert verdict.max_difference < 1e-4


@pytest.mark.parametrize("wrong", [-1, 255])
def test_a_pixel_of_a_class_that_the_model_does_not_know_is_refused(wrong: int, tmp_path: Path) -> None:
    data = segmentation().data
    data.y[7, 3, 2] = wrong
    objective = Objective(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, from_logits=False)
    save_npz(tmp_path / "mine.npz", data)

    with pytest.raises(
        DataError, match=rf"mine\.npz: label {wrong} is out of range: the task's model has 3 classes, 0 to 2"
    ):
        fit_to(load_npz(tmp_path / "mine.npz"), [InputForm("x", (4, 4, 2))], [OutputForm("y", (4, 4, 3), objective)])
