"""Keras' augmentation layers: images come out as TensorFlow's own transformations make them, at the front of a model
that is described, proven and exported without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from keras_bundles import bundle_of, learnable, seeded, weights_of
from test_litert_trainer import rounds_of_both

from edge_agent.augmentation import augment
from edge_agent.trainers import Trained, Work
from edge_agent.trainers.litert import LiteRTTrainer
from export.build import build_task
from export.describing.model import describe
from export.describing.parity import check_parity
from export.settings import ConstantSettings, ModelSettings, PruningSettings, TaskSettings
from fedprune.errors import TaskError
from fedprune.keras.stack import keras, tf
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, TensorTable
from fedprune.network.augmentation import AnyAugmentation, FillMode, RandomContrast
from fedprune.network.description import Network
from fedprune.network.layers import Rescaling
from fedprune.pruning.masks import full_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.task.bundle import Bundle, read_bundle
from fedprune.task.training import Training

L = keras.layers
_preprocessing = keras.src.layers.preprocessing.image_preprocessing

IMAGE = (8, 8, 3)
BATCH, ROWS, COLUMNS = 24, 17, 22
ROUNDING = 255 * 1e-4
"""TensorFlow computes places in float32: of pixels from 0 to 255, an error of 1e-5 pixels is one of 3e-3."""
DENSE = ConstantSparsity(begin_step=1, frequency=1, target_sparsity=0.0)


def pictures() -> Array:
    return Keyed(4, "pictures").uniform(BATCH * ROWS * COLUMNS * 3, 0.0, 255.0).reshape(BATCH, ROWS, COLUMNS, 3)


def described(*layers: Any, shape: tuple[int, ...] = IMAGE) -> Network:
    """The description of a small classifier that begins with `layers`, which its parts bear out."""
    model = classifier(*layers, shape=shape)
    network, table = describe(model)
    check_parity(model, network, TensorTable(table))
    return network


def classifier(*layers: Any, shape: tuple[int, ...] = IMAGE) -> Any:
    middle = L.Conv2D(4, 3, strides=2, activation="relu", name="convolution")
    return keras.Sequential([L.Input(shape), *layers, middle, L.Flatten(name="flat"), L.Dense(4, name="end")])


def drawn(keyed: Keyed, low: float, high: float) -> Array:
    return keyed.uniform(BATCH, low, high)


def rotation(keyed: Keyed) -> Any:
    turns = drawn(keyed, -0.3, 0.2)
    return _preprocessing.get_rotation_matrix(tf.constant(2 * np.pi * turns, tf.float32), float(ROWS), float(COLUMNS))


def translation(keyed: Keyed) -> Any:
    down, right = drawn(keyed, -0.9, 0.7) * ROWS, drawn(keyed, -0.4, 0.8) * COLUMNS
    return _preprocessing.get_translation_matrix(tf.constant(np.stack([right, down], axis=1)))


def zoom(keyed: Keyed) -> Any:
    high, wide = 1.0 + drawn(keyed, -0.5, 0.9), 1.0 + drawn(keyed, -0.2, 0.8)
    return _preprocessing.get_zoom_matrix(tf.constant(np.stack([wide, high], axis=1)), float(ROWS), float(COLUMNS))


def zoom_of_both(keyed: Keyed) -> Any:
    both = 1.0 + drawn(keyed, -0.3, 0.3)
    return _preprocessing.get_zoom_matrix(tf.constant(np.stack([both, both], axis=1)), float(ROWS), float(COLUMNS))


TRANSFORMS: dict[str, tuple[Callable[..., Any], Callable[[Keyed], Any]]] = {
    "rotation": (lambda **how: L.RandomRotation((-0.3, 0.2), **how), rotation),
    "translation": (lambda **how: L.RandomTranslation((-0.9, 0.7), (-0.4, 0.8), **how), translation),
    "zoom": (lambda **how: L.RandomZoom((-0.5, 0.9), (-0.2, 0.8), **how), zoom),
    "zoom of both": (lambda **how: L.RandomZoom(0.3, **how), zoom_of_both),
}
"""A Keras layer, and the matrices of TensorFlow's transformation for the factors that are drawn."""


@pytest.mark.parametrize("mode", FillMode)
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize(("make", "matrices"), TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_images_are_those_of_tensorflow_for_the_same_factors(
    make: Callable[..., Any], matrices: Callable[[Keyed], Any], interpolation: str, mode: str
) -> None:
    how: dict[str, Any] = {"fill_mode": str(mode), "interpolation": interpolation, "fill_value": 33.0}
    network, _ = describe(classifier(make(**how), shape=(ROWS, COLUMNS, 3)))

    found = augment(pictures(), network.augmentation, Keyed(6))

    expected = _preprocessing.transform(tf.constant(pictures()), matrices(Keyed(6)), **how).numpy()
    # Where rounding decides between two pixels, either may be taken: at an edge that wraps, or half-way between them.
    apart = np.abs(found - expected).max(axis=-1) > ROUNDING
    assert apart.mean() < 2e-3
    assert mode == "wrap" or interpolation == "nearest" or not apart.any()


def test_contrast_is_that_of_tensorflow_for_the_same_factors() -> None:
    network = described(L.RandomContrast((0.5, 0.9)))

    found = augment(pictures(), network.augmentation, Keyed(6))

    factors = drawn(Keyed(6), 0.5, 1.9)
    expected = [tf.image.adjust_contrast(image, factor) for image, factor in zip(pictures(), factors, strict=True)]
    np.testing.assert_allclose(found, np.clip(np.stack(expected), 0.0, 255.0), atol=ROUNDING)


@pytest.mark.parametrize(("mode", "ways"), [("horizontal", 2), ("vertical", 2), ("horizontal_and_vertical", 4)])
def test_images_are_mirrored_as_the_mode_says(mode: str, ways: int) -> None:
    image = pictures()[:1]
    network = described(L.RandomFlip(mode))

    found = {augment(image, network.augmentation, Keyed(number)).tobytes() for number in range(60)}

    mirrors = {"horizontal": [tf.image.flip_left_right], "vertical": [tf.image.flip_up_down]}
    expected = {image.tobytes()}
    for name in ("horizontal", "vertical"):
        if name in mode:
            expected |= {
                mirror(np.frombuffer(one, np.float32).reshape(image.shape)).numpy().tobytes()
                for one in expected
                for mirror in mirrors[name]
            }
    assert len(expected) == ways
    assert found == expected


# Where it may be

FRONTS: dict[str, Callable[[], list[Any]]] = {
    "alone": lambda: [L.RandomFlip(), L.RandomRotation(0.1)],
    "nested": lambda: [keras.Sequential([L.Input(IMAGE), L.RandomFlip(), L.RandomRotation(0.1)])],
    "before a rescaling": lambda: [L.RandomFlip(), L.RandomRotation(0.1), L.Rescaling(1 / 255)],
    "after a rescaling": lambda: [L.Rescaling(1 / 255), L.RandomFlip(), L.RandomRotation(0.1)],
    "around one": lambda: [L.RandomFlip(), L.Rescaling(1 / 127.5, offset=-1.0), L.RandomRotation(0.1)],
    "after a normalization": lambda: [
        L.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 0.5, 6.0]), L.RandomFlip(), L.RandomRotation(0.1),
    ],
}  # fmt: skip


@pytest.mark.parametrize("make", FRONTS.values(), ids=FRONTS.keys())
def test_augmentation_at_the_front_is_described_apart(make: Callable[[], list[Any]]) -> None:
    network = described(*make())

    assert [type(layer).__name__ for layer in network.augmentation] == ["RandomFlip", "RandomRotation"]
    rest = {type(layer).__name__ for layer in network.layers} - {"Rescaling"}
    assert rest == {"Activation", "Convolution", "Dense", "Reshape"}


def test_numbers_are_in_the_units_of_the_input() -> None:
    network = described(
        L.Rescaling(1 / 127.5, offset=-1.0),
        L.RandomZoom(0.1, fill_mode="constant", fill_value=1.0),
        L.RandomContrast(0.2),
    )

    zoom, contrast = network.augmentation
    assert zoom.fill == pytest.approx((255.0,))
    assert isinstance(contrast, RandomContrast)
    assert contrast.low == pytest.approx((127.5,))
    assert isinstance(network.layers[0], Rescaling)


def test_a_call_without_training_augments_nothing() -> None:
    x = L.Input(IMAGE)
    front = keras.Sequential([L.Input(IMAGE), L.RandomFlip()])
    model = keras.Model(x, L.Dense(3)(L.Flatten()(front(x, training=False))))

    assert describe(model)[0].augmentation == ()


def _after_a_convolution() -> Any:
    return keras.Sequential([L.Input(IMAGE), L.Conv2D(3, 1), L.RandomFlip(name="late"), L.Flatten(), L.Dense(3)])


def _of_one_branch() -> Any:
    x = L.Input(IMAGE)
    y = L.Concatenate()([x, L.RandomZoom(0.2, name="late")(x)])
    return keras.Model(x, L.Dense(3)(L.Flatten()(y)))


def _twice() -> Any:
    x = L.Input(IMAGE)
    flips = [L.RandomFlip(name=name)(x) for name in ("late", "later")]
    return keras.Model(x, L.Dense(3)(L.Flatten()(L.Add()(flips))))


def _of_rows() -> Any:
    return keras.Sequential([L.Input((8, 3)), L.RandomFlip(name="late"), L.Flatten(), L.Dense(3)])


def _after_nothing() -> Any:
    front = [L.Input(IMAGE), L.Rescaling(0.0), L.RandomContrast(0.1, name="late")]
    return keras.Sequential([*front, L.Flatten(), L.Dense(3)])


def _of_another_kind() -> Any:
    return keras.Sequential([L.Input(IMAGE), L.RandomBrightness(0.1, name="late"), L.Flatten(), L.Dense(3)])


FRONT = r"layer 'late' augments elsewhere than at the front of the model; put it after the input"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_after_a_convolution, FRONT),
        (_of_one_branch, FRONT),
        (_twice, FRONT),
        (_of_rows, r"layer 'late' augments images of rows, columns and channels, not the shape \[8, 3\]"),
        (_after_nothing, r"layer 'late' comes after a scale of 0"),
        (_of_another_kind, r"layer 'late' \(RandomBrightness\).*use layers of these: .*RandomContrast"),
    ],
)
def test_augmentation_elsewhere_is_refused_in_one_line(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(TaskError, match=said) as caught:
        describe(make())
    assert "\n" not in str(caught.value)


# In training


def augmenting() -> Any:
    return classifier(L.RandomFlip(), L.RandomTranslation(0.2, 0.2, fill_mode="constant"), L.RandomContrast(0.3))


def test_both_trainers_learn_from_the_same_augmented_examples() -> None:
    model = seeded(augmenting())
    bundle = bundle_of(model, DENSE, mask=MaskPolicy.SHARED)
    data = learnable(50, shape=IMAGE)

    theirs, _ = rounds_of_both(bundle, weights_of(model), data, "reset", 1e-4)

    plain = replace(bundle, network=msgspec.structs.replace(bundle.network, augmentation=()))
    assert abs(a_round(plain, 3).loss - a_round(bundle, 3).loss) > 1e-3
    assert theirs[-1].loss < theirs[0].loss


def test_rounds_differ_in_what_they_draw() -> None:
    bundle = bundle_of(seeded(augmenting()), DENSE, mask=MaskPolicy.SHARED)

    first, again, other = (a_round(bundle, key).loss for key in (1, 1, 2))

    assert first == again
    assert first != other


def a_round(bundle: Bundle, key: int) -> Trained:
    """The litert trainer's, from the first weights, with one batch that holds all examples."""
    data = learnable(16, shape=IMAGE)
    work = Work(bundle.initial_weights(), full_mask(bundle.task.table), 0, None, Keyed(7, key))
    return LiteRTTrainer(bundle, examples=len(data), threads=1).train(work, data)


def test_a_task_is_built_whose_graphs_are_those_without(tmp_path: Path) -> None:
    def graphs(model: Any) -> tuple[Bundle, list[str]]:
        model.save(tmp_path / "model.keras")
        pruning = PruningSettings(ConstantSettings(begin_round=1, target_sparsity=0.5))
        settings = TaskSettings("images", ModelSettings(file="model.keras"), Training(4, 8), pruning)
        bundle = read_bundle(build_task(settings, tmp_path))
        return bundle, [graph.sha256 for graph in bundle.graphs]

    bundle, proven = graphs(augmenting())
    plain, expected = graphs(classifier())

    assert proven == expected
    assert len(proven) == 4
    assert msgspec.structs.replace(bundle.network, name="", augmentation=()) == msgspec.structs.replace(
        plain.network, name=""
    )
    assert kinds(bundle.network.augmentation) == ["RandomFlip", "RandomTranslation", "RandomContrast"]


def kinds(layers: tuple[AnyAugmentation, ...]) -> list[str]:
    return [type(layer).__name__ for layer in layers]
