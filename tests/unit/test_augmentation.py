"""Augmented images: equal on every machine, drawn as Keras documents, and nothing of it where a factor is none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import product
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_agent.augmentation import augment
from edge_agent.augmentation.geometry import cosine_and_sine
from edge_agent.trainers.batches import Augmenter
from fedprune.errors import TaskError
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array
from fedprune.network.augmentation import (
    MAX_AUGMENTATION,
    AnyAugmentation,
    FillMode,
    Interpolation,
    RandomContrast,
    RandomFlip,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
    in_other_units,
)
from fedprune.network.description import Network, pack_network, parse_network
from tests.described import chain_of, dense, embedding, table_of

PLAIN: dict[str, Any] = {"fill_mode": FillMode.NEAREST, "interpolation": Interpolation.BILINEAR}
FLIP = RandomFlip(name="flip", horizontal=True, vertical=True)
ROTATION = RandomRotation(name="rotation", turns=(-0.1, 0.05), **PLAIN)
TRANSLATION = RandomTranslation(name="translation", height=(-0.2, 0.1), width=(0.0, 0.3), **PLAIN)
ZOOM = RandomZoom(name="zoom", height=(-0.3, 0.1), width=(-0.1, 0.4), **PLAIN)
CONTRAST = RandomContrast(name="contrast", factor=(0.6, 1.5), low=(0.0,), high=(255.0,))
ALL: tuple[AnyAugmentation, ...] = (FLIP, ROTATION, TRANSLATION, ZOOM, CONTRAST)


def changed(layer: AnyAugmentation, **changes: Any) -> AnyAugmentation:
    return msgspec.structs.replace(layer, **changes)


def pictures(*shape: int, high: float = 255.0) -> Array:
    return Keyed(3, "pictures").uniform(int(np.prod(shape)), 0.0, high).reshape(shape)


def ramps(batch: int, rows: int = 21, columns: int = 15) -> Array:
    """Images of two channels: the number of the row, and of the column."""
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
    return np.repeat(places[np.newaxis], batch, axis=0).astype(np.float32)


def test_augmented_images_are_the_same_on_every_machine() -> None:
    digest = hashlib.sha256()
    images = pictures(3, 11, 14, 3)
    for mode, interpolation in product(FillMode, Interpolation):
        how = {"fill_mode": mode, "interpolation": interpolation, "fill": (7.0, 8.0, 9.5)}
        layers = (FLIP, changed(ROTATION, **how), changed(TRANSLATION, **how), changed(ZOOM, **how), CONTRAST)
        digest.update(augment(images, layers, Keyed(1, mode)).astype("<f4").tobytes())

    assert digest.hexdigest() == "f0c088ba34756b0e0f9ebaa1b9056c1a9e049a49aa2b701106f997937c39c312"


def test_cosine_and_sine_are_those_of_the_angle() -> None:
    turns = np.linspace(-3.0, 3.0, 97)

    found = [cosine_and_sine(float(part)) for part in turns]

    np.testing.assert_allclose(found, np.exp(2j * np.pi * turns).view(np.float64).reshape(-1, 2), rtol=0, atol=1e-14)


def test_images_are_mirrored_each_way_at_even_odds() -> None:
    images = ramps(2000, 2, 2)

    seen = {image.tobytes() for image in augment(images, (FLIP,), Keyed(1))}
    upright = augment(images, (changed(FLIP, vertical=False),), Keyed(1))
    level = augment(images, (changed(FLIP, horizontal=False),), Keyed(1))

    assert len(seen) == 4
    assert (upright[..., 0] == images[..., 0]).all()
    assert (level[..., 1] == images[..., 1]).all()
    for mirrored in (upright, level):
        assert (mirrored != images).any(axis=(1, 2, 3)).mean() == pytest.approx(0.5, abs=0.05)


def slopes(images: Array) -> Array:
    """Around the centre of each image of `ramps`, by how much each channel grows from row to row and column to column:
    `[batch, channel, axis]`."""
    rows, columns = images.shape[1] // 2, images.shape[2] // 2
    down = images[:, rows + 1, columns] - images[:, rows, columns]
    aside = images[:, rows, columns + 1] - images[:, rows, columns]
    return np.stack([down, aside], axis=-1)


def assert_uniform(found: Array, low: float, high: float) -> None:
    assert found.min() == pytest.approx(low, abs=0.01 * (high - low) + 1e-4)
    assert found.max() == pytest.approx(high, abs=0.01 * (high - low) + 1e-4)
    counts, _ = np.histogram(found, bins=4, range=(low, high))
    assert counts == pytest.approx(len(found) / 4, rel=0.15)


def test_angles_are_uniform_over_the_range() -> None:
    found = slopes(augment(ramps(2000), (ROTATION,), Keyed(2)))

    turns = np.arctan2(found[:, 0, 1], found[:, 0, 0]) / (2.0 * np.pi)
    assert_uniform(turns, -0.1, 0.05)
    np.testing.assert_allclose(found[:, 0], found[:, 1, ::-1] * [1.0, -1.0], atol=1e-4)


def test_images_move_down_and_right_by_parts_of_their_size() -> None:
    images = ramps(2000)

    moved = (images - augment(images, (TRANSLATION,), Keyed(2)))[:, 10, 7]

    assert_uniform(moved[:, 0] / 21, -0.2, 0.1)
    assert_uniform(moved[:, 1] / 15, 0.0, 0.3)
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.1


def test_zooms_are_uniform_and_leave_the_centre() -> None:
    zoomed = augment(ramps(2000), (ZOOM,), Keyed(2))

    found = slopes(zoomed)
    assert_uniform(found[:, 0, 0] - 1.0, -0.3, 0.1)
    assert_uniform(found[:, 1, 1] - 1.0, -0.1, 0.4)
    np.testing.assert_allclose(zoomed[:, 10, 7], np.broadcast_to([10, 7], (2000, 2)), atol=1e-4)


def test_without_a_factor_of_its_own_the_width_is_zoomed_as_the_height() -> None:
    found = slopes(augment(ramps(50), (changed(ZOOM, width=None),), Keyed(2)))

    np.testing.assert_allclose(found[:, 0, 0], found[:, 1, 1], atol=1e-5)


def test_contrast_is_one_factor_for_all_channels_of_an_image() -> None:
    images = 100.0 + ramps(2000)

    found = slopes(augment(images, (CONTRAST,), Keyed(2)))

    assert_uniform(found[:, 0, 0], 0.6, 1.5)
    np.testing.assert_allclose(found[:, 0, 0], found[:, 1, 1], atol=1e-4)


def test_contrast_keeps_the_mean_and_is_cut_off() -> None:
    images = pictures(4, 30, 30, 2)
    images[..., 0] = 100.0 + images[..., 0] / 10

    contrasted = augment(images, (changed(CONTRAST, factor=(3.0, 3.0)),), Keyed(2))

    np.testing.assert_allclose(contrasted[..., 0].mean(axis=(1, 2)), images[..., 0].mean(axis=(1, 2)), rtol=1e-4)
    assert contrasted[..., 1].min() == 0.0
    assert contrasted[..., 1].max() == 255.0


@pytest.mark.parametrize(
    "layer",
    [
        changed(ROTATION, turns=(0.0, 0.0)),
        changed(TRANSLATION, height=(0.0, 0.0), width=(0.0, 0.0)),
        changed(ZOOM, height=(0.0, 0.0), width=None),
        changed(FLIP, horizontal=False, vertical=False),
    ],
)
@pytest.mark.parametrize("mode", FillMode)
@pytest.mark.parametrize("interpolation", Interpolation)
def test_a_factor_of_nothing_leaves_every_bit(
    layer: AnyAugmentation, mode: FillMode, interpolation: Interpolation
) -> None:
    images = pictures(2, 6, 9, 3)
    if not isinstance(layer, RandomFlip):
        layer = changed(layer, fill_mode=mode, interpolation=interpolation)

    np.testing.assert_array_equal(augment(images, (layer,), Keyed(1)), images)


def test_a_quarter_turn_is_counter_clockwise() -> None:
    images = pictures(1, 5, 5, 1)

    turned = augment(images, (changed(ROTATION, turns=(0.25, 0.25)),), Keyed(1))

    np.testing.assert_allclose(turned[0], np.rot90(images[0]), atol=1e-3)


def test_images_of_one_pixel_can_be_augmented() -> None:
    for mode in set(FillMode) - {FillMode.CONSTANT}:
        layers = [changed(layer, fill_mode=mode) for layer in (ROTATION, TRANSLATION, ZOOM)]

        np.testing.assert_array_equal(augment(pictures(3, 1, 1, 2), layers, Keyed(1)), pictures(3, 1, 1, 2))


@pytest.mark.parametrize("layer", ALL, ids=lambda layer: layer.name)
@pytest.mark.parametrize("mode", FillMode)
def test_what_comes_after_a_rescaling_may_as_well_come_before(layer: AnyAugmentation, mode: FillMode) -> None:
    scale, offset = np.float32([0.5, -2.0, 1e-2]), np.float32([1.0, 0.0, -3.0])
    images = pictures(3, 8, 7, 3)
    if not isinstance(layer, RandomFlip | RandomContrast):
        layer = changed(layer, fill_mode=mode, fill=(4.0,))

    before = in_other_units(layer, tuple(scale.tolist()), tuple(offset.tolist()))

    expected = augment(images * scale + offset, (layer,), Keyed(5))
    np.testing.assert_allclose(augment(images, (before,), Keyed(5)) * scale + offset, expected, atol=1e-3)


# In training

IMAGES = msgspec.structs.replace(chain_of((6, 5, 3), dense()), augmentation=ALL)


def test_each_step_draws_for_itself_whatever_came_before() -> None:
    x = pictures(4, 6, 5, 3)

    forwards, backwards = Augmenter(IMAGES, Keyed(1)), Augmenter(IMAGES, Keyed(1))
    other = Augmenter(IMAGES, Keyed(2))
    first, second = (forwards.augmented(x, step) for step in (0, 1))
    again = [backwards.augmented(x, step) for step in (1, 0)]

    np.testing.assert_array_equal(again, [second, first])
    assert (first != second).any()
    assert (first != other.augmented(x, 0)).any()


def test_what_goes_in_stays_as_it_is() -> None:
    x = pictures(4, 6, 5, 3)

    Augmenter(IMAGES, Keyed(1)).augmented(x, 0)

    np.testing.assert_array_equal(x, pictures(4, 6, 5, 3))


def test_a_network_without_augmentation_draws_nothing() -> None:
    keyed, x = Keyed(1), np.zeros((3, 4), np.int32)

    augmenter = Augmenter(chain_of((4,), dense()), keyed)

    assert augmenter.augmented(x, 0) is x
    np.testing.assert_array_equal(keyed.integers(2), Keyed(1).integers(2))


# In the description


def test_augmentation_is_packed_and_parsed() -> None:
    network = parse_network(pack_network(IMAGES))

    network.check(table_of(network))

    assert network == IMAGES


def with_layer(layer: AnyAugmentation) -> Callable[[], Network]:
    return lambda: msgspec.structs.replace(IMAGES, augmentation=(layer,))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: msgspec.structs.replace(chain_of((6, 5), dense()), augmentation=(FLIP,)), "'flip' augments images"),
        (lambda: msgspec.structs.replace(chain_of((6,), embedding()), augmentation=(FLIP,)), "'flip' augments images"),
        (
            lambda: msgspec.structs.replace(chain_of((2, 2, 2), embedding()), augmentation=(FLIP,)),
            "'flip' augments images, and the input is ids",
        ),
        (with_layer(changed(ROTATION, turns=(0.2, 0.1))), "draws from 0.2 to 0.1"),
        (with_layer(changed(TRANSLATION, width=(0.2, 0.1))), "draws from 0.2 to 0.1"),
        (with_layer(changed(ZOOM, height=(-1.5, 0.1))), "zooms by -1.5"),
        (with_layer(changed(ZOOM, fill=(1.0, 2.0))), "has 2 numbers for 3 channels"),
        (with_layer(changed(CONTRAST, low=(1.0, 2.0))), "has 2 numbers for 3 channels"),
        (lambda: msgspec.structs.replace(IMAGES, augmentation=(FLIP,) * (MAX_AUGMENTATION + 1)), "augmentation"),
        (with_layer(changed(ROTATION, turns=(0.0, 1e9))), "<= 16"),
    ],
)
def test_what_no_image_can_go_through_is_refused_in_one_line(make: Callable[[], Network], said: str) -> None:
    with pytest.raises(TaskError) as caught:
        parse_network(pack_network(make())).shapes()

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
