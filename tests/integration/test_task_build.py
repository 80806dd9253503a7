"""Building task bundles: real models, real files, the real converter."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.architecture import task_outputs
from export.build import build_task
from export.describing.model import describe
from export.model_files import MAX_FILE_BYTES, load_model_file
from export.models import cnn_108k
from export.proof.inference import verify_inference_graph
from export.proof.proof import Proof
from export.proof.reference import Reference
from export.settings import ModelSettings, PolynomialSettings, PruningSettings, TaskSettings
from fedprune.command import main
from fedprune.errors import ConfigurationError, TaskError
from fedprune.graph.training import write_training_graph
from fedprune.keras.model import keras_loss
from fedprune.keras.stack import keras, tf, tfmot
from fedprune.model.losses import Loss
from fedprune.model.tensors import TensorClass, TensorTable
from fedprune.network.description import Network
from fedprune.network.layers import Activation, Function
from fedprune.task.bundle import Bundle, Fill, Uniform, read_bundle
from fedprune.task.training import Training

layers = keras.layers

SCHEDULE = PolynomialSettings(begin_step=0, end_step=10, frequency=2, initial_sparsity=0.0, target_sparsity=0.8)
TASK_TOML = """\
name = "pictures"
[model]
builtin = "cnn-108k"
input_shape = [20, 20, 1]
outputs = 3
[training]
steps_per_round = 5
[pruning.schedule]
kind = "polynomial"
begin_step = 0
end_step = 10
frequency = 2
initial_sparsity = 0.0
target_sparsity = 0.8
"""


def task_of(model: ModelSettings) -> TaskSettings:
    return TaskSettings("pictures", model, Training(5), PruningSettings(SCHEDULE))


def built(model: ModelSettings, base: Path = Path()) -> Bundle:
    return read_bundle(build_task(task_of(model), base))


def sequence(*inner: Any, shape: tuple[int | None, ...] = (6,)) -> Any:
    return keras.Sequential([layers.Input(shape), *inner])


def ordinary() -> Any:
    """Most kinds of layers that a small vision model has, ending in probabilities."""
    x = layers.Input((12, 12, 3))
    y = layers.Rescaling(2.0)(x)
    y = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False)(y)
    y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu")(y)
    y = layers.Conv2D(8, 1, activation="relu", kernel_initializer="he_normal")(y)
    y = layers.GlobalAveragePooling2D()(y + layers.SeparableConv2D(8, 3, padding="same")(y))
    y = keras.Sequential([layers.Dense(5, activation="tanh"), layers.Dropout(0.2)], name="inner")(y)
    model = keras.Model(x, layers.Dense(3, activation="softmax")(y))
    for variable in model.weights:
        variable.assign(variable + tf.random.stateless_uniform(variable.shape, (1, 2)))
    return model


def save(model: Any, path: Path) -> Path:
    model.save(str(path))
    return path


@pytest.fixture(scope="module")
def cnn() -> Bundle:
    return built(ModelSettings(builtin="cnn-108k"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(ordinary(), tmp_path_factory.mktemp("saved") / "ordinary.keras")


@pytest.fixture(scope="module")
def from_file(saved: Path) -> Bundle:
    return built(ModelSettings(file=saved.name), saved.parent)


def test_cnn_108k_starts_as_keras_would(cnn: Bundle) -> None:
    assert cnn.task.initial is not None
    conv1, bias, conv2, *_ = cnn.task.initial.initializers

    assert bias == Fill(0.0)
    assert conv1 == Uniform(math.sqrt(6 / (9 * 1 + 9 * 16)))
    assert conv2 == Uniform(math.sqrt(6 / (9 * 16 + 9 * 32)))
    drawn = cnn.initial_weights()["conv2/kernel"]
    assert drawn.std() == pytest.approx(conv2.limit / math.sqrt(3), rel=0.05)


def test_equal_tasks_have_equal_bytes_and_another_seed_other_weights(cnn: Bundle) -> None:
    again = built(ModelSettings(builtin="cnn-108k"))
    other = built(ModelSettings(builtin="cnn-108k", seed=1))

    assert again.blob == cnn.blob
    assert not np.array_equal(other.initial_weights()["dense/kernel"], cnn.initial_weights()["dense/kernel"])


def test_training_graphs_that_are_proven_come_along(cnn: Bundle) -> None:
    assert [graph.batch_size for graph in cnn.graphs] == [8, 16, 32, 64]


def test_a_layer_that_cannot_be_described_is_refused_in_a_line_that_lists_those_that_can(tmp_path: Path) -> None:
    save(
        sequence(layers.LocallyConnected1D(4, 2, name="memory"), layers.Flatten(), layers.Dense(3), shape=(5, 2)),
        tmp_path / "model.keras",
    )

    with pytest.raises(
        TaskError, match=r"layer 'memory' \(LocallyConnected1D\): a layer of this kind .*: Activation, Add"
    ) as caught:
        built(ModelSettings(file="model.keras"), tmp_path)
    assert "\n" not in str(caught.value)


def with_other_activations(network: Network) -> Network:
    """As a writer would make of it that mistakes one for another."""
    return msgspec.structs.replace(
        network,
        layers=tuple(
            msgspec.structs.replace(layer, function=Function.TANH) if isinstance(layer, Activation) else layer
            for layer in network.layers
        ),
    )


def test_a_graph_that_fails_the_proof_is_not_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "export.proof.graphs.write_training_graph",
        lambda network, *others: write_training_graph(with_other_activations(network), *others),
    )
    assert not built(ModelSettings(builtin="cnn-108k", input_shape=(20, 20, 1), outputs=3)).graphs


def test_what_stays_dense_is_told_with_the_reason(
    saved: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    bundle = tmp_path / "task.fedtask"
    bundle.write_bytes(build_task(task_of(ModelSettings(file=saved.name)), saved.parent))
    told = r"depthwise_conv2d\S*, separable_conv2d\S*depthwise \(TF-MOT does not prune depthwise kernels\)"

    assert any(re.search(f"kernels that stay dense: {told}", said) for said in caplog.messages)
    assert run("task", "show", str(bundle)) == 0
    assert re.search(rf"dense kernels +{told}", capsys.readouterr().out)


def test_a_file_keeps_its_weights(saved: Path, from_file: Bundle) -> None:
    expected = keras.models.load_model(str(saved)).get_weights()

    for array, kept in zip(expected, from_file.initial_weights().values(), strict=True):
        np.testing.assert_array_equal(kept, array)
    assert not from_file.task.outputs[0].from_logits


def test_the_table_has_the_order_of_strip_pruning_and_tfmots_classes(saved: Path, from_file: Bundle) -> None:
    model = keras.models.load_model(str(saved))
    prunable = {
        w.name.removesuffix(":0") for w in model.weights if w.name.endswith(("/kernel:0", "/pointwise_kernel:0"))
    }
    stripped = tfmot.sparsity.keras.strip_pruning(model)
    table = from_file.task.table

    assert [spec.name for spec in table] == [w.name.removesuffix(":0") for w in stripped.weights]
    assert {spec.name for spec in table.of(TensorClass.PRUNABLE)} == prunable
    statistics = table.of(TensorClass.STATISTICS)
    assert [spec.name.rpartition("/")[2] for spec in statistics] == ["moving_mean", "moving_variance"]
    assert len({spec.layer for spec in statistics}) == 1


def test_an_hdf5_file_makes_the_same_task(saved: Path, from_file: Bundle, tmp_path: Path) -> None:
    path = save(keras.models.load_model(str(saved)), tmp_path / "ordinary.h5")
    bundle = built(ModelSettings(file=path.name), tmp_path)

    assert bundle.task.tensors == from_file.task.tensors
    for name, array in from_file.initial_weights().items():
        np.testing.assert_array_equal(bundle.initial_weights()[name], array)


def test_initialisers_without_a_recipe_are_drawn_from_the_seed_into_a_snapshot(saved: Path) -> None:
    redrawn = ModelSettings(file=saved.name, initial="seed", seed=3)
    first, second = (built(redrawn, saved.parent) for _ in range(2))

    assert first.task.initial is None
    assert first.blob == second.blob
    (kernel,) = (  # he_normal; truncated to two standard deviations
        array for array in first.initial_weights().values() if array.ndim == 4 and math.prod(array.shape[:3]) == 6
    )
    assert 0.2 < kernel.std() / math.sqrt(2 / 6) < 1.5


class Odd(layers.Layer):  # type: ignore[misc]
    """A custom layer: fine in its author's program, refused in a file."""

    def call(self, x: Any) -> Any:
        return x


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Lambda(lambda x: x + 1, name="odd"),
        lambda: Odd(name="odd"),
        lambda: layers.TimeDistributed(Odd(name="odd")),
    ],
    ids=["Lambda", "custom", "wrapped"],
)
def test_a_file_with_custom_code_is_refused_by_layer(tmp_path: Path, suffix: str, make: Callable[[], Any]) -> None:
    path = save(sequence(make(), layers.Flatten(), layers.Dense(3), shape=(4, 4)), tmp_path / f"custom{suffix}")

    with pytest.raises(TaskError, match=r"custom\.(keras|h5): layer 'odd' is, or uses, custom code"):
        load_model_file(path)


def test_a_model_that_is_no_classifier_is_refused(tmp_path: Path) -> None:
    save(sequence(layers.Dense(3, activation="relu", name="last")), tmp_path / "unfit.keras")
    with pytest.raises(TaskError, match=r"layer 'last\.relu'"):
        built(ModelSettings(file="unfit.keras"), tmp_path)


SPARSE = Loss.SPARSE_CATEGORICAL_CROSSENTROPY
IMAGE = (4, 4, 2)


@pytest.mark.parametrize(
    ("shape", "end", "from_logits"),
    [
        ((6,), [layers.Dense(3), layers.Activation("linear")], True),
        ((6,), [layers.Dense(3, "softmax"), layers.Activation("linear")], False),
        ((6,), [layers.Dense(3), layers.Softmax(), layers.Activation("linear")], False),
        (IMAGE, [layers.Conv2D(3, 3), layers.GlobalAveragePooling2D()], True),
        (IMAGE, [layers.Conv2D(3, 4), layers.Flatten()], True),
        ((6,), [layers.Dense(3), layers.Rescaling(0.5)], True),
        (IMAGE, [layers.Conv2D(3, 3), layers.GlobalAveragePooling2D(keepdims=True), layers.Reshape((3,))], True),
    ],
)
def test_how_a_model_ends_says_what_it_returns(shape: tuple[int, ...], end: list[Any], from_logits: bool) -> None:
    """What is told of an untrained model, tf_keras' loss and ours agree on, and its training graph is proven."""
    model = sequence(*end, shape=shape)
    network, table = describe(model)
    training = Training(1, loss=SPARSE)
    (objective,) = map(training.objective_of, task_outputs(network, training))
    x, y = np.random.default_rng(0).normal(size=(9, *shape)).astype(np.float32), np.arange(9) % 3

    assert objective.from_logits is from_logits
    in_keras = tf.function(lambda: keras_loss(objective)(y, model(x, training=True)))()
    assert objective.mean_loss(model(x).numpy(), y) == pytest.approx(float(in_keras), rel=1e-5)
    graph = write_training_graph(network, TensorTable(table), [objective], 4)
    Proof(model, table, [objective], Reference(model, [objective])).check(graph.blob)


@pytest.mark.parametrize(
    "end",
    [
        [layers.Dense(3, "sigmoid"), layers.Reshape((3, 1)), layers.Reshape((3,), name="last")],
        [layers.Reshape((2, 3)), layers.Dense(3, "softmax"), layers.GlobalAveragePooling1D(name="last")],
        [layers.Dense(3, "relu", name="last"), layers.Activation("linear")],
        [layers.BatchNormalization(name="last")],
    ],
)
def test_an_ending_that_tf_keras_may_take_otherwise_is_refused(end: list[Any]) -> None:
    with pytest.raises(TaskError, match=r"layer 'last\S*', which for sparse_categorical_crossentropy is neither soft"):
        task_outputs(describe(sequence(*end))[0], Training(1, loss=SPARSE))


@pytest.mark.parametrize("wrong", [{"outputs": 4}, {"input_shape": (12, 12, 1)}])
def test_a_file_must_be_what_the_settings_say(saved: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match=f"correct model.{next(iter(wrong))}"):
        built(ModelSettings(file=saved.name, **wrong), saved.parent)


def test_an_inference_graph_that_answers_otherwise_is_refused() -> None:
    model = cnn_108k((20, 20, 1), 3)
    network, table = describe(model)

    verify_inference_graph(network, table, model)
    with pytest.raises(TaskError, match="differs from Keras"):
        verify_inference_graph(with_other_activations(network), table, model)


def rewritten(path: Path, target: Path, member: str, edit: Callable[[str], str]) -> Path:
    """A copy of a .keras file with one of its JSON members edited."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            blob = source.read(name)
            copy.writestr(name, edit(blob.decode()) if name == member else blob)
    return target


def test_a_file_of_a_keras_to_come_is_refused(saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved, tmp_path / "new.keras", "metadata.json", lambda text: text.replace('": "2.', '": "4.'))

    with pytest.raises(TaskError, match=r"written by Keras 4\."):
        load_model_file(path)


def test_a_huge_layer_is_refused_before_it_is_made(saved: Path, tmp_path: Path) -> None:
    path = rewritten(
        saved, tmp_path / "huge.keras", "config.json", lambda text: text.replace('"units": 5', '"units": 2000000000')
    )

    with pytest.raises(TaskError, match="parameters are more than"):
        load_model_file(path)


def test_a_file_that_unpacks_to_too_much_is_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.h5"
    save(keras.models.load_model(str(saved)), path)
    with h5py.File(path, "a") as file:
        file.create_dataset("zeros", shape=(MAX_FILE_BYTES,), dtype="f4", chunks=(2**20,), compression="gzip")

    with pytest.raises(TaskError, match="unpacks to more"):
        load_model_file(path)


def test_a_file_that_points_elsewhere_is_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "link.h5"
    save(keras.models.load_model(str(saved)), path)
    with h5py.File(path, "a") as file:
        file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")

    with pytest.raises(TaskError, match="elsewhere is kept elsewhere"):
        load_model_file(path)


@pytest.mark.parametrize("name", ["missing.keras", "model.pb", "."])
def test_what_is_no_model_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(TaskError, match=r"keras"):
        load_model_file(tmp_path / name)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_loaded_or_refused_in_the_tree(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    blob = bytearray(saved.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.keras"
    path.write_bytes(blob[: data.draw(st.integers(0, len(blob)))] if data.draw(st.booleans()) else blob)
    try:
        model = load_model_file(path)
    except TaskError:
        return
    assert model.count_params() > 0


def test_the_command_builds_and_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = TASK_TOML.replace(
        "[training]\n", '[training]\nproximal_mu = 0.1\nlearning_rate_decay = { kind = "cosine", end_round = 9 }\n'
    )
    (tmp_path / "task.toml").write_text(f'{toml}[evaluation]\nmetrics = ["f1_score", "auc"]\n')
    out = tmp_path / "task.fedtask"

    assert run("task", "build", str(tmp_path / "task.toml"), "--out", str(out)) == 0
    capsys.readouterr()
    assert run("task", "show", str(out), "--json") == 0
    shown = msgspec.json.decode(capsys.readouterr().out)

    assert shown["task"]["outputs"] == [{"shape": [3], "from_logits": True, "name": "", "metrics": ["f1_score", "auc"]}]
    assert shown["parameters"] == read_bundle(out.read_bytes()).task.table.parameters
    assert run("task", "show", str(out)) == 0
    told = capsys.readouterr().out
    assert "conv1/kernel" in told
    assert "to 3 (logits)" in told
    assert "sparse_categorical_crossentropy, FedProx with mu 0.1" in told
    assert "learning rate decay: cosine (begin_round 0, end_round 9, alpha 0.0)" in told
    assert "f1_score, auc\n" in told
    assert "keras, litert" in told


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        ('"mean_absolute_error"', "mean_absolute_error does not go with the loss sparse_categorical_crossentropy, but"),
        ('"top_k_categorical_accuracy"', "needs 6 outputs, and the model has 3"),
        ('"auc", "auc"', "a metric is named twice"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], metrics: str, why: str
) -> None:
    (tmp_path / "task.toml").write_text(f"{TASK_TOML}[evaluation]\nmetrics = [{metrics}]\n")

    assert run("task", "build", str(tmp_path / "task.toml"), "--out", "x") == TaskError.exit_code
    said = capsys.readouterr().err
    assert why in said
    assert "correct evaluation.metrics in task.toml" in said


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("[pruning]\nsparsty = 1", "key 'pruning.sparsty' unknown"),
        ("[model]\nbuiltn = 1", "key 'model.builtn' unknown (did you mean 'model.builtin'?)"),
        ("[training]\nsteps_per_round = 0", "give either steps_per_round or epochs_per_round"),
    ],
)
def test_the_command_names_a_wrong_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str, message: str
) -> None:
    table, _, line = wrong.partition("\n")
    head, _, tail = TASK_TOML.partition(table if table in TASK_TOML else "[pruning.schedule]")
    lines = tail.replace("steps_per_round = 5\n", "") if "steps" in line else tail
    keeps = "" if table in TASK_TOML else "\n[pruning.schedule]"
    (tmp_path / "task.toml").write_text(f"{head}{table}\n{line}{keeps}{lines}")

    assert run("task", "build", str(tmp_path / "task.toml"), "--out", "x") == ConfigurationError.exit_code
    assert message in capsys.readouterr().err


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as leave:
        main(list(arguments))
    assert isinstance(leave.value.code, int)
    return leave.value.code
