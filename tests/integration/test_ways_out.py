"""What a build refuses it tells with the ways out that it tried, and that work; what it leaves out it tells too."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.build import build_task
from export.describing.model import describe
from export.proof.reference import Truth
from export.settings import ConstantSettings, ModelSettings, PruningSettings, TaskSettings
from fedprune.errors import TaskError
from fedprune.graph.training import write_training_graph
from fedprune.keras.stack import keras
from fedprune.model.losses import Loss, Objective
from fedprune.model.tensors import TensorTable
from fedprune.task.bundle import Bundle, read_bundle
from fedprune.task.training import Training

L = keras.layers
SERIES, ROW = (9, 5), (5,)


def build(model: Any, base: Path) -> Bundle:
    model.save(str(base / "model.keras"))
    schedule = ConstantSettings(target_sparsity=0.0, begin_step=0, frequency=1)
    settings = TaskSettings("t", ModelSettings(file="model.keras"), Training(4, 16), PruningSettings(schedule))
    return read_bundle(build_task(settings, base))


def between(shape: tuple[int, ...], layer: Any) -> Any:
    """A classifier with the layer inside, in a model of its own."""
    inner = keras.Sequential([L.Input(shape), layer, L.Flatten()], name="inner")
    return keras.Sequential([L.Input(shape), inner, L.Dense(3)])


@pytest.mark.parametrize(
    ("shape", "layer", "ways"),
    [
        (ROW, lambda: L.ReLU(threshold=0.1), "threshold = 0"),
        (
            ROW,
            lambda: L.Dense(4, kernel_constraint="non_neg", bias_constraint="non_neg"),
            ".*constraint = None, .* = None",
        ),
        (SERIES, lambda: L.BatchNormalization(axis=1), r"axis = \[2\]"),
        (SERIES, lambda: L.PReLU(), "LeakyReLU instead, or the layer left out"),
        (ROW, lambda: L.AlphaDropout(0.2), "Dropout instead, or the layer left out"),
    ],
    ids=["setting", "constraints", "axis", "rectifier", "noise"],
)
def test_a_layer_is_refused_with_the_changes_that_work(
    shape: tuple[int, ...], layer: Callable[[], Any], ways: str, tmp_path: Path
) -> None:
    made = layer()
    made._name = "it"
    with pytest.raises(TaskError, match=rf"layer 'it' \(.*\): .*; what was tried and works: {ways}$") as caught:
        build(between(shape, made), tmp_path)
    assert "\n" not in str(caught.value)


def test_where_no_change_works_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"layer 'it' \(LocallyConnected1D\)") as caught:
        build(between(SERIES, L.LocallyConnected1D(4, 3, name="it")), tmp_path)
    assert "tried" not in str(caught.value)


def unsure_of(tensor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every graph fail whose network has the tensor."""

    def furthest(truth: Truth, *_: Any) -> tuple[str, float]:
        refused = tensor in truth.step.gradients
        return (f"the gradient of {tensor}", 11.0) if refused else ("the loss", 1.0)

    monkeypatch.setattr(Truth, "furthest", furthest)


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        ("conv/bias", r"layer 'conv' \(Conv1D\); what was tried and works: use_bias = False"),
        ("norm/beta", r"layer 'norm' \(BatchNormalization\); what was tried and works: center = False"),
        ("conv/kernel", r"layer 'conv' \(Conv1D\): no change that was tried works"),
    ],
)
def test_batches_that_cannot_be_proven_are_told_once_with_the_changes_that_work(
    tensor: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = keras.Sequential(
        [
            L.Input(SERIES),
            L.Conv1D(4, 3, name="conv"),
            L.BatchNormalization(name="norm"),
            L.GlobalAveragePooling1D(),
            L.Dense(3),
        ]
    )
    unsure_of(tensor, monkeypatch)
    build(model, tmp_path)

    first, *others = [line for line in caplog.messages if "cannot be trained without TensorFlow" in line]
    assert first.startswith("task 't': batches of 16 cannot be trained")
    assert f"the gradient of {tensor} is 11 times as far off" in first
    assert "; use the keras trainer; " in first
    assert re.search(f"{told}$", first)
    assert not any("layer '" in line for line in others)


def test_no_change_of_a_cell_is_told_since_none_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = keras.Sequential([L.Input(SERIES), L.LSTM(4, name="lstm"), L.Dense(3)])
    (bias,) = (spec.name for spec in describe(model)[1] if spec.name.startswith("lstm/") and spec.name.endswith("bias"))
    unsure_of(bias, monkeypatch)
    build(model, tmp_path)

    first, *_ = [line for line in caplog.messages if "cannot be trained without TensorFlow" in line]
    assert first.endswith("no change that was tried works")


@pytest.mark.parametrize(("room", "proven"), [(32, [8, 16, 32]), (8, [8, 16])])
def test_batch_sizes_that_take_too_much_are_left_out_but_for_the_tasks_own(
    room: int, proven: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The task's own is 16."""
    model = keras.Sequential([L.Input(ROW), L.Dense(3)])
    network, table = describe(model)
    objective = Objective(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, from_logits=True)
    graph = write_training_graph(network, TensorTable(table), [objective], room)
    monkeypatch.setattr("export.proof.graphs.MAX_GRAPH_BYTES", graph.memory_bytes)

    assert [graph.batch_size for graph in build(model, tmp_path).graphs] == proven
    left_out = [size for size in (8, 16, 32, 64) if size not in proven]
    told = [line for line in caplog.messages if "left out: their graph takes" in line]
    assert [line.partition(" are")[0] for line in told] == [f"task 't': batches of {size}" for size in left_out]
