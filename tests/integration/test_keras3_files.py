"""Files that Keras 3 saved: made anew in tf_keras, they answer and train as the originals do in Keras 3 itself."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.architecture import tensor_table
from export.describing.model import describe
from export.describing.parity import check_parity
from export.initial import redrawn
from export.model_files import load_model_file
from fedprune.errors import TaskError
from fedprune.keras.stack import keras, tf
from fedprune.model.tensors import TensorClass, TensorTable
from fedprune.task.padding import counted_places


def _has_keras_3() -> bool:
    try:
        return importlib.metadata.version("keras").startswith("3.")
    except importlib.metadata.PackageNotFoundError:
        return False


pytestmark = pytest.mark.skipif(not _has_keras_3(), reason="Keras 3 is not installed")
MODELS = (
    "mobile", "series", "arithmetic", "activations", "decoder", "transfer", "sequences", "tokens", "attention",
    "padded", "gaps", "tags",
)  # fmt: skip
HALF = {"transfer": 1e-2}
"""Keras computed in float16."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keras3")
    script = Path(__file__).with_name("keras3_models.py")
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run([sys.executable, script, folder], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_it_answers_and_moves_statistics_as_in_keras_3(saved: Path, name: str) -> None:
    expected, model = np.load(saved / f"{name}.npz"), load_model_file(saved / f"{name}.keras")
    slack = HALF.get(name, 1e-5)

    np.testing.assert_allclose(model(expected["x"], training=False), expected["inference"], rtol=slack, atol=slack)
    np.testing.assert_allclose(model(expected["x"], training=True), expected["training"], rtol=slack, atol=slack)
    assert float(tf.add_n([tf.zeros(()), *model.losses])) == pytest.approx(float(expected["penalties"]), rel=1e-5)
    moved = sorted((key for key in expected.files if key.startswith("moved/")), key=lambda key: int(key[6:]))
    by_shape = sorted(np.ravel(variable.numpy()).tolist() for variable in model.non_trainable_variables)
    theirs = sorted(np.ravel(expected[key]).tolist() for key in moved if expected[key].dtype == np.float32)
    for ours, other in zip(by_shape, theirs, strict=True):
        np.testing.assert_allclose(ours, other, rtol=slack, atol=slack)


@pytest.mark.parametrize("name", MODELS)
def test_it_is_described(saved: Path, name: str) -> None:
    model = load_model_file(saved / f"{name}.keras")
    network, table = describe(model)

    check_parity(model, network, TensorTable(table))
    assert TensorTable(table).prunable


def test_the_padded_steps_of_an_output_are_those_of_keras_3(saved: Path) -> None:
    expected = np.load(saved / "tags.npz")
    network, _ = describe(load_model_file(saved / "tags.keras"))

    (counted,) = counted_places(network, [expected["x"]])

    np.testing.assert_array_equal(counted, expected["mask"])
    assert not expected["mask"].all()


def test_several_inputs_and_outputs_keep_their_order_and_names(saved: Path) -> None:
    model, expected = load_model_file(saved / "several.keras"), np.load(saved / "several.npz")
    network, table = describe(model)

    check_parity(model, network, TensorTable(table))
    answers = model([np.ones((5, 3), np.float32), np.arange(20).reshape(5, 4) % 9])
    assert (network.input_names, network.output_names) == (("number", "a-word"), ("second", "first"))
    for answer, name in zip(answers, expected.files, strict=True):
        np.testing.assert_allclose(answer, expected[name], rtol=1e-5, atol=1e-5)


def test_names_and_frozen_layers_are_those_of_the_file(saved: Path) -> None:
    kinds = {spec.name: spec.kind for spec in tensor_table(load_model_file(saved / "transfer.keras"))}

    head = [kinds.pop(f"head/{tensor}") for tensor in ("kernel", "bias")]
    assert head == [TensorClass.PRUNABLE, TensorClass.DENSE]
    assert set(kinds.values()) == {TensorClass.FROZEN}


def test_augmentation_is_described_with_the_factors_of_the_file(saved: Path) -> None:
    model = load_model_file(saved / "augmented.keras")
    network, table = describe(model)

    check_parity(model, network, TensorTable(table))
    flip, rotation, translation, zoom, contrast = network.augmentation
    assert (flip.horizontal, flip.vertical) == (False, True)
    assert (rotation.turns, rotation.fill_mode) == ((-0.1, 0.2), "wrap")
    assert (translation.height, translation.width, translation.interpolation) == ((-0.1, 0.1), (0.0, 0.2), "nearest")
    assert (zoom.height, zoom.width, zoom.fill) == ((-0.3, 0.3), None, (9.0,))
    assert contrast.factor == pytest.approx((0.8, 1.3))
    assert (contrast.low, contrast.high) == ((0.0,), pytest.approx((255.0,)))


def test_initialisers_come_along(saved: Path) -> None:
    model = load_model_file(saved / "series.keras")
    first = model.get_layer("conv1d")

    assert isinstance(first.kernel_initializer, keras.initializers.HeNormal)
    drawn = redrawn(model, 3).get_layer("conv1d").kernel.numpy()
    assert 0.2 < drawn.std() / np.sqrt(2 / 12) < 1.5


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lambda", "layer 'odd' is of the kind 'Lambda'; use one of these: Activation"),
        ("recurrent", "layer 'memory' is of the kind 'ConvLSTM1D'; use one of these"),
        ("operator", "layer 'sin' is the operator 'Sin'; use layers, or one of these: Add"),
        ("by name", "its inputs or outputs are in a dict; make the model of lists, as "),
    ],
)
def test_what_cannot_be_taken_over_is_named(saved: Path, name: str, said: str) -> None:
    with pytest.raises(TaskError, match=rf"{name}\.keras: {said}") as caught:
        load_model_file(saved / f"{name}.keras")
    assert "\n" not in str(caught.value)


def edited(path: Path, target: Path, edit: Callable[[Any], None]) -> Path:
    """A copy of a .keras file whose configuration was edited."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            blob = source.read(name)
            if name == "config.json":
                config = json.loads(blob)
                edit(config["config"]["layers"])
                blob = json.dumps(config).encode()
            copy.writestr(name, blob)
    return target


def _of_another_module(layers: list[Any]) -> None:
    layers[1]["module"] = "os"


def _registered(layers: list[Any]) -> None:
    layers[1]["registered_name"] = "mine>Conv1D"


def _with_code_inside(layers: list[Any]) -> None:
    layers[1]["config"]["kernel_initializer"] = {"module": "os", "class_name": "system", "config": {"command": "true"}}


def _with_code_as_a_setting(layers: list[Any]) -> None:
    layers[1]["config"]["filters"] = {"class_name": "__lambda__", "config": {"value": "x"}}


def _huge(layers: list[Any]) -> None:
    layers[1]["config"]["filters"] = 2**31


def _of_other_weights(layers: list[Any]) -> None:
    layers[1]["config"]["filters"] = 7


def _without_settings(layers: list[Any]) -> None:
    del layers[1]["config"]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (_of_another_module, "custom code"),
        (_registered, "custom code"),
        (_with_code_inside, "has 'system'; use one of"),
        (_with_code_as_a_setting, "neither a number nor text"),
        (_huge, "parameters are more than a task may have|cannot build it"),
        (_of_other_weights, "save it again|cannot build it"),
        (_without_settings, "of the kind|cannot build it"),
    ],
)
def test_nothing_in_a_file_is_run_and_nonsense_is_one_line(
    saved: Path, tmp_path: Path, edit: Callable[[Any], None], said: str
) -> None:
    with pytest.raises(TaskError, match=said) as caught:
        load_model_file(edited(saved / "series.keras", tmp_path / "series.keras", edit))
    assert "\n" not in str(caught.value)


def test_a_cycle_is_refused(saved: Path, tmp_path: Path) -> None:
    def turn(layers: list[Any]) -> None:
        layers[1]["inbound_nodes"][0]["args"][0]["config"]["keras_history"][0] = layers[-1]["name"]

    with pytest.raises(TaskError, match="takes what no layer makes"):
        load_model_file(edited(saved / "mobile.keras", tmp_path / "mobile.keras", turn))


def test_the_older_format_of_keras_3_is_refused(tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"], file.attrs["model_config"] = "3.5.0", "{}"
    with pytest.raises(TaskError, match=r"written by Keras 3\.5\.0 in this format; save it with Keras 3 as a \.keras"):
        load_model_file(path)
