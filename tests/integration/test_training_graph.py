"""Training graphs: loss, gradients and moving statistics are those of tf_keras; what could not be so is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, repeat
from typing import Any

import numpy as np
import pytest
from graph_mutants import mutants, without_output
from training_networks import (
    BATCH,
    CLASSES,
    NETWORKS,
    ONE_OF_EACH,
    ONE_OF_OTHERS,
    Image,
    assert_equal,
    between,
    crossentropy,
    drawn,
    examples,
    keras_step,
    one_hot,
    proof_of,
    randomised,
    residual,
    training_graph,
)

from export.architecture import tensor_table
from export.describing.model import describe
from export.proof.errors import NotProven
from export.proof.reference import Reference, Truth
from fedprune.errors import TaskError
from fedprune.keras.stack import keras, tf
from fedprune.model.losses import Loss, Objective
from fedprune.model.tensors import Array
from fedprune.runtime.self_check import draw_case
from fedprune.runtime.training_graph import Step, TrainingGraph

L = keras.layers
SPARSE = Objective(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, from_logits=True)


def step_of(model: Any, objective: Objective, x: Array, y: Array, batch: int) -> Step:
    table = tensor_table(model)
    graph = TrainingGraph(training_graph(model, objective.loss, batch), table, threads=1)
    weights = {spec.name: array for spec, array in zip(table, model.get_weights(), strict=True)}
    return graph.run(weights, [x], [y])


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS.keys())
def test_each_layer_trains_as_in_keras(build: Callable[[], Any]) -> None:
    """On whole batches, partial ones, and a single example."""
    model = randomised(build())
    start = model.get_weights()
    for count in (BATCH, BATCH - 2, 1):
        model.set_weights(start)
        x, y = examples(model, count), one_hot(count)

        found = step_of(model, SPARSE, x, y, BATCH)

        assert_equal(found, keras_step(model, crossentropy, x, y), f"{count} examples:")


LOSSES = {
    "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
    "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
    "binary_crossentropy": keras.losses.BinaryCrossentropy,
}


def test_binary_crossentropy_of_one_output() -> None:
    model = randomised(keras.Sequential([L.Input((5,)), L.Dense(1, "sigmoid")]))
    x, y = 5 * drawn(BATCH, 5), one_hot(BATCH)[:, :1]

    found = step_of(model, Objective(Loss.BINARY_CROSSENTROPY, False), x, y, BATCH)

    assert_equal(found, keras_step(model, keras.losses.BinaryCrossentropy(), x, y))


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_crossentropies_of_logits_and_probabilities(loss: str, probabilities: bool) -> None:
    end = "linear" if not probabilities else "sigmoid" if loss == "binary_crossentropy" else "softmax"
    model = randomised(keras.Sequential([L.Input((5,)), L.Dense(CLASSES, end)]))
    x, y = 20 * drawn(BATCH, 5), one_hot(BATCH)

    found = step_of(model, Objective(Loss(loss), not probabilities), x, y, BATCH)

    labels = np.argmax(y, axis=1) if loss.startswith("sparse") else y
    assert_equal(found, keras_step(model, LOSSES[loss](from_logits=not probabilities), x, labels))


def test_mean_squared_error() -> None:
    model = randomised(keras.Sequential([L.Input((5,)), L.Dense(CLASSES)]))
    x, y = drawn(BATCH, 5), drawn(BATCH, CLASSES, seed=1)

    found = step_of(model, Objective(Loss.MEAN_SQUARED_ERROR, False), x, y, BATCH)

    assert_equal(found, keras_step(model, keras.losses.MeanSquaredError(), x, y))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e20])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_activations_are_exact_at_every_scale(activation: str, scale: float) -> None:
    """Where they are nearly linear, where they bend, where they saturate, and where squares overflow."""
    hidden = [L.Dense(16, activation, use_bias=False) for _ in range(2)]
    model = randomised(keras.Sequential([L.Input((20,)), *hidden, L.Dense(CLASSES)]))
    x, y = np.float32(scale) * drawn(BATCH, 20), one_hot(BATCH)

    found = step_of(model, SPARSE, x, y, BATCH)

    assert_equal(found, keras_step(model, crossentropy, x, y))


@pytest.mark.parametrize(
    "layer",
    [
        L.MaxPooling2D(),
        L.MaxPooling2D(3, strides=2, padding="same"),
        L.GlobalMaxPooling2D(),
        L.ReLU(),
        L.ELU(0.3),
        L.Activation("selu"),
    ],
)
def test_ties_are_broken_as_in_keras(layer: Any) -> None:
    """Pixels are 0 or 1, so that windows have several maxima, and whole windows are zero."""
    x = L.Input(Image)
    shifted = L.Rescaling(1.0)(L.DepthwiseConv2D(1, use_bias=False)(x))
    model = keras.Model(x, L.Dense(CLASSES)(L.Flatten()(layer(shifted))))
    model = randomised(model)
    pixels, y = np.round(drawn(BATCH, *Image) / 2 + 0.5), one_hot(BATCH)

    found = step_of(model, SPARSE, pixels, y, BATCH)

    assert_equal(found, keras_step(model, crossentropy, pixels, y))


def test_equal_models_give_equal_bytes() -> None:
    blobs = {training_graph(keras.models.clone_model(residual()), SPARSE.loss, BATCH) for _ in range(2)}
    assert len(blobs) == 1


UNSUPPORTED = {
    "LocallyConnected1D": (
        (9, 5),
        lambda: L.LocallyConnected1D(4, 3),
        r"layer 'it' \(LocallyConnected1D\): a layer of this kind .* use .* Conv1D, ",
    ),
    "output padding": (
        Image,
        lambda: L.Conv2DTranspose(4, 3, strides=2, output_padding=1),
        r"\(Conv2DTranspose\): output_padding = \(1, 1\)",
    ),
    "bicubic": (Image, lambda: L.UpSampling2D(interpolation="bicubic"), "interpolation = 'bicubic' .* or 'bilinear'"),
    "rows of channels": (Image, lambda: L.LayerNormalization(1), r"axis = \[1\] is .* use the last axis"),
    "constraint": ((5,), lambda: L.Dense(4, kernel_constraint="non_neg"), "kernel_constraint"),
    "activity": ((5,), lambda: L.Dense(4, activity_regularizer="l2"), "activity_regularizer"),
    "regularizer": ((5,), lambda: L.Dense(5, kernel_regularizer="orthogonal_regularizer"), "OrthogonalRegularizer"),
    "activation": ((5,), lambda: L.Dense(4, "mish"), "activation mish .* use one of these: linear, relu"),
    "threshold": ((5,), lambda: L.ReLU(threshold=0.1), r"threshold = 0\.1 is .* use 0"),
    "noise shape": (Image, lambda: L.Dropout(0.5, noise_shape=(None, 1, 1, 2)), "noise_shape"),
    "axis": ((6, 5), lambda: L.BatchNormalization(axis=1), r"axis = \[1\] is .* use \[2\]"),
    "Conv2D of videos": ((2, *Image), lambda: L.Conv2D(4, 3), r"takes 3 axes, not the shape \[2, 7, 9, 2\]"),
    "Conv1D of images": (Image, lambda: L.Conv1D(4, 3), r"takes 2 axes, not the shape \[7, 9, 2\]"),
    "activation of a cell": ((9, 5), lambda: L.LSTM(4, "relu"), "activation = relu is not supported; use tanh"),
    "recurrent activation": (
        (9, 5),
        lambda: L.GRU(4, recurrent_activation="hard_sigmoid"),
        "recurrent_activation = hard_sigmoid is not supported; use sigmoid",
    ),
    "recurrent dropout": ((9, 5), lambda: L.GRU(4, recurrent_dropout=0.5), r"recurrent_dropout = 0\.5 .* use 0"),
    "dropout of a cell": ((9, 5), lambda: L.LSTM(4, dropout=0.5), r"dropout = 0\.5 .* use 0"),
    "state": ((9, 5), lambda: L.LSTM(4, stateful=False, recurrent_constraint="non_neg"), "recurrent_constraint"),
    "merging": ((9, 5), lambda: L.Bidirectional(L.LSTM(4), "mul"), "merge_mode = 'mul' .* use concat, sum or ave"),
    "convolution of each step": ((3, 9, 5), lambda: L.TimeDistributed(L.Conv1D(4, 3)), "a Conv1D within .* Dense"),
    "cell of another kind": ((9, 5), lambda: L.Bidirectional(L.RNN(L.LSTMCell(3))), "a RNN within .* use LSTM"),
    "scale of pixels": (Image, lambda: L.Rescaling(np.ones((9, 1))), r"scale of shape \[9, 1\]"),
}


@pytest.mark.parametrize(("shape", "layer", "reason"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_what_no_description_has_is_refused_by_name(
    shape: tuple[int, ...], layer: Callable[[], Any], reason: str
) -> None:
    made = layer()
    made._name = "it"
    with pytest.raises(TaskError, match=reason) as caught:
        describe(between(shape, made))
    assert "layer 'it'" in str(caught.value)


CALLS = {
    "initial state": (
        (9, 5),
        lambda x: L.GRU(4)(x, initial_state=L.Dense(4)(L.GlobalMaxPooling1D()(x))),
        "a call with an initial state .* use a call without one",
    ),
    "attention mask": (
        (4, 5),
        lambda x: L.MultiHeadAttention(2, 3)(x, x, x, np.ones((1, 4, 4), bool)),
        "a call with attention_mask",
    ),
    "minimum with a constant": ((5,), lambda x: tf.minimum(x, 6.0), "a minimum with constants .* tf.clip_by_value"),
}


@pytest.mark.parametrize(("shape", "call", "reason"), CALLS.values(), ids=CALLS.keys())
def test_calls_that_no_description_has_are_refused(
    shape: tuple[int, ...], call: Callable[[Any], Any], reason: str
) -> None:
    x = L.Input(shape)
    with pytest.raises(TaskError, match=reason):
        describe(keras.Model(x, L.Dense(CLASSES)(L.Flatten()(call(x)))))


@pytest.mark.parametrize("ends", [lambda x, y: ({"x": x}, y), lambda x, y: ((x,), y), lambda x, y: (x, {"y": y})])
def test_named_inputs_and_outputs_are_refused(ends: Callable[[Any, Any], tuple[Any, Any]]) -> None:
    x = L.Input((5,))
    with pytest.raises(TaskError, match=r"as keras\.Model\(x, y\)"):
        describe(keras.Model(*ends(x, L.Dense(CLASSES)(x))))


def test_layers_called_in_inference_mode_are_refused() -> None:
    x = L.Input((5,))
    model = keras.Model(x, L.Dense(CLASSES)(L.BatchNormalization()(x, training=False)))
    with pytest.raises(TaskError, match="a call with training = False of a layer that is not frozen"):
        describe(model)


def test_a_kind_is_refused_before_how_it_is_called() -> None:
    x = L.Input((4, 6))
    model = keras.Model(x, L.Dense(CLASSES)(L.Flatten()(L.Attention()([x, x], use_causal_mask=True))))
    with pytest.raises(TaskError, match=r"\(Attention\): a layer of this kind is not supported"):
        describe(model)


@pytest.mark.parametrize("trainable", [True, False])
def test_weights_that_the_output_does_not_need_are_refused(trainable: bool) -> None:
    x, y = L.Input((5,)), L.Input((5,))
    unused = L.Dense(2, name="unused", trainable=trainable)
    inner = keras.Model(x, [L.Dense(3)(x), unused(x)])
    model = keras.Model(y, L.Dense(CLASSES)(inner(y)[0]))
    with pytest.raises(TaskError, match=r"layer 'unused' \(Dense\): the output does not depend on its kernel; leave"):
        describe(model)


def small() -> Any:
    """A network with every kind of constant: 6, counts, momentum, epsilon, filters of ones, rates of dropout and L2."""
    x = L.Input((8, 8, 2))
    y = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(5, 3, strides=2, padding="same", use_bias=False)(x)))
    y = L.Dropout(0.3)(L.AveragePooling2D(2, padding="same")(y))
    y = L.Conv2D(12, 2, activation="tanh")(y)
    return keras.Model(x, L.Dense(CLASSES, kernel_regularizer="l2")(L.Flatten()(y)))


@pytest.mark.parametrize("name", ["small", "noisy"])
def test_what_is_right_is_proven(name: str) -> None:
    model = {"small": small, "noisy": noisy}[name]()
    proof_of(model, SPARSE).check(training_graph(model, SPARSE.loss, BATCH))


def noisy() -> Any:
    """A network with every layer that draws noise but ordinary dropout."""
    x = L.Input(Image)
    y = L.Reshape((35, 5))(L.SpatialDropout2D(0.3)(L.GaussianNoise(0.4)(L.Conv2D(5, 3)(x))))
    y = L.MultiHeadAttention(1, 2, dropout=0.2)(y, y)
    return keras.Model(x, L.Dense(CLASSES)(L.GaussianDropout(0.2)(L.Flatten()(y))))


@pytest.mark.parametrize("build", [small, noisy])
def test_a_graph_with_any_mistake_is_refused(build: Callable[[], Any]) -> None:
    """In every constant, and in an operator of every kind."""
    model = build()
    tensors = tensor_table(model)
    judge, graph = proof_of(model, SPARSE), training_graph(model, SPARSE.loss, BATCH)
    refused: Counter[str] = Counter()
    for what, mutant in mutants(graph, tensors):
        if what.endswith("constant") or what not in refused:
            refused[what] += 1
            with pytest.raises(NotProven, match=r"differs from tf_keras: .* times as far off as rounding"):
                judge.check(mutant)
    assert refused["a constant"] > 6
    assert refused["a larger constant"] > 6
    assert len(refused) > 15


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH + ONE_OF_OTHERS)
def test_a_mistake_in_any_layer_is_refused(name: str) -> None:
    """In every constant, and in an operator of every kind."""
    model = NETWORKS[name]()
    judge, graph = proof_of(model, SPARSE), training_graph(model, SPARSE.loss, BATCH)
    judge.check(graph)
    seen, missed = set[str](), []
    for what, mutant in mutants(graph, tensor_table(model)):
        if what.endswith("constant") or what not in seen:
            seen.add(what)
            with suppress(NotProven):
                judge.check(mutant)
                missed.append(what)
    assert not missed


def test_a_graph_that_lacks_what_it_should_return_is_refused() -> None:
    """A gradient, and a moving statistic."""
    model = small()
    judge, graph = proof_of(model, SPARSE), training_graph(model, SPARSE.loss, BATCH)
    with pytest.raises(NotProven, match=r"gradients of conv2d.*/kernel are missing or too many"):
        judge.check(without_output(graph, "g0"))
    with pytest.raises(NotProven, match=r"the training graph differs from tf_keras: batch_normalization.*/moving_mean"):
        judge.check(without_output(graph, "s3"))


@pytest.mark.parametrize(
    ("loss", "end"),
    [(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, "softmax"), (Loss.BINARY_CROSSENTROPY, "sigmoid")],
)
@pytest.mark.parametrize("scale", [1.0, 8.0, 1e3])
def test_probabilities_are_judged_as_strictly_as_logits(loss: Loss, end: str, scale: float) -> None:
    """Keras takes the logits below them, where the probabilities themselves would be cut off at 1e-7."""
    model = keras.Sequential([L.Input((5,)), L.Dense(8, "relu"), L.Dense(CLASSES, end)])
    tensors = tensor_table(model)
    graph = TrainingGraph(training_graph(model, loss, BATCH), tensors, threads=1)

    truth = Reference(model, [Objective(loss, from_logits=False)]).run(draw_case(graph, tensors, 0, BATCH, scale))

    for name, gradient in truth.step.gradients.items():
        assert truth.noise[name] < 1e-4 * np.linalg.norm(gradient), name


def test_a_step_that_differs_is_tried_with_other_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once is a kink; what differs whenever it is tried is a mistake."""
    model = small()
    judge, graph = proof_of(model, SPARSE), training_graph(model, SPARSE.loss, BATCH)
    differences = chain([("a kink", 11.0)], repeat(("the loss", 1.0)))
    monkeypatch.setattr(Truth, "furthest", lambda *_: next(differences))
    judge.check(graph)

    monkeypatch.setattr(Truth, "furthest", lambda *_: ("the loss", 11.0))
    with pytest.raises(NotProven, match="differs from tf_keras: the loss is 11 times as far off as rounding explains"):
        judge.check(graph)
