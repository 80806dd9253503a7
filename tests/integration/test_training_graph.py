"""Training graphs: loss, gradients and moving statistics are those of tf_keras; what could not be so is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder

from export.architecture import tensor_table
from export.training_graph import proof
from export.training_graph.build import make_training_graph
from export.training_graph.network import NoTrainingGraph
from export.training_graph.proof import Proof
from fedprune.losses import Loss, Objective
from fedprune.randomness import Keyed
from fedprune.tensorflow_stack import keras, tf
from fedprune.tensors import Array
from fedprune.training_graph import Step, TrainingGraph

L = keras.layers
SPARSE = Objective(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, from_logits=True)
BATCH, CLASSES = 6, 3

Image = (7, 9, 2)
LAYERS: dict[str, tuple[tuple[int, ...], Callable[[], Any]]] = {
    "Dense": ((5,), lambda: L.Dense(4)),
    "Dense, no bias": ((5,), lambda: L.Dense(4, use_bias=False)),
    "Dense over time": ((6, 5), lambda: L.Dense(4, "tanh")),
    "Conv1D": ((9, 5), lambda: L.Conv1D(4, 3)),
    "Conv1D, stride 2, same": ((9, 5), lambda: L.Conv1D(4, 4, strides=2, padding="same")),
    "Conv1D, causal": ((9, 5), lambda: L.Conv1D(4, 3, strides=2, padding="causal")),
    "Conv2D": (Image, lambda: L.Conv2D(4, 3)),
    "Conv2D, same": (Image, lambda: L.Conv2D(4, 3, padding="same")),
    "Conv2D, 1x1": (Image, lambda: L.Conv2D(4, 1)),
    "Conv2D, 1x1, stride 2": (Image, lambda: L.Conv2D(4, 1, strides=2)),
    "Conv2D, 5x2, stride 1x3, same": (Image, lambda: L.Conv2D(3, (5, 2), strides=(1, 3), padding="same")),
    "Conv2D, many channels": ((6, 6, 7), lambda: L.Conv2D(5, 3, strides=2, padding="same")),
    "Conv2D, as large as the image": (Image, lambda: L.Conv2D(4, (7, 9))),
    "Conv2D, larger than the image": (Image, lambda: L.Conv2D(4, 11, padding="same")),
    "DepthwiseConv1D": ((9, 5), lambda: L.DepthwiseConv1D(3, padding="same")),
    "DepthwiseConv2D": (Image, lambda: L.DepthwiseConv2D(3)),
    "DepthwiseConv2D, stride 2, same": (Image, lambda: L.DepthwiseConv2D(3, strides=2, padding="same")),
    "DepthwiseConv2D, multiplier 3": (Image, lambda: L.DepthwiseConv2D((3, 2), depth_multiplier=3)),
    "SeparableConv1D": ((9, 5), lambda: L.SeparableConv1D(4, 3, depth_multiplier=2)),
    "SeparableConv2D": (Image, lambda: L.SeparableConv2D(4, 3, strides=2, padding="same")),
    "BatchNormalization of images": (Image, lambda: L.BatchNormalization()),
    "BatchNormalization of rows": ((5,), lambda: L.BatchNormalization(momentum=0.7, epsilon=1e-2)),
    "BatchNormalization over time": ((6, 5), lambda: L.BatchNormalization(scale=False)),
    "BatchNormalization, not fused": (Image, lambda: L.BatchNormalization(fused=False, center=False)),
    "BatchNormalization, small epsilon": (Image, lambda: L.BatchNormalization(epsilon=1e-6)),
    "MaxPooling1D": ((9, 5), lambda: L.MaxPooling1D(2)),
    "MaxPooling2D": (Image, lambda: L.MaxPooling2D()),
    "MaxPooling2D, overlapping, same": (Image, lambda: L.MaxPooling2D(3, strides=2, padding="same")),
    "MaxPooling2D, gaps": (Image, lambda: L.MaxPooling2D(2, strides=3)),
    "AveragePooling1D, same": ((9, 5), lambda: L.AveragePooling1D(2, padding="same")),
    "AveragePooling2D": (Image, lambda: L.AveragePooling2D((2, 3))),
    "AveragePooling2D, overlapping, same": (Image, lambda: L.AveragePooling2D(3, strides=2, padding="same")),
    "GlobalAveragePooling1D": ((9, 5), lambda: L.GlobalAveragePooling1D()),
    "GlobalAveragePooling2D": (Image, lambda: L.GlobalAveragePooling2D(keepdims=True)),
    "GlobalMaxPooling1D": ((9, 5), lambda: L.GlobalMaxPooling1D()),
    "GlobalMaxPooling2D": (Image, lambda: L.GlobalMaxPooling2D()),
    "Reshape": (Image, lambda: L.Reshape((9, -1))),
    "ZeroPadding1D": ((9, 5), lambda: L.ZeroPadding1D((2, 1))),
    "ZeroPadding2D": (Image, lambda: L.ZeroPadding2D(((0, 1), (2, 0)))),
    "Rescaling": (Image, lambda: L.Rescaling(1 / 3, offset=-0.5)),
    "relu": ((5,), lambda: L.Activation("relu")),
    "relu6": ((5,), lambda: L.Activation("relu6")),
    "leaky_relu": ((5,), lambda: L.Activation("leaky_relu")),
    "tanh": ((5,), lambda: L.Activation("tanh")),
    "sigmoid": ((5,), lambda: L.Activation("sigmoid")),
    "softmax": ((6, 5), lambda: L.Activation("softmax")),
    "ReLU": ((5,), lambda: L.ReLU()),
    "ReLU, slope": ((5,), lambda: L.ReLU(negative_slope=0.1)),
    "ReLU, 6": ((5,), lambda: L.ReLU(6.0)),
    "LeakyReLU": ((5,), lambda: L.LeakyReLU()),
    "Softmax": ((6, 5), lambda: L.Softmax()),
    "L1": ((5,), lambda: L.Dense(4, kernel_regularizer=keras.regularizers.L1(0.01))),
    "L2 of a bias": ((5,), lambda: L.Dense(4, bias_regularizer=keras.regularizers.L2(0.1))),
    "L1L2 of depthwise and pointwise kernels": (
        Image,
        lambda: L.SeparableConv2D(4, 3, depthwise_regularizer="l1_l2", pointwise_regularizer="l2"),
    ),
    "L2 of gamma and beta": ((5,), lambda: L.BatchNormalization(gamma_regularizer="l2", beta_regularizer="l2")),
}


def between(shape: tuple[int, ...], layer: Any) -> Any:
    """A classifier with `layer` between others that have weights, so that gradients pass through it."""
    x = L.Input(shape)
    y = layer(L.Dense(shape[-1], use_bias=False)(x))
    return keras.Model(x, L.Dense(CLASSES)(L.Flatten()(y)))


def drawn(*shape: int, seed: int = 0) -> Array:
    return Keyed(seed, "test").uniform(int(np.prod(shape)), -1.0, 1.0).reshape(shape)


def randomised(model: Any) -> Any:
    """The model with weights that are nowhere zero and the same in every run."""
    keyed = Keyed(1, "test weights")
    for spec, variable in zip(tensor_table(model), model.weights, strict=True):
        low = 0.5 if spec.name.endswith("variance") else -1.0
        variable.assign(keyed.uniform(spec.size, low, 1.0).reshape(spec.shape) / max(1, len(spec.shape)))
    return model


def step_of(model: Any, objective: Objective, x: Array, y: Array, batch: int) -> Step:
    table = tensor_table(model)
    graph = TrainingGraph(make_training_graph(model, objective.loss, batch), table, threads=1)
    weights = {spec.name: array for spec, array in zip(table, model.get_weights(), strict=True)}
    return graph.run(weights, x, y)


def keras_step(model: Any, loss: Callable[[Any, Any], Any], x: Array, y: Array) -> Step:
    """The same by tf_keras, which also moves `model`'s statistics."""
    names = {variable.ref(): spec.name for spec, variable in zip(tensor_table(model), model.weights, strict=True)}

    @tf.function
    def differentiate(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            total = loss(y, model(x, training=True)) + sum(model.losses)
        return total, tape.gradient(total, model.trainable_variables)

    total, gradients = differentiate(x, y)
    return Step(
        loss=float(total),
        gradients={
            names[variable.ref()]: gradient.numpy()
            for variable, gradient in zip(model.trainable_variables, gradients, strict=True)
        },
        statistics={
            names[variable.ref()]: variable.numpy()
            for layer in model.submodules
            if isinstance(layer, L.BatchNormalization) and layer.trainable
            for variable in layer.non_trainable_variables
        },
    )


def assert_equal(found: Step, expected: Step) -> None:
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    for ours, theirs in ((found.gradients, expected.gradients), (found.statistics, expected.statistics)):
        assert ours.keys() == theirs.keys()
        for name, array in theirs.items():
            error = np.linalg.norm(ours[name] - array)
            assert error <= max(1e-5 * np.linalg.norm(array), 1e-6), name


def one_hot(rows: int) -> Array:
    return np.eye(CLASSES, dtype=np.float32)[np.arange(rows) % CLASSES]


def crossentropy(y: Any, output: Any) -> Any:
    return keras.losses.CategoricalCrossentropy(from_logits=True)(y, output)


@pytest.mark.parametrize(("shape", "layer"), LAYERS.values(), ids=LAYERS.keys())
def test_each_layer_trains_as_in_keras(shape: tuple[int, ...], layer: Callable[[], Any]) -> None:
    assert_trains_as_in_keras(shape, layer, BATCH)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("name", ["Conv2D, same", "BatchNormalization of images", "BatchNormalization of rows"])
def test_a_batch_may_be_partial(name: str, count: int) -> None:
    assert_trains_as_in_keras(*LAYERS[name], count)


def assert_trains_as_in_keras(shape: tuple[int, ...], layer: Callable[[], Any], count: int) -> None:
    model = randomised(between(shape, layer()))
    x, y = drawn(count, *shape), one_hot(count)

    found = step_of(model, SPARSE, x, y, BATCH)

    assert_equal(found, keras_step(model, crossentropy, x, y))


def residual() -> Any:
    """Joins, a nested model, a layer that is used twice, and a frozen batch normalisation."""
    x = L.Input((6, 6, 3))
    y = L.Conv2D(5, 3, padding="same", use_bias=False)(x)
    normalised = L.ReLU()(L.BatchNormalization()(y))
    shared = L.Conv2D(5, 3, padding="same", kernel_regularizer="l2")
    inner_input = L.Input((6, 6, 5))
    inner = keras.Model(inner_input, L.BatchNormalization(trainable=False)(L.Conv2D(5, 1)(inner_input)))
    joined = L.Add()([y, shared(shared(normalised)), inner(normalised)])
    joined = L.Concatenate()([joined, L.MaxPooling2D(3, strides=1, padding="same")(normalised)])
    return keras.Model(x, L.Dense(CLASSES)(L.GlobalAveragePooling2D()(joined)))


def windows_of_a_sensor() -> Any:
    """A 1-D CNN over 128 x 6 windows."""
    return keras.Sequential(
        [
            L.Input((128, 6)),
            L.Conv1D(9, 5, strides=2, activation="relu"),
            L.MaxPooling1D(),
            L.SeparableConv1D(11, 3, activation="relu"),
            L.GlobalMaxPooling1D(),
            L.Dense(CLASSES),
        ]
    )


@pytest.mark.parametrize("build", [residual, windows_of_a_sensor])
def test_networks_train_as_in_keras(build: Callable[[], Any]) -> None:
    model = randomised(build())
    x, y = drawn(BATCH, *model.input_shape[1:]), one_hot(BATCH)

    found = step_of(model, SPARSE, x, y, BATCH)
    expected = keras_step(model, crossentropy, x, y)

    assert_equal(found, expected)


LOSSES = {
    "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
    "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
    "binary_crossentropy": keras.losses.BinaryCrossentropy,
}


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


@pytest.mark.parametrize(
    "layer", [L.MaxPooling2D(), L.MaxPooling2D(3, strides=2, padding="same"), L.GlobalMaxPooling2D(), L.ReLU()]
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
    blobs = {make_training_graph(keras.models.clone_model(residual()), SPARSE.loss, BATCH) for _ in range(2)}
    assert len(blobs) == 1


UNSUPPORTED = {
    "LSTM": ((9, 5), lambda: L.LSTM(4), r"layer 'it' \(LSTM\): this kind of layer .* use .*Conv1D"),
    "dilation": (Image, lambda: L.Conv2D(4, 3, dilation_rate=2), r"\(Conv2D\): dilation_rate = \(2, 2\)"),
    "groups": (Image, lambda: L.Conv2D(4, 3, groups=2), "groups = 2"),
    "constraint": ((5,), lambda: L.Dense(4, kernel_constraint="non_neg"), "kernel_constraint"),
    "activity": ((5,), lambda: L.Dense(4, activity_regularizer="l2"), "activity_regularizer"),
    "regularizer": ((5,), lambda: L.Dense(5, kernel_regularizer="orthogonal_regularizer"), "OrthogonalRegularizer"),
    "activation": ((5,), lambda: L.Dense(4, "gelu"), "activation gelu .* use linear, relu"),
    "threshold": ((5,), lambda: L.ReLU(threshold=1.0), "threshold = 1.0"),
    "noise shape": (Image, lambda: L.Dropout(0.5, noise_shape=(None, 1, 1, 2)), "noise_shape"),
    "half precision": ((5,), lambda: L.Dense(4, dtype="mixed_bfloat16"), "compute_dtype"),
}


@pytest.mark.parametrize(("shape", "layer", "reason"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_what_is_not_supported_is_refused_by_name(
    shape: tuple[int, ...], layer: Callable[[], Any], reason: str
) -> None:
    made = layer()
    made._name = "it"
    with pytest.raises(NoTrainingGraph, match=reason) as caught:
        make_training_graph(between(shape, made), SPARSE.loss, BATCH)
    assert "layer 'it'" in str(caught.value)
    assert str(caught.value).endswith("or train with the keras trainer")


def test_layers_called_in_inference_mode_are_refused() -> None:
    x = L.Input((5,))
    model = keras.Model(x, L.Dense(CLASSES)(L.BatchNormalization()(x, training=False)))
    with pytest.raises(NoTrainingGraph, match="a call with training"):
        make_training_graph(model, SPARSE.loss, BATCH)


def small() -> Any:
    """A network with every kind of constant: counts, momentum, epsilon, filters of ones, dropout's and L2's rates."""
    x = L.Input((8, 8, 2))
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(5, 3, strides=2, padding="same", use_bias=False)(x)))
    y = L.Dropout(0.3)(L.AveragePooling2D(2, padding="same")(y))
    y = L.Conv2D(5, 2, activation="tanh")(y)
    return keras.Model(x, L.Dense(CLASSES, kernel_regularizer="l2")(L.Flatten()(y)))


def test_what_is_right_is_proven() -> None:
    model = small()
    Proof(model, tensor_table(model), SPARSE).check(make_training_graph(model, SPARSE.loss, BATCH))


def test_a_graph_with_any_other_constant_is_refused() -> None:
    model = small()
    proof, graph = Proof(model, tensor_table(model), SPARSE), make_training_graph(model, SPARSE.loss, BATCH)
    constants = [
        tensor.buffer
        for tensor in opened(graph).subgraphs[0].tensors
        if tensor.buffer and tensor.type == schema.TensorType.FLOAT32
    ]
    assert len(constants) > 8

    for row in constants:
        with pytest.raises(NoTrainingGraph, match=r"the training graph differs from tf_keras: .*keras trainer$"):
            proof.check(mutated(graph, row))


def opened(graph: bytes) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(graph))


def mutated(graph: bytes, row: int) -> bytes:
    """The graph with the first number of a constant changed."""
    model = opened(graph)
    values = np.array(model.buffers[row].data, np.uint8).view(np.float32)
    values[0] = -values[0] - np.float32(0.25)
    model.buffers[row].data = values.view(np.uint8)
    builder = Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_a_mistake_is_told_apart_from_a_kink(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that differs once is tried with other examples."""
    model, differences = small(), iter(["a kink", *[""] * 10])
    graph = make_training_graph(model, SPARSE.loss, BATCH)
    monkeypatch.setattr(proof, "_difference", lambda *_: next(differences))
    Proof(model, tensor_table(model), SPARSE).check(graph)
