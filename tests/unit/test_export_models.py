"""What a bundle says of a Keras model: built-in models, form, tensor table, and recipes for initial weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from export.architecture import task_outputs, tensor_table
from export.describing.model import describe
from export.initial import recipe, redrawn
from export.models import cnn_108k
from fedprune.errors import TaskError
from fedprune.keras.stack import keras, tfmot
from fedprune.model.losses import Loss
from fedprune.model.tensors import TensorClass, TensorTable
from fedprune.task.bundle import Fill, Uniform
from fedprune.task.outputs import Output
from fedprune.task.training import Training

L = keras.layers
SPARSE, ONE_HOT, BINARY, SQUARED = Loss


def sequential(input_shape: tuple[int | None, ...], *layers: Any) -> Any:
    return keras.Sequential([L.Input(input_shape), *layers])


def nested() -> Any:
    """Layers of every class of tensor; the inner model's dense layer has the same name as the outer one's."""
    inner = sequential((6, 6, 4), L.DepthwiseConv2D(3), L.BatchNormalization(), L.Flatten(), L.Dense(5, name="dense"))
    x = L.Input((8, 8, 3))
    y = inner(L.BatchNormalization()(L.Conv2D(4, 3, use_bias=False)(L.Rescaling(0.5)(x))))
    return keras.Model(x, L.Dense(3, name="dense")(y))


def described_output(model: Any, loss: Loss) -> Output:
    (output,) = task_outputs(describe(model)[0], Training(1, loss=loss))
    return output


def test_cnn_108k_is_the_reference_model() -> None:
    model = cnn_108k((28, 28, 1), 10)
    table = TensorTable(tensor_table(model))

    assert (model.count_params(), table.parameters, table.prunable) == (108_618, 108_618, 108_432)
    assert [spec.name for spec in table.of(TensorClass.PRUNABLE)] == [
        "conv1/kernel",
        "conv2/kernel",
        "dense/kernel",
        "logits/kernel",
    ]


@pytest.mark.parametrize(("input_shape", "classes"), [((20, 20, 1), 3), ((10, 32, 3), 2)])
def test_cnn_108k_takes_other_images_and_classes(input_shape: tuple[int, ...], classes: int) -> None:
    model = cnn_108k(input_shape, classes)

    assert describe(model)[0].inputs == (input_shape,)
    assert described_output(model, SPARSE) == Output((classes,), from_logits=True)


@pytest.mark.parametrize("input_shape", [(9, 28, 1), (28, 28), (64,)])
def test_cnn_108k_refuses_what_is_no_image_or_too_small(input_shape: tuple[int, ...]) -> None:
    with pytest.raises(TaskError, match="at least 10x10"):
        cnn_108k(input_shape, 10)


def test_the_table_has_the_order_and_shapes_of_the_stripped_model() -> None:
    model = nested()
    stripped = tfmot.sparsity.keras.strip_pruning(model)

    assert [spec.shape for spec in tensor_table(model)] == [tuple(weight.shape) for weight in stripped.weights]


def test_every_tensor_has_its_class() -> None:
    kinds = {spec.name.rpartition("/")[2]: spec.kind for spec in tensor_table(nested())}

    assert kinds == {
        "kernel": TensorClass.PRUNABLE,
        "depthwise_kernel": TensorClass.DENSE,
        "bias": TensorClass.DENSE,
        "gamma": TensorClass.DENSE,
        "beta": TensorClass.DENSE,
        "moving_mean": TensorClass.STATISTICS,
        "moving_variance": TensorClass.STATISTICS,
    }


def test_statistics_come_in_pairs_of_one_layer_the_mean_first() -> None:
    statistics = TensorTable(tensor_table(nested())).of(TensorClass.STATISTICS)

    assert [spec.name.rpartition("/")[2] for spec in statistics] == ["moving_mean", "moving_variance"] * 2
    assert [spec.layer for spec in statistics[::2]] == [spec.layer for spec in statistics[1::2]]
    assert statistics[0].layer != statistics[2].layer


def test_names_are_unique_where_nested_layers_share_one() -> None:
    names = [spec.name for spec in tensor_table(nested())]

    assert {"dense/kernel", "dense_1/kernel"} <= set(names)
    assert len(set(names)) == len(names)


def test_counters_are_integer_tensors() -> None:
    model = sequential((4,), L.Dense(2))
    model.layers[0].counter = keras.backend.variable(7, "int64", "dense/counter")

    assert [spec.kind for spec in tensor_table(model) if "int" in spec.dtype] == [TensorClass.INTEGER]


@pytest.mark.parametrize(
    ("loss", "ending", "from_logits"),
    [
        (SPARSE, [L.Dense(3)], True),
        (ONE_HOT, [L.Dense(3, "softmax")], False),
        (SPARSE, [L.Dense(3), L.Softmax()], False),
        (SPARSE, [L.Dense(3), L.Activation("softmax")], False),
        (SPARSE, [keras.Sequential([L.Input((4,)), L.Dense(3, "softmax")])], False),
        (BINARY, [L.Dense(1)], True),
        (BINARY, [L.Dense(3, "sigmoid")], False),
        (BINARY, [L.Dense(3), L.Activation("sigmoid")], False),
        (SQUARED, [L.Dense(1)], False),
        (SQUARED, [L.Dense(2, "tanh")], False),
    ],
)
def test_the_last_activation_tells_logits_from_probabilities(loss: Loss, ending: list[Any], from_logits: bool) -> None:
    form = described_output(sequential((4,), *ending), loss)

    assert form.from_logits is from_logits


def two_inputs() -> Any:
    """By name, which a task's arrays have too, but Keras orders otherwise."""
    a, b = L.Input((4,)), L.Input((4,))
    return keras.Model({"a": a, "b": b}, L.Dense(2)(L.Add()([a, b])))


def two_outputs() -> Any:
    x = L.Input((4,))
    return keras.Model(x, [L.Dense(2, name="one")(x), L.Dense(3, name="other")(x)])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (two_inputs(), "has its inputs in a dict or a tuple; make it of a single one"),
        (
            two_outputs(),
            r"outputs one, other, and training.losses has none; give a table",
        ),
        (keras.Sequential([L.Dense(2)]), "unknown input shape"),
        (sequential((None, 3), L.GlobalAveragePooling1D(), L.Dense(2)), "fixed shape"),
        (keras.Sequential([L.Input((4,), batch_size=8), L.Dense(2)]), "batches of any size"),
        (keras.Sequential([L.Input((4,), dtype="int32"), L.Flatten(), L.Dense(2)]), "float32"),
    ],
    ids=["inputs", "outputs", "unbuilt", "open", "batch", "int"],
)
@pytest.mark.parametrize("loss", [SPARSE, SQUARED])
def test_what_is_no_model_of_fixed_inputs_with_a_loss_for_each_output_is_refused(
    model: Any, message: str, loss: Loss
) -> None:
    with pytest.raises(TaskError, match=message):
        described_output(model, loss)


@pytest.mark.parametrize(
    ("loss", "ending", "message"),
    [
        (SPARSE, [L.Dense(1)], "2 outputs at least"),
        (ONE_HOT, [L.Dense(1, "softmax")], "2 outputs at least"),
        (SPARSE, [L.Dense(2, "sigmoid", name="odd")], r"layer 'odd\.sigmoid', .* neither softmax"),
        (BINARY, [L.Dense(2, "softmax", name="odd")], r"layer 'odd\.softmax', .* neither sigmoid"),
        (BINARY, [L.Dense(2), L.Softmax(name="odd")], "layer 'odd', .* neither sigmoid"),
        (SPARSE, [L.Dense(2), L.Dropout(0.5, name="last")], "layer 'last'"),
    ],
)
def test_outputs_that_do_not_suit_the_loss_are_refused(loss: Loss, ending: list[Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        described_output(sequential((4,), *ending), loss)


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (sequential((4,), L.Normalization(name="adapted"), L.Dense(2)), "adapted"),
        (sequential((4,), L.Dense(2, dtype="float16", name="half")), "half"),
    ],
    ids=["Normalization", "float16"],
)
def test_layers_that_a_federation_cannot_train_are_named(model: Any, layer: str) -> None:
    with pytest.raises(TaskError, match=f"layer '{layer}'"):
        tensor_table(model)


@pytest.mark.parametrize(
    ("layer", "fan"),
    [
        (L.Dense(5), (7 + 5) / 2),
        (L.Dense(5, kernel_initializer="he_uniform"), 7 / 2),
        (L.Conv1D(5, 3), (3 * 7 + 3 * 5) / 2),
        (L.DepthwiseConv1D(3, depth_multiplier=2), (3 * 7 + 3 * 2) / 2),
    ],
    ids=["glorot", "he", "convolution", "depthwise"],
)
def test_kernels_have_the_limits_of_their_initialisers(layer: Any, fan: float) -> None:
    """The limit is sqrt(3 / fan), he_uniform's being sqrt(3 x 2 / fan_in)."""
    drawn = recipe(sequential((6, 7), layer), seed=3)

    assert drawn is not None
    assert drawn.seed == 3
    assert drawn.initializers == (Uniform(pytest.approx(math.sqrt(3 / fan))), Fill(0.0))


def test_batch_normalisation_starts_with_zeros_and_ones() -> None:
    drawn = recipe(sequential((6,), L.BatchNormalization()), seed=0)

    assert drawn is not None
    assert drawn.initializers == (Fill(1.0), Fill(0.0), Fill(0.0), Fill(1.0))


def test_a_table_of_embeddings_is_drawn_on_the_device() -> None:
    drawn = recipe(keras.Sequential([L.Input((4,), dtype="int32"), L.Embedding(5, 2)]), seed=0)

    assert drawn is not None
    assert drawn.initializers == (Uniform(0.05),)


@pytest.mark.parametrize(
    "layer",
    [L.Dense(2, kernel_initializer="he_normal"), L.LSTM(2, recurrent_initializer="glorot_uniform"), L.LSTM(2)],
    ids=["normal", "ones inside a bias", "orthogonal"],
)
def test_what_draws_otherwise_has_no_recipe(layer: Any) -> None:
    assert recipe(sequential((6, 7), layer), seed=0) is None


def test_weights_are_drawn_anew_from_the_seed_alone() -> None:
    model = sequential((6,), L.Dense(5, kernel_initializer="he_normal"), L.Dense(4))
    first, again, other = (redrawn(model, seed).get_weights() for seed in (1, 1, 2))

    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0], model.get_weights()[0])
