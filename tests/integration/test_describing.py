"""Describing Keras models: what is built of the description does what the model does; what has no words is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from export.architecture import task_outputs
from export.describing.model import describe
from export.describing.parity import check_parity
from fedprune.errors import TaskError
from fedprune.keras.model import build_model
from fedprune.keras.stack import keras, tf
from fedprune.model.losses import Loss
from fedprune.model.tensors import TensorClass, TensorTable
from fedprune.network.description import Network, pack_network, parse_network
from fedprune.network.layers import Add, BatchNormalization, Dropout, GlobalPooling, Rescaling
from fedprune.task.outputs import Output
from fedprune.task.training import Training
from tests.integration.training_networks import NETWORKS

L = keras.layers
IMAGE = (4, 4, 3)


def described(model: Any) -> Network:
    """The description, which the model that is built of it bears out."""
    network, table = describe(model)
    check_parity(model, network, TensorTable(table))
    assert parse_network(pack_network(network)) == network
    return network


def after_convolution(end: Callable[[Any, Any], Any], shape: tuple[int, ...] = IMAGE) -> Any:
    """A classifier whose middle is what `end` makes of its input and of a convolution of it."""
    x = L.Input(shape)
    y = end(x, L.Conv2D(shape[-1], 1)(x))
    return keras.Model(x, L.Dense(2)(L.Flatten()(y) if len(y.shape) > 2 else y))


def attended(y: Any, **arguments: Any) -> Any:
    """What attention makes of the pixels of an image."""
    places = L.Reshape((16, 3))(y)
    return L.MultiHeadAttention(2, 3)(places, places, **arguments)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())
def test_each_layer_is_described_and_built_alike(make: Callable[[], Any]) -> None:
    described(make())


@pytest.mark.parametrize(
    "middle",
    [
        lambda x, y: x + y,
        lambda x, y: y - x,
        lambda _, y: y * 2.0,
        lambda _, y: np.float32([2, 3, 4]) * y,
        lambda _, y: y / 127.5 - 1.0,
        lambda _, y: 1.0 - y,
        lambda _, y: -y,
        lambda _, y: y + np.float32([1, 2, 3]),
        lambda _, y: tf.nn.bias_add(y, [1.0, 2.0, 3.0]),
        lambda _, y: tf.math.scalar_mul(2.0, y),
        lambda x, y: tf.add_n([x, y, y]),
        lambda x, y: tf.concat([x, y], -1),
        lambda _, y: tf.reshape(y, (-1, 48)),
        lambda _, y: tf.reshape(y, (tf.shape(y)[0], 16, tf.shape(y)[3])),
        lambda _, y: tf.expand_dims(y, 1),
        lambda _, y: tf.squeeze(tf.reduce_mean(y, [1, 2], keepdims=True), [1, 2]),
        lambda _, y: tf.reduce_mean(y, axis=[1, 2]),
        lambda _, y: tf.reduce_max(y, axis=(-3, -2)),
        lambda _, y: tf.pad(y, [[0, 0], [1, 1], [0, 2], [0, 0]]),
        lambda _, y: tf.clip_by_value(y, 0, 6),
        lambda _, y: tf.maximum(y, 0.0),
        lambda x, y: tf.maximum(tf.minimum(x * y, y), x),
        lambda _, y: L.GaussianDropout(0.3)(L.GaussianNoise(0.2)(L.SpatialDropout2D(0.5)(y))),
        lambda _, y: tf.nn.relu(y),
        lambda _, y: tf.nn.relu6(y),
        lambda _, y: tf.nn.leaky_relu(y, 0.1),
        lambda _, y: tf.nn.elu(tf.nn.silu(y)),
        lambda _, y: tf.nn.gelu(tf.nn.gelu(y), approximate=True),
        lambda _, y: tf.nn.selu(tf.math.softplus(tf.nn.softsign(y))),
        lambda _, y: tf.nn.softmax(y),
        lambda _, y: tf.tanh(tf.sigmoid(tf.identity(tf.cast(y, "float32")))),
        lambda _, y: keras.activations.relu(y, max_value=6),
        lambda _, y: keras.backend.mean(y, axis=[1, 2]),
        lambda _, y: keras.applications.mobilenet_v2.preprocess_input(y),
        lambda _, y: keras.applications.densenet.preprocess_input(y),
        lambda x, y: L.Average()([x, y, y]),
        lambda x, y: L.Subtract()([x, y]),
        lambda _, y: L.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 0.5, 6.0])(y),
        lambda _, y: L.Normalization(mean=1.0, variance=5.0, axis=None)(y),
        lambda _, y: L.Activation(tf.nn.relu)(y),
    ],
)
def test_operators_of_plain_arithmetic_are_described(middle: Callable[[Any, Any], Any]) -> None:
    described(after_convolution(middle))


@pytest.mark.parametrize(
    ("middle", "said"),
    [
        (lambda _, y: y[..., ::-1], "a slice of a value"),
        (lambda _, y: tf.sin(y), r"operator tf\.math\.sin is not supported; use layers, \+ - \* / and"),
        (lambda x, y: x / y, r"tf\.math\.truediv of these arguments"),
        (lambda _, y: y / 0.0, "dividing by"),
        (lambda _, y: y + np.ones((4, 1), np.float32), r"offset of shape \[4, 1\].*one for each channel"),
        (lambda _, y: y + tf.reduce_mean(y, [1, 2], True), "adds inputs of one shape"),
        (lambda _, y: tf.reduce_mean(y, [1]), r"axis = \[1\].*\[1, 2\]"),
        (lambda _, y: tf.clip_by_value(y, -1, 1), "clipping to -1 and 1"),
        (lambda _, y: tf.reshape(y, (-1, 24)), "other numbers"),
        (lambda _, y: y * tf.cast(tf.shape(y)[0], tf.float32), r"tf\.cast of these arguments"),
        (lambda _, y: L.Lambda(lambda z: z + 1)(y), r"layer 'lambda.*use layers of these: Activation, Add"),
        (lambda _, y: y * L.GlobalAveragePooling2D()(y), "joins inputs of one shape but for axes of size 1"),
        (lambda _, y: L.MultiHeadAttention(2, 3)(y, y), r"attention_axes = \(1, 2\)"),
        (lambda _, y: attended(y, attention_mask=tf.ones((1, 16, 16))), "a call with attention_mask"),
        (lambda _, y: attended(y, training=True), "training = True"),
        (lambda x, y: L.Dot((1, 1))([x, y]), "takes rows or matrices"),
        (lambda _, y: L.GroupNormalization(2, axis=1)(y), "axis = 1"),
        (lambda _, y: L.UnitNormalization(1)(y), "axis = 1"),
        (lambda _, y: L.Conv2DTranspose(4, 3, strides=2, output_padding=1)(y), "output_padding"),
        (lambda _, y: L.Conv2D(3, 1, kernel_constraint="max_norm")(y), "kernel_constraint is not supported; use none"),
        (lambda _, y: L.Conv2D(3, 1, activity_regularizer="l2")(y), "activity_regularizer"),
        (lambda _, y: L.Conv2D(3, 1, kernel_regularizer=keras.regularizers.OrthogonalRegularizer())(y), "L1, L2 or"),
        (lambda _, y: L.Conv2D(3, 1, activation="mish")(y), "activation mish.*linear, relu"),
        (lambda _, y: L.Dense(3, dtype="float16")(y), "float16"),
        (lambda _, y: L.BatchNormalization(axis=1)(y), r"axis = \[1\].*use \[3\]"),
        (lambda _, y: L.BatchNormalization()(y, training=False), "training = False of a layer that is not frozen"),
        (lambda _, y: L.BatchNormalization(synchronized=True)(y), "synchronized"),
        (lambda _, y: L.Dropout(0.3)(y, training=True), "training = True"),
        (lambda _, y: L.Dropout(0.3, noise_shape=(None, 1, 1, 3))(y), "noise_shape"),
        (lambda _, y: L.ReLU(threshold=1.0)(y), "threshold = 1"),
        (lambda _, y: L.ReLU(4.0)(y), "max_value = 4.*use 6"),
        (lambda _, y: L.Softmax(1)(y), "axis = 1"),
        (lambda x, y: L.Concatenate(0)([x, y]), "joining examples"),
        (lambda _, y: L.Add()([y, tf.ones((1, 4, 4, 3))]), "a call with constants"),
        (lambda _, y: L.Rescaling([[1.0], [2.0], [3.0], [4.0]])(y), r"scale of shape \[4, 1\]"),
        (lambda _, y: L.Flatten(data_format="channels_first")(y), "data_format = 'channels_first'"),
        (lambda _, y: L.LocallyConnected2D(2, 2)(y), r"\(LocallyConnected2D\): a layer of this kind is not supported"),
    ],
)
def test_what_has_no_words_is_refused_in_one_line(middle: Callable[[Any, Any], Any], said: str) -> None:
    model = after_convolution(middle)
    with pytest.raises(TaskError, match=said) as caught:
        describe(model)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(("layer '", "model '"))


def test_layers_of_nested_and_shared_models_have_names_of_their_own() -> None:
    x = L.Input((5,))
    inner = keras.Sequential([L.Input((5,)), L.Dense(5, "softmax", name="dense")], name="inner")
    network = described(keras.Model(x, L.Dense(2, "softmax", name="dense")(inner(inner(x)))))

    assert [layer.name for layer in network.layers] == ["dense", "dense.softmax", "dense_1", "dense.softmax_1"]
    assert [call.layer for call in network.calls] == [0, 1, 0, 1, 2, 3]


def test_equal_models_have_equal_descriptions() -> None:
    def make() -> Any:
        keras.backend.reset_uids()
        return NETWORKS["residual"]()

    assert describe(make()) == describe(make())


def test_a_frozen_base_may_be_called_as_in_inference() -> None:
    """The way that tutorials teach: its dropout is off, its statistics stay."""
    x = L.Input((8, 8, 3))
    layers = [L.Conv2D(4, 3), L.BatchNormalization(), L.Dropout(0.5), L.GlobalAveragePooling2D()]
    base = keras.Sequential([L.Input((8, 8, 3)), *layers], name="base")
    base.trainable = False
    model = keras.Model(x, L.Dense(2)(L.Dropout(0.3)(base(x, training=False))))
    network, table = describe(model)

    check_parity(model, network, TensorTable(table))
    assert [layer.rate for layer in network.layers if isinstance(layer, Dropout)] == [0.3]
    assert len(TensorTable(table).of(TensorClass.FROZEN)) == 6


def test_a_layer_that_is_frozen_in_part_is_refused() -> None:
    base = keras.Sequential([L.Input((5,)), L.Dense(5), L.BatchNormalization(name="odd")])
    base.trainable = False
    base.layers[-1].trainable = True  # it then moves its statistics, and learns no gamma
    x = L.Input((5,))
    with pytest.raises(TaskError, match="layer 'odd' is frozen in part; freeze the whole layer"):
        describe(keras.Model(x, L.Dense(2)(base(x))))


def output_of(model: Any) -> Output:
    (output,) = task_outputs(describe(model)[0], Training(1, loss=SPARSE))
    return output


def test_what_the_output_does_not_depend_on_is_left_out_unless_it_has_weights() -> None:
    x, y = L.Input((6,)), L.Input((6,))
    logits = L.Dense(3)(x)
    inner = keras.Model(x, [L.Softmax()(logits), logits])
    assert [output_of(keras.Model(y, end)).from_logits for end in inner(y)] == [False, True]

    inner = keras.Model(x, [L.Dense(3)(x), L.Dense(3, name="unused")(x)])
    with pytest.raises(TaskError, match=r"layer 'unused' \(Dense\): the output does not depend on its kernel"):
        describe(keras.Model(y, inner(y)[0]))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: keras.Sequential([L.Dense(3)]), "unknown input shape"),
        (lambda: keras.Model({"a": (a := L.Input((3,)))}, L.Dense(2)(a)), "its inputs in a dict or a tuple"),
        (lambda: keras.Model(x := L.Input((3,)), (L.Dense(2)(x), L.Dense(2)(x))), "its outputs in a dict or a tuple"),
        (lambda: keras.Model([L.Input((3,), name="a b"), y := L.Input((3,))], L.Dense(2)(y)), "its inputs 'a b'; name"),
        (lambda: keras.Model([L.Input((3,), name="a"), y := L.Input((3,))], L.Dense(2)(y)), "nothing takes input 'a'"),
        (lambda: keras.Model(x := L.Input((3,)), [L.Dense(2)(x) for _ in range(17)]), "has 17 outputs; .* most 16"),
        (lambda: keras.Sequential([L.Input((None, 3)), L.Dense(2)]), r"takes float32\[None, None, 3\]"),
        (lambda: keras.Sequential([L.Input((3,), batch_size=4), L.Dense(2)]), "in batches of any size"),
        (lambda: keras.Sequential([L.Input((3,), dtype="int32"), L.Rescaling(1.0), L.Dense(2)]), "takes int32"),
        (lambda: keras.Model(x := L.Input((3,)), tf.shape(L.Dense(2)(x))), "returns a shape"),
    ],
)
def test_a_model_must_have_inputs_and_outputs_that_a_task_can_name(model: Callable[[], Any], said: str) -> None:
    with pytest.raises(TaskError, match=said):
        describe(model())


class _Own(keras.Model):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x + 1


def test_a_model_with_code_of_its_own_is_refused() -> None:
    x = L.Input((3,))
    with pytest.raises(TaskError, match=r"\(_Own\): a model with code of its own is not supported"):
        describe(keras.Model(x, L.Dense(2)(_Own()(x))))


def test_a_model_for_images_of_any_size_may_be_part_of_one_of_a_fixed_size() -> None:
    any_size = keras.Sequential([L.Input((None, None, 3)), L.Conv2D(4, 3), L.GlobalAveragePooling2D()])
    x = L.Input((6, 7, 3))
    assert described(keras.Model(x, L.Dense(2)(any_size(x)))).shapes()[1] == (4, 5, 4)


def test_a_mistake_in_a_description_is_found() -> None:
    """Each change is one that a wrong reader would make."""
    model = NETWORKS["residual"]()
    network, table = describe(model)

    def changed(kind: type, **attributes: Any) -> Network:

        layers = tuple(
            msgspec.structs.replace(layer, **attributes) if isinstance(layer, kind) else layer
            for layer in network.layers
        )
        return msgspec.structs.replace(network, layers=layers)

    mistakes = [
        changed(BatchNormalization, epsilon=1e-5),
        changed(BatchNormalization, momentum=0.9),
        changed(BatchNormalization, unbiased=False),
        changed(GlobalPooling, statistic="max"),
        msgspec.structs.replace(network, penalties=()),
    ]
    for mistake in mistakes:
        with pytest.raises(TaskError, match="is described wrongly"):
            check_parity(model, mistake, TensorTable(table))


def test_frozen_tensors_are_not_trained_and_variables_come_in_the_tables_order() -> None:
    model = NETWORKS["residual"]()
    network, table = describe(model)
    built, variables = build_model(network, TensorTable(table))
    trained = {variable.ref() for variable in built.trainable_variables}

    assert list(variables) == [spec.name for spec in table]
    for spec in table:
        learns = spec.kind not in (TensorClass.FROZEN, TensorClass.STATISTICS)
        assert (variables[spec.name].ref() in trained) is learns, spec.name


def test_names_that_tensorflow_does_not_take_are_replaced() -> None:

    network, table = describe(keras.Sequential([L.Input((3,)), L.Dense(2)]))
    odd = msgspec.structs.replace(network.layers[0], name="it's\nodd: ü")
    built, variables = build_model(msgspec.structs.replace(network, layers=(odd,)), TensorTable(table))

    assert built(np.zeros((1, 3), np.float32)).shape == (1, 2)
    assert len(variables) == 2


SPARSE = Loss.SPARSE_CATEGORICAL_CROSSENTROPY


def test_arithmetic_becomes_few_layers() -> None:
    x = L.Input(IMAGE)
    network = described(keras.Model(x, L.Dense(2)(L.Flatten()(keras.applications.mobilenet_v2.preprocess_input(x)))))
    assert [type(layer) for layer in network.layers[:2]] == [Rescaling, Rescaling]
    assert not any(isinstance(layer, Add) for layer in network.layers)
