"""Padded steps are left out as in Keras, wherever a model runs; a graph that does not is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_bundles import bundle_of, weights_of
from training_networks import (
    BATCH,
    CLASSES,
    masked_attention,
    masked_ids,
    masked_numbers,
    one_hot,
    proof_of,
    randomised,
    training_graph,
)

from edge_agent.trainers import Work
from edge_agent.trainers.choice import make_trainer
from export.architecture import task_outputs, tensor_table
from export.describing.model import describe
from export.describing.parity import check_parity
from export.proof.errors import NotProven
from export.proof.inference import verify_inference_graph
from export.proof.proof import Proof
from fedprune.data import Dataset, save_npz
from fedprune.errors import TaskError
from fedprune.graph import recurrent, rules, training
from fedprune.graph.autodiff import Value
from fedprune.graph.context import Context
from fedprune.graph.graph import Graph, Tensor
from fedprune.keras.layer import Masks
from fedprune.keras.layers import READERS
from fedprune.keras.model import build_model, keras_loss
from fedprune.keras.stack import keras
from fedprune.model.losses import Loss, Objective
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorTable
from fedprune.network import layers as kinds
from fedprune.pruning.masks import full_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.runtime.training_graph import TrainingGraph
from fedprune.task.evaluation import Evaluator, InferenceGraph
from fedprune.task.padding import counted_places
from fedprune.task.training import Sgd, Training
from tests.closeness import assert_close

L = keras.layers
SPARSE = Objective(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, from_logits=True)
MASKED = {"ids": masked_ids, "numbers": masked_numbers, "attention": masked_attention}


@cache
def judged(name: str) -> tuple[Any, Proof]:
    """One of `MASKED`, and what judges its graphs; it knows the truth of a batch that it was asked for before."""
    model = MASKED[name]()
    return model, proof_of(model, SPARSE)


@pytest.mark.parametrize("name", MASKED)
def test_gateways_leave_padding_out_as_keras_does(name: str) -> None:
    model, _ = judged(name)
    network, table = describe(model)

    verify_inference_graph(network, table, model)


@pytest.mark.parametrize("name", MASKED)
def test_graphs_with_masks_are_proven(name: str) -> None:
    model, proof = judged(name)

    proof.check(training_graph(model, SPARSE.loss, BATCH))


def _ignored(graph: Graph, _mask: Tensor, x: Tensor, _other: Tensor) -> Tensor:
    del graph
    return x


def _inverted(graph: Graph, mask: Tensor, x: Tensor, other: Tensor) -> Tensor:
    return graph.add(graph.multiply(other, mask), graph.multiply(x, graph.subtract(1.0, mask)))


def _lost(graph: Graph, mask: Tensor, x: Tensor, _other: Tensor) -> Tensor:
    return graph.multiply(x, mask)


@pytest.mark.parametrize("name", ["ids", "numbers"])
@pytest.mark.parametrize("chosen", [_ignored, _inverted, _lost])
def test_a_graph_that_holds_a_state_wrongly_is_refused(name: str, chosen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on through padding, holds it in the others, or begins anew after it."""
    model, proof = judged(name)
    monkeypatch.setattr(recurrent, "chosen", chosen)

    with pytest.raises(NotProven, match="differs from tf_keras"):
        proof.check(training_graph(model, SPARSE.loss, BATCH), briefly=True)


def _mistaken(rule: Callable[..., Value], *, inverted: bool) -> Callable[..., Value]:
    """A rule of masks that are the other way round, or 1 throughout."""

    def wrong(context: Context, layer: Any, inputs: list[Value]) -> Value:
        graph, mask = context.tape.graph, rule(context, layer, inputs).tensor
        other = graph.subtract(1.0, mask if inverted else graph.multiply(mask, 0.0))
        return context.tape.leaf(other, differentiable=False)

    return wrong


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("inverted", [False, True])
def test_a_graph_with_another_mask_is_refused(name: str, inverted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, proof = judged(name)
    for kind in (kinds.IdMask, kinds.StepMask):
        monkeypatch.setitem(rules._RULES, kind, _mistaken(rules._RULES[kind], inverted=inverted))

    with pytest.raises(NotProven, match="differs from tf_keras"):
        proof.check(training_graph(model, SPARSE.loss, BATCH), briefly=True)


def test_an_example_that_is_all_padding_has_a_mean_of_zero_and_spoils_no_batch() -> None:
    """Keras divides by zero. What fills a batch up is such an example."""
    x = L.Input((4,), dtype="int32")
    mean = L.GlobalAveragePooling1D()(L.Embedding(9, 4, mask_zero=True)(x))
    model = randomised(keras.Model(x, L.Dense(CLASSES)(mean)))
    network, table = describe(model)
    weights = {spec.name: array for spec, array in zip(table, model.get_weights(), strict=True)}
    ids = np.array([[0, 0, 0, 0], [1, 2, 0, 0]], np.int32)
    trained = TrainingGraph(training_graph(model, SPARSE.loss, BATCH), table, threads=1)
    inferred = InferenceGraph(network, threads=1)
    inferred.load(weights)

    step = trained.run(weights, [ids], [one_hot(2)])
    ((answers,),) = inferred.predict([ids])

    assert np.isfinite(step.loss)
    assert all(np.isfinite(gradient).all() for gradient in step.gradients.values())
    np.testing.assert_allclose(answers[0], model.layers[-1].bias.numpy(), atol=1e-6)
    np.testing.assert_allclose(answers[1], model(ids)[1].numpy(), atol=1e-5)


MERGED: dict[str, Callable[[Any, Any], list[Any]]] = {
    "joined number by number": lambda y, z: [
        L.GRU(3)(L.Add()([y, z])),
        L.GRU(3)(L.Multiply()([y, L.Conv1D(3, 1)(z)])),
        L.GRU(3)(L.Subtract()([L.SpatialDropout1D(0.0)(y), L.GaussianNoise(0.0)(z)])),
    ],
    "side by side": lambda y, z: [
        L.LSTM(3)(L.Concatenate()([y, z, L.Conv1D(2, 1)(z)])),
        L.SimpleRNN(3)(L.Concatenate(1)([y, z])),
    ],
    "looked up, and within": lambda y, z: [
        L.Flatten()(L.MultiHeadAttention(2, 3)(L.Conv1D(3, 1)(y), y, key=z)),
        nested()(L.Maximum()([y, z])),
    ],
    "dropped": lambda y, z: [
        L.GRU(3)(L.Concatenate()([L.Reshape((5, 3))(y), L.UpSampling1D(1)(z)])),
        L.GRU(3)(y + z),
    ],
}


def nested() -> Any:
    x = L.Input((5, 3))
    return keras.Model(x, L.GRU(3)(L.LSTM(3, return_sequences=True)(L.Dense(3)(x))))


@pytest.mark.parametrize("join", MERGED.values(), ids=MERGED)
def test_masks_go_where_keras_hands_them(join: Callable[[Any, Any], list[Any]]) -> None:
    """With steps of one number, of the other, and of neither."""
    x = L.Input((5, 3))
    ends = join(L.Masking(-0.5)(x), L.Masking(0.25)(x))
    model = randomised(keras.Model(x, L.Dense(2)(L.Concatenate()(ends))))
    network, table = describe(model)
    check_parity(model, network, TensorTable(table))
    built, variables = build_model(network, TensorTable(table))
    for spec, array in zip(table, model.get_weights(), strict=True):
        variables[spec.name].assign(array)
    inferred = InferenceGraph(network, threads=1)
    inferred.load({spec.name: array for spec, array in zip(table, model.get_weights(), strict=True)})
    series = np.random.default_rng(0).uniform(-1, 1, (6, 5, 3)).astype(np.float32)
    for example, (first, second) in enumerate(((0, 1), (1, 4), (4, 0), (2, 3), (3, 2))):
        series[example, first], series[example, second] = -0.5, 0.25

    expected = model(series).numpy()

    np.testing.assert_allclose(built(series).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(
        np.concatenate([outputs for (outputs,) in inferred.predict([series])]), expected, atol=1e-4
    )


def tagger_of_ids() -> Any:
    x = L.Input((5,), dtype="int32")
    y = L.GRU(4, return_sequences=True)(L.Embedding(9, 4, mask_zero=True)(x))
    return randomised(keras.Model(x, L.Dense(CLASSES)(y)))


def tagger_of_numbers() -> Any:
    """Steps are skipped anywhere, not at the end alone."""
    x = L.Input((5, 3))
    y = L.Bidirectional(L.LSTM(3, return_sequences=True))(L.Masking(-0.5)(x))
    return randomised(keras.Model(x, L.TimeDistributed(L.Dense(CLASSES))(y)))


TAGGERS = {"ids": tagger_of_ids, "numbers": tagger_of_numbers}


def padded_examples(model: Any) -> Dataset:
    """Tags of all steps, also of those that are padding, as some examples are throughout; some examples weigh more."""
    random = np.random.default_rng(4)
    padding = random.random((BATCH, 5)) < 0.4
    padding[1] = True
    if model.input_shape == (None, 5):
        x = np.where(padding, 0, random.integers(1, 9, (BATCH, 5))).astype(np.int32)
    else:
        x = np.where(padding[..., None], -0.5, random.uniform(-1, 1, (BATCH, 5, 3))).astype(np.float32)
    weight = random.uniform(0.0, 3.0, BATCH).astype(np.float32)
    return Dataset(x, random.integers(0, CLASSES, (BATCH, 5)), weight=weight)


@pytest.mark.parametrize("choice", ["litert", "keras"])
@pytest.mark.parametrize("make", TAGGERS.values(), ids=TAGGERS)
def test_padded_steps_of_an_output_are_learned_as_keras_fit_learns_them(make: Callable[[], Any], choice: str) -> None:
    """Each batch is all there is, so that the order is none. Keras' loss is divided by the steps that count."""
    model = make()
    data = padded_examples(model)
    schedule = ConstantSparsity(begin_step=1, frequency=1, target_sparsity=0.5)
    bundle = bundle_of(model, schedule, mask=MaskPolicy.SHARED, optimizer=Sgd(0.3), steps_per_round=3, batch_size=BATCH)

    trainer = make_trainer(choice, bundle, examples=BATCH, threads=1)
    work = Work(weights_of(model), full_mask(bundle.task.table), 0, None, Keyed(5))
    trained = trainer.train(work, data)

    model.compile(keras.optimizers.SGD(0.3, 0.9), keras_loss(SPARSE))
    told = model.fit(data.x, data.y, BATCH, epochs=3, sample_weight=data.weight, verbose=0)
    assert_close(trained.weights, weights_of(model), 1e-4)
    assert trained.loss == pytest.approx(np.mean(told.history["loss"]), rel=1e-4)


def _of_all_steps(graph: Graph, mask: Tensor, present: Tensor) -> Tensor:
    """As if nothing were masked."""
    return right_share(graph, graph.add(graph.multiply(mask, 0.0), 1.0), present)


def _of_as_many(graph: Graph, mask: Tensor, present: Tensor) -> Tensor:
    """As if the sum were over the steps that count, and still divided by the number of all."""
    counted = graph.multiply(mask, present)
    return graph.divide(counted, graph.multiply(graph.sum(present, 0), float(mask.shape[1])))


def _with_absent(graph: Graph, mask: Tensor, present: Tensor) -> Tensor:
    """As if what fills a batch up were examples."""
    return right_share(graph, mask, graph.add(graph.multiply(present, 0.0), 1.0))


right_share = training._unpadded_share


@pytest.mark.parametrize("share", [_of_all_steps, _of_as_many, _with_absent])
def test_a_graph_whose_loss_counts_other_steps_is_refused(share: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tagger_of_numbers()
    proof = proof_of(model, SPARSE)
    proof.check(training_graph(model, SPARSE.loss, BATCH), briefly=True)
    monkeypatch.setattr(training, "_unpadded_share", share)

    with pytest.raises(NotProven, match="differs from tf_keras"):
        proof.check(training_graph(model, SPARSE.loss, BATCH), briefly=True)


def test_the_steps_of_each_output_that_count_are_those_of_keras_mask() -> None:
    """Of masks that are joined, laid end to end, and of none."""
    x = L.Input((5, 3))
    y, z = L.Masking(-0.5)(x), L.Masking(0.25)(x)
    ends = [L.Add()([y, z]), L.Concatenate(1)([y, z]), L.Conv1D(2, 1)(y), L.LSTM(3, return_sequences=True)(z)]
    model = randomised(keras.Model(x, [L.Dense(2, name=f"end{place}")(end) for place, end in enumerate(ends)]))
    network, table = describe(model)
    check_parity(model, network, TensorTable(table))
    series = np.random.default_rng(0).uniform(-1, 1, (6, 5, 3)).astype(np.float32)
    series[0, 1], series[1, 4], series[2], series[3, 3] = -0.5, 0.25, -0.5, 0.0

    found = counted_places(network, [series])

    expected = [getattr(output, "_keras_mask", None) for output in model(series)]
    assert [mask is None for mask in found] == [mask is None for mask in expected] == [False, False, True, False]
    for counted, mask in zip(found, expected, strict=True):
        if counted is not None:
            np.testing.assert_array_equal(counted, mask.numpy())


def test_examples_that_are_all_padding_are_neither_judged_nor_in_the_way(tmp_path: Path) -> None:
    """Also where they are all that an evaluation takes at a time, or all there is."""
    model = tagger_of_ids()
    bundle = bundle_of(model, ConstantSparsity(begin_step=1, frequency=1, target_sparsity=0.5), mask=MaskPolicy.SHARED)
    x, y = np.zeros((120, 5), np.int32), np.zeros((120, 5), np.int64)
    x[3, :2], y[3, :2] = (4, 7), (1, 2)
    save_npz(tmp_path / "one.npz", Dataset(x, y))
    save_npz(tmp_path / "none.npz", Dataset(np.zeros_like(x), y))

    evaluators = [Evaluator(bundle, tmp_path / name, threads=1) for name in ("one.npz", "none.npz")]
    one, none = (evaluator.evaluate(bundle.initial_weights()) for evaluator in evaluators)

    assert [evaluator.loss_scale.constant for evaluator in evaluators] == pytest.approx([np.log(2), 0.0], abs=1e-4)
    assert one.loss == pytest.approx(SPARSE.mean_loss(model(x)[3:4, :2].numpy(), y[3:4, :2]), rel=1e-4)
    assert none.loss == 0.0
    assert none.metrics == {"accuracy": None}


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a later layer": (lambda y: L.GRU(3)(L.Masking()(L.Dense(3)(y))), "masking of what a layer makes .* first layer"),
    "softmax": (lambda y: L.GRU(3)(L.TimeDistributed(L.Softmax())(y)), r"a mask, .* use Activation\('softmax'\)"),
    "batch normalisation": (lambda y: L.GRU(3)(L.BatchNormalization()(y)), "a mask, by which .* LayerNormalization"),
    "zeros in the wrong order": (
        lambda y: L.Flatten()(L.Bidirectional(L.LSTM(3, return_sequences=True, unroll=True))(y)),
        "unroll = True is not supported; use False",
    ),
}


@pytest.mark.parametrize(("end", "reason"), REFUSED.values(), ids=REFUSED)
def test_masks_that_no_description_has_are_refused(end: Callable[[Any], Any], reason: str) -> None:
    x = L.Input((5, 3))
    y = end(L.Masking()(x))

    with pytest.raises(TaskError, match=reason) as caught:
        describe(keras.Model(x, L.Dense(2)(y) if len(y.shape) == 2 else y))
    assert "\n" not in str(caught.value)


def test_of_each_layer_that_takes_a_mask_it_is_known_what_becomes_of_it() -> None:
    """A new kind of layer has to be looked at."""
    takes_one = {kind for kind in READERS if "mask" in inspect.signature(kind.call).parameters}

    heeding = {kind for kind, reader in READERS.items() if reader.masks is Masks.HEEDED}
    assert takes_one <= {*heeding, L.BatchNormalization, L.GroupNormalization, L.Softmax, L.TimeDistributed}


def test_a_masked_mean_of_logits_is_logits() -> None:
    x = L.Input((4,), dtype="int32")
    y = L.Dense(CLASSES)(L.Embedding(9, 4, mask_zero=True)(x))
    network, _ = describe(keras.Model(x, L.GlobalAveragePooling1D()(y)))

    (output,) = task_outputs(network, Training(steps_per_round=1, batch_size=1, loss=SPARSE.loss))

    assert output.from_logits


def test_what_fills_padded_steps_is_in_the_graph() -> None:
    """So that a device draws some for its self-check."""
    models = {name: judged(name)[0] for name in MASKED}
    fillings = {
        name: TrainingGraph(training_graph(model, SPARSE.loss, 2), tensor_table(model), threads=1).paddings
        for name, model in models.items()
    }

    assert fillings == {"ids": (0.0,), "numbers": (-0.5,), "attention": (0.0,)}
