"""Tasks of several inputs and outputs, and of examples and classes that count more than others: they are built, proven,
trained alike by both trainers and by tf_keras itself, evaluated and exported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from branched_bundles import (
    BINARY,
    EXAMPLES,
    LOSSES,
    NAMES,
    ONE_HOT,
    SPARSE,
    SQUARED,
    TOPICS,
    branched,
    built,
    examples,
    fitted,
    joined,
    plain,
)
from keras_bundles import weights_of

from aggregator.agents_evaluation import LOSS, agents_evaluation, check_evaluated, loss_scale
from aggregator.book import AcceptedUpdate
from benchmarks.latency.measure import Settings, measure
from benchmarks.latency.results import Measured
from edge_agent.evaluating import evaluate_global, hold_out
from edge_agent.trainers import Work
from edge_agent.trainers.choice import make_trainer
from export.architecture import task_outputs
from export.describing.model import describe
from export.examples import choose_examples
from export.exporting import export_model
from export.proof.errors import NotProven
from export.proof.proof import Proof
from export.proof.reference import Reference
from export.report import DENSE_FORMATS, Format
from export.show import show
from export.workbench import Workbench
from fedprune.data import Dataset, load_npz, save_npz
from fedprune.errors import DataError, TaskError
from fedprune.graph.training import write_training_graph
from fedprune.keras.stack import keras
from fedprune.model.metrics import Metric
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, Weights
from fedprune.pruning.masks import full_mask
from fedprune.runtime.self_check import draw_classes
from fedprune.runtime.tflite import default_runtime
from fedprune.task.bundle import Bundle
from fedprune.task.checkpoints import Checkpoint
from fedprune.task.evaluation import Evaluator
from fedprune.task.outputs import OutputLoss
from fedprune.task.training import Sgd, Training
from fedprune.wire.messages import Content, Submit
from tests.closeness import assert_close

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model() -> Any:
    keras.utils.set_random_seed(1)
    return branched()


@pytest.fixture(scope="module")
def bundle(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    training = Training(1, batch_size=EXAMPLES, optimizer=Sgd(0.1, 0.0), losses=LOSSES)
    return built(model, training, tmp_path_factory.mktemp("branched"), {"topic": (Metric.ACCURACY, Metric.F1_SCORE)})


def trained(choice: Any, bundle: Bundle, data: Dataset, spread: Mapping[int, Array] = MappingProxyType({})) -> Any:
    """A round of one trainer, from the model's own weights."""
    trainer = make_trainer(choice, bundle, examples=len(data), threads=1)
    weights = bundle.initial_weights()
    return trainer.train(Work(weights, full_mask(bundle.task.table), 0, None, Keyed(5), spread=spread), data)


def keras_step(model: Any, losses: Sequence[Any], weights: Sequence[float], batch: Sequence[Any]) -> Any:
    """The loss of a batch of all examples, and the weights after a step of tf_keras' own training."""
    kept = model.get_weights()
    try:
        model.compile(keras.optimizers.SGD(0.1), list(losses), loss_weights=list(weights))
        loss = model.train_on_batch(*batch, return_dict=True)["loss"]
        return loss, weights_of(model)
    finally:
        model.set_weights(kept)


def test_training_graphs_of_every_batch_size_are_proven(bundle: Bundle) -> None:
    assert [graph.batch_size for graph in bundle.graphs] == [8, 16, 32, 40, 64]
    assert [output.name for output in bundle.task.outputs] == ["topic", "there", "amount"]
    assert bundle.network.input_names == ("picture", "a-word")


@pytest.mark.parametrize("choice", ["keras", "litert"])
@pytest.mark.parametrize("weight", [False, True])
def test_a_step_is_that_of_tf_keras(choice: str, weight: bool, model: Any, bundle: Bundle) -> None:
    """Losses, loss weights, smoothing and sample weights are given to tf_keras, which has no class weights of several
    outputs: they are sample weights of their output."""
    data = fitted(examples(weight), bundle)
    x, (topic, there, amount) = list(data.inputs.values()), data.labels.values()
    counts = np.ones(EXAMPLES, np.float32) if data.weight is None else data.weight
    importance = [counts, counts * np.where(there[:, 0] == 1, 3.0, 1.0), counts]
    losses = [
        keras.losses.CategoricalCrossentropy(label_smoothing=0.2),
        keras.losses.BinaryCrossentropy(from_logits=True),
        keras.losses.MeanSquaredError(),
    ]
    expected = keras_step(model, losses, (1.0, 0.25, 2.0), (x, [np.eye(TOPICS)[topic], there, amount], importance))

    found = trained(choice, bundle, data)

    assert found.loss == pytest.approx(expected[0], rel=TOLERANCE)
    assert_close(found.weights, expected[1], TOLERANCE)


def test_smoothed_targets_of_each_output_are_spread_as_asked(tmp_path: Path) -> None:
    """Of a softmax over its classes, of sigmoids to an answer of each, of an output that is not smoothed not at all."""
    keras.utils.set_random_seed(1)
    model, there = branched(), OutputLoss(BINARY, label_smoothing=0.1)
    training = Training(1, EXAMPLES, Sgd(0.1, 0.0), losses=LOSSES | {"there": there})
    bundle = built(model, training, tmp_path)
    data = fitted(examples(weight=False), bundle)
    x, (topic, there_is, amount) = list(data.inputs.values()), data.labels.values()
    of_topics, of_there = np.arange(1, TOPICS + 1, dtype=np.float32), np.full(there_is.shape[1], 0.3, np.float32)
    of_topics /= of_topics.sum()
    losses = [
        keras.losses.CategoricalCrossentropy(),
        keras.losses.BinaryCrossentropy(from_logits=True),
        keras.losses.MeanSquaredError(),
    ]
    y = [0.8 * np.eye(TOPICS)[topic] + 0.2 * of_topics, 0.9 * there_is + 0.1 * of_there, amount]
    loss, expected = keras_step(model, losses, (1.0, 1.0, 2.0), (x, y))

    for choice in ("keras", "litert"):
        found = trained(choice, bundle, data, {0: of_topics, 1: of_there, 2: of_topics[: amount.shape[1]]})
        assert found.loss == pytest.approx(loss, rel=TOLERANCE)
        assert_close(found.weights, expected, TOLERANCE)


@dataclass(frozen=True)
class Weighted:
    """A task with class weights and a step of tf_keras' own `fit` with them: its loss, and the weights after it."""

    bundle: Bundle
    data: Dataset
    loss: float
    weights: Weights


@pytest.fixture(scope="module", params=[SPARSE, ONE_HOT])
def weighted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Weighted:
    keras.utils.set_random_seed(1)
    model, loss, weights = plain(), request.param, (1.0, 4.0, 0.5)
    training = Training(1, EXAMPLES, Sgd(0.1, 0.0), loss, class_weights=weights)
    bundle = built(model, training, tmp_path_factory.mktemp("plain"))
    x, keyed = Keyed(0, "x").uniform(EXAMPLES * 4, -1.0, 1.0).reshape(EXAMPLES, 4), Keyed(0, "y")
    rows = draw_classes(keyed, (EXAMPLES, TOPICS))
    y = rows.argmax(axis=1) if loss is SPARSE else rows
    data = Dataset(x, y, weight=keyed.uniform(EXAMPLES, 0.0, 2.0))
    model.compile(keras.optimizers.SGD(0.1), loss.value)
    history = model.fit(
        x, y, EXAMPLES, verbose=0, shuffle=False, class_weight=dict(enumerate(weights)), sample_weight=data.weight
    )
    return Weighted(bundle, data, history.history["loss"][0], weights_of(model))


@pytest.mark.parametrize("choice", ["keras", "litert"])
def test_class_weights_are_those_of_tf_keras(choice: str, weighted: Weighted) -> None:
    found = trained(choice, weighted.bundle, fitted(weighted.data, weighted.bundle))

    assert found.loss == pytest.approx(weighted.loss, rel=TOLERANCE)
    assert_close(found.weights, weighted.weights, TOLERANCE)


def test_gateways_score_as_keras_evaluates(model: Any, bundle: Bundle, tmp_path: Path) -> None:
    """Each held-out example counts once: class and sample weights are for training."""
    save_npz(tmp_path / "held-out.npz", examples(weight=True))
    evaluator = Evaluator(bundle, tmp_path / "held-out.npz", threads=1)
    data = fitted(examples(weight=False), bundle)
    x, (topic, there, amount) = list(data.inputs.values()), data.labels.values()
    losses = [keras.losses.CategoricalCrossentropy(label_smoothing=0.2), keras.losses.BinaryCrossentropy(True), "mse"]
    model.compile(loss=losses, loss_weights=[1.0, 0.25, 2.0], metrics=[["accuracy"], ["binary_accuracy"], []])
    expected = model.evaluate(x, [np.eye(TOPICS)[topic], there, amount], verbose=0, return_dict=True)

    found = evaluator.evaluate(bundle.initial_weights())

    right = np.mean((model.predict(x, verbose=0)[1] > 0) == there)  # Keras' own takes logits for probabilities
    assert found.loss == pytest.approx(expected["loss"], rel=1e-4)
    assert list(found.metrics) == NAMES
    assert found.metrics["topic/accuracy"] == pytest.approx(expected["topic_accuracy"], abs=1e-3)
    assert found.metrics["there/accuracy"] == pytest.approx(right, abs=1e-3)
    assert found.metrics["amount/root_mean_squared_error"] == pytest.approx(np.sqrt(expected["amount_loss"]), rel=1e-3)
    assert 0.0 < evaluator.loss_scale.constant < 10.0


def test_agents_find_what_a_gateway_with_their_examples_would(bundle: Bundle, tmp_path: Path) -> None:
    """Sample weights play no part in the evaluation of what is held out, and stay with what is trained on."""
    whole, weights = fitted(examples(weight=True), bundle), bundle.initial_weights()
    updates, held = {}, list[Dataset]()
    for agent, first, last in (("pi-1", 0, 16), ("pi-2", 16, EXAMPLES)):
        rest, held_out = hold_out(whole.take(np.arange(first, last)), 0.5, 1, agent)
        assert held_out is not None
        assert rest.weight is not None
        assert len(rest) == len(rest.weight) == len(held_out)
        found = evaluate_global(weights, bundle, held_out, lambda: False)
        assert found is not None
        content = Content(digest=b"0" * 32, size=1)
        check_evaluated(
            Submit(run="run", round=0, update=content, examples=20, local_steps=1, evaluated=found), bundle.task
        )
        told = (found.examples, found.loss, found.tallies)
        updates[agent] = AcceptedUpdate(b"", 1, 20, 1.0, 1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 0.0, 1, 1, *told)
        held.append(held_out)
    save_npz(tmp_path / "held-out.npz", joined(held))
    central = Evaluator(bundle, tmp_path / "held-out.npz", threads=1).evaluate(weights)

    together = agents_evaluation(updates, bundle.task)

    assert (together.evaluation.examples, list(together.evaluation.metrics)) == (EXAMPLES // 2, NAMES)
    assert together.evaluation.loss == pytest.approx(central.loss, rel=1e-5)
    assert together.evaluation.metrics == pytest.approx(central.metrics, rel=1e-5)
    assert set(together.spreads) == {*NAMES, LOSS}
    assert loss_scale(bundle.task, []).ceiling == math.inf


@pytest.mark.parametrize(
    ("metrics", "complaint"),
    [
        ((Metric.ACCURACY,), "the model has the outputs topic, there, amount: give a list of metrics for each by its"),
        ({"topics": ()}, "the model has no output 'topics', but topic, there, amount; correct evaluation.metrics in"),
        ({"amount": (Metric.AUC,)}, "output 'amount': metric auc does not go with the loss mean_squared_error, but"),
    ],
)
def test_metrics_that_do_not_suit_the_outputs_are_refused(metrics: Any, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=complaint):
        built(branched(), Training(1, losses=LOSSES), tmp_path, metrics)


def test_metrics_of_a_single_output_are_a_list(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="the model has one output: its metrics are a list, without a name"):
        built(plain(), Training(1), tmp_path, {"topic": (Metric.ACCURACY,)})


WRONG = {
    "a lost weight": {"there": OutputLoss(BINARY)},
    "a lost smoothing": {"topic": OutputLoss(SPARSE)},
    "another smoothing": {"topic": OutputLoss(SPARSE, label_smoothing=0.1)},
    "exchanged weights": {"topic": OutputLoss(SPARSE, weight=2.0, label_smoothing=0.2), "amount": OutputLoss(SQUARED)},
}


@pytest.fixture(scope="module")
def reference(model: Any, bundle: Bundle) -> Reference:
    return Reference(model, bundle.task.objectives)


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_a_graph_that_learns_something_else_is_not_proven(
    changes: dict[str, OutputLoss], model: Any, bundle: Bundle, reference: Reference
) -> None:
    task, wrong = bundle.task, Training(1, losses=LOSSES | changes)
    graph = write_training_graph(bundle.network, task.table, list(map(wrong.objective_of, task.outputs)), 8)

    with pytest.raises(NotProven, match="times as far off as rounding explains"):
        Proof(model, task.tensors, task.objectives, reference).check(graph.blob, briefly=True)


def test_files_keep_the_names_and_answer_as_keras_does(bundle: Bundle, tmp_path: Path) -> None:
    weights = bundle.initial_weights()
    checkpoint = Checkpoint("run", 0, weights, weights, full_mask(bundle.task.table))
    report = export_model(
        bundle, checkpoint, examples(weight=False), tmp_path, DENSE_FORMATS, lambda _: None, open_converter=opened
    )

    assert [row.format for row in report.exports] == list(DENSE_FORMATS)
    assert not report.failures
    for row in report.exports:
        assert list(row.metrics) == NAMES
        assert row.max_difference is not None
        assert row.max_difference < (1e-4 if row.format is Format.FP32 else 0.5)
        signature = default_runtime().interpreter(tmp_path / row.path).get_signature_runner()
        assert set(signature.get_input_details()) == {"picture", "a-word"}
        assert set(signature.get_output_details()) == {"topic", "there", "amount"}
        del signature
    (row,) = measure([tmp_path / Format.FP32.file], Settings(num_runs=3, warmup_runs=1)).models
    assert isinstance(row, Measured)
    assert set(row.input_shapes) == {(1, 6, 6, 2), (1, 4)}


class opened(Workbench):  # noqa: N801 - it stands for a function
    """The converter, in this process."""

    def __enter__(self) -> opened:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_bundle_is_shown_with_each_input_and_output(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    show(bundle)

    shown = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert shown >= {
        "input x_picture: float32 6x6x2",
        "input x_a-word: ids below 9, 4",
        "output y_topic: 3 (probabilities)",
        "output y_there: 1 (logits)",
        "output y_amount: 4x1 (numbers)",
        "loss y_topic: sparse_categorical_crossentropy, label smoothing 0.2",
        "loss y_there: binary_crossentropy, weight 0.25, class weights 1 to 3",
        "loss y_amount: mean_squared_error, weight 2",
        f"metrics {', '.join(NAMES)}",
    }


def without(data: Dataset, array: str) -> Dataset:
    x, y = ({name: each[name] for name in each if name != array} for each in (data.inputs, data.labels))
    return Dataset(x, y)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (without(examples(False), "y_there"), "it holds y_amount and y_topic, the task's model learns y_amount and "),
        (
            without(examples(False), "x_picture"),
            "it holds x_a-word, the task's model takes x_a-word and x_picture; save",
        ),
        (Dataset(np.zeros((4, 6, 6, 2), np.float32), np.zeros(4, np.int64)), "it holds x, the task's model takes"),
    ],
)
def test_arrays_that_a_task_has_not_are_named(data: Dataset, complaint: str, bundle: Bundle, tmp_path: Path) -> None:
    save_npz(tmp_path / "mine.npz", data)

    with pytest.raises(DataError, match=rf"^[^\n]*mine\.npz: {complaint}[^\n]*$"):
        fitted(load_npz(tmp_path / "mine.npz"), bundle)


def test_a_label_out_of_range_is_told_with_its_array(bundle: Bundle) -> None:
    data = examples(weight=False)
    data.labels["y_topic"][7] = TOPICS

    with pytest.raises(DataError, match="label 3 in y_topic is out of range"):
        fitted(data, bundle)


@pytest.mark.parametrize(
    ("losses", "complaint"),
    [
        ({}, r"outputs topic, there, amount, and training\.losses has none; give a table \[training\.losses\.NAME\]"),
        (LOSSES | {"more": OutputLoss(SQUARED)}, r"training\.losses has amount, more, there, topic; give a table"),
        (
            LOSSES | {"there": OutputLoss(SPARSE)},
            r"output 'there' of model 'branched' returns \[None, 1\]; for sparse_.* it must .*, 2 outputs at least",
        ),
        (
            LOSSES | {"topic": OutputLoss(SPARSE, class_weights=(1.0,))},
            "output 'topic' of model 'branched': class_weights has 1 numbers, the output 3 classes; correct",
        ),
        (
            LOSSES | {"amount": OutputLoss(SQUARED, class_weights=(1.0, 2.0))},
            r"class_weights need one class an example, and mean_squared_error of \[None, 4, 1\] has none",
        ),
    ],
)
def test_losses_that_do_not_suit_the_outputs_are_refused(
    losses: dict[str, OutputLoss], complaint: str, model: Any
) -> None:
    with pytest.raises(TaskError, match=complaint):
        task_outputs(describe(model)[0], Training(1, losses=losses))


def test_examples_of_an_export_are_drawn_from_all_inputs(bundle: Bundle) -> None:
    chosen = choose_examples(fitted(examples(weight=False), bundle), None)

    assert {name: len(x) for name, x in chosen.calibration.inputs.items()} == {"x_picture": 20, "x_a-word": 20}
