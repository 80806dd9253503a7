"""The training graph and its trainer on tflite-runtime 2.14, which 32-bit Arm has instead of ai-edge-litert.

It needs numpy 1, and so an environment of its own, from the wheel of this very tree. What tf_keras computes is written
down here, what tflite-runtime computes there.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from graph_mutants import mutants
from keras_bundles import learnable
from training_networks import (
    BATCH,
    NETWORKS,
    assert_equal,
    crossentropy,
    examples,
    keras_step,
    one_hot,
    randomised,
    residual,
    training_graph,
)

from edge_agent.trainers import Work
from edge_agent.trainers.keras import KerasTrainer
from edge_agent.trainers.litert import LiteRTTrainer
from export.architecture import tensor_table
from export.build import build_task
from export.describing.model import describe
from export.proof.probes import make_self_check
from export.proof.reference import Reference
from export.settings import ConstantSettings, ModelSettings, PruningSettings, TaskSettings
from fedprune.data import save_npz
from fedprune.graph.training import write_training_graph
from fedprune.keras.stack import keras
from fedprune.model.losses import Loss, Objective
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, Inputs, TensorTable
from fedprune.pruning.masks import full_mask
from fedprune.runtime.self_check import draw_case, outputs_of
from fedprune.runtime.training_graph import Step, TrainingGraph
from fedprune.task.bundle import read_bundle
from fedprune.task.training import Adam, Training
from tests.closeness import assert_close
from tests.patience import PATIENCE_S

L = keras.layers

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="tflite-runtime's last release has no wheel for this Python, only for 3.11"
)


@dataclass(frozen=True)
class Elsewhere:
    """Runs Python programs in an environment with tflite-runtime, in a directory of the test's own."""

    python: Path
    directory: Path

    def __call__(self, program: str) -> str:
        """What it prints."""
        command = (self.python, "-c", program)
        done = subprocess.run(
            command, cwd=self.directory, env={}, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its Python."""
    home = tmp_path_factory.mktemp("tflite-runtime")
    subprocess.run((sys.executable, "-m", "venv", "--without-pip", home), check=True)
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-input", "--only-binary=:all:")
    wanted = (wheel, "tflite-runtime==2.14.0", "numpy<2")
    done = subprocess.run((*pip, *wanted), capture_output=True, text=True, check=False)
    if "(from versions: none)" in done.stderr:  # of a version that is not there, pip would list the others
        pytest.skip(f"tflite-runtime cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return python


@pytest.fixture
def elsewhere(environment: Path, tmp_path: Path) -> Elsewhere:
    return Elsewhere(environment, tmp_path)


def test_it_is_the_runtime_there(elsewhere: Elsewhere) -> None:
    said = elsewhere("from fedprune.runtime.tflite import available_runtimes; print(*map(str, available_runtimes()))")
    assert said.startswith("Runtime(name='tflite-runtime', version='2.14.0'")


RUN_STEPS = """
from pathlib import Path
import msgspec, numpy as np
from fedprune.runtime.self_check import outputs_of
from fedprune.model.tensors import TensorSpec
from fedprune.runtime.training_graph import TrainingGraph
for folder in sorted(Path().glob("*/graph.tflite")):
    folder = folder.parent
    tensors = msgspec.json.decode((folder / "tensors.json").read_bytes(), type=tuple[TensorSpec, ...])
    given = np.load(folder / "given.npz")
    weights = {spec.name: given[f"w{row}"] for row, spec in enumerate(tensors)}
    graph = TrainingGraph((folder / "graph.tflite").read_bytes(), tensors, threads=1)
    for count in msgspec.json.decode((folder / "counts.json").read_bytes()):
        step = graph.run(weights, [given["x"][:count]], [given["y"][:count]])
        np.savez(folder / f"found-{count}.npz", **outputs_of(step, tensors))
"""
COUNTS = (BATCH, 1)


@pytest.mark.parametrize(
    "names", [tuple(NETWORKS)[::2], pytest.param(tuple(NETWORKS), marks=pytest.mark.slow)], ids=["half", "all"]
)
def test_every_layer_trains_as_in_keras(elsewhere: Elsewhere, names: tuple[str, ...]) -> None:
    """Whole batches, and single examples."""
    models = [randomised(NETWORKS[name]()) for name in names]
    for number, model in enumerate(models):
        write(elsewhere.directory / f"network-{number}", model)

    elsewhere(RUN_STEPS)

    for number, (name, model) in enumerate(zip(names, models, strict=True)):
        start = model.get_weights()
        for count in COUNTS:
            model.set_weights(start)
            x, y = batch_for(model)
            expected = keras_step(model, crossentropy, x[:count], y[:count])
            assert_equal(read(elsewhere.directory / f"network-{number}" / f"found-{count}.npz", model), expected, name)


RUN_SEVERAL = """
from pathlib import Path
import msgspec, numpy as np
from fedprune.model.tensors import TensorSpec
from fedprune.runtime.self_check import draw_case, outputs_of
from fedprune.runtime.training_graph import TrainingGraph
tensors = msgspec.json.decode(Path("tensors.json").read_bytes(), type=tuple[TensorSpec, ...])
graph = TrainingGraph(Path("graph.tflite").read_bytes(), tensors, threads=1)
print(graph.vocabularies)
np.savez("found.npz", **outputs_of(draw_case(graph, tensors, 1, 5, 1.0).run(graph), tensors))
"""


def test_several_inputs_and_outputs_train_as_they_do_here(elsewhere: Elsewhere) -> None:
    """Two inputs are of as many ids, which the names of their tensors tell."""
    ids, others, numbers = L.Input((3,), dtype="int32"), L.Input((3,), dtype="int32"), L.Input((3,))
    read = [L.Flatten()(L.Embedding(7, 2)(x)) for x in (ids, others)]
    y = L.Concatenate()([*read, numbers])
    model = keras.Model([ids, others, numbers], [L.Dense(3, name="kind")(y), L.Dense(2, name="size")(y)])
    network, tensors = describe(model)
    objectives = [
        Objective(Loss.CATEGORICAL_CROSSENTROPY, from_logits=True, weight=0.5, label_smoothing=0.1),
        Objective(Loss.MEAN_SQUARED_ERROR, from_logits=False),
    ]
    blob = write_training_graph(network, TensorTable(tensors), objectives, BATCH).blob
    (elsewhere.directory / "graph.tflite").write_bytes(blob)
    (elsewhere.directory / "tensors.json").write_bytes(msgspec.json.encode(tensors))
    graph = TrainingGraph(blob, tensors, threads=1)
    expected = outputs_of(draw_case(graph, tensors, 1, 5, 1.0).run(graph), tensors)

    assert elsewhere(RUN_SEVERAL).split("\n")[0] == str(graph.vocabularies) == "(7, 7, None)"

    found = np.load(elsewhere.directory / "found.npz")
    assert_close({name: found[name] for name in expected}, expected, 1e-5)


def write(folder: Path, model: Any) -> None:
    """All that a step takes."""
    folder.mkdir()
    x, y = batch_for(model)
    (folder / "graph.tflite").write_bytes(training_graph(model, Loss.CATEGORICAL_CROSSENTROPY, BATCH))
    (folder / "tensors.json").write_bytes(msgspec.json.encode(tensor_table(model)))
    (folder / "counts.json").write_bytes(msgspec.json.encode(COUNTS))
    np.savez(folder / "given.npz", x=x, y=y, **{f"w{row}": array for row, array in enumerate(model.get_weights())})


def batch_for(model: Any) -> tuple[Inputs, Array]:
    return examples(model, BATCH), one_hot(BATCH)


def read(path: Path, model: Any) -> Step:
    """What a step returned."""
    arrays = np.load(path)
    table = tensor_table(model)
    return Step(
        loss=float(arrays["loss"][0]),
        gradients={spec.name: arrays[f"g{row}"] for row, spec in enumerate(table) if f"g{row}" in arrays},
        statistics={spec.name: arrays[f"s{row}"] for row, spec in enumerate(table) if f"s{row}" in arrays},
    )


TRAIN = """
import numpy as np
from pathlib import Path
from edge_agent.trainers import Work
from edge_agent.trainers.choice import make_trainer
from fedprune.task.bundle import load_bundle
from fedprune.data import load_npz
from fedprune.pruning.masks import full_mask
from fedprune.model.randomness import Keyed
bundle = load_bundle(Path("task.fedtask"))
work = Work(bundle.initial_weights(), full_mask(bundle.task.table), 0, None, Keyed(1))
data = load_npz(Path("data.npz"))
trained = make_trainer("auto", bundle, examples=len(data), threads=1).train(work, data)
np.savez("trained.npz", *trained.weights.values())
"""


def test_a_round_is_trained_as_everywhere_else(elsewhere: Elsewhere) -> None:
    """Which the trainer starts after the self-check alone."""
    pruning = PruningSettings(ConstantSettings(begin_step=0, frequency=5, target_sparsity=0.5))
    model = ModelSettings(builtin="cnn-108k", input_shape=(14, 14, 1), outputs=3)
    bundle = read_bundle(build_task(TaskSettings("light", model, Training(15, 8, Adam()), pruning), Path()))
    data = learnable(40, shape=(14, 14, 1), classes=3)
    save_npz(elsewhere.directory / "data.npz", data)
    (elsewhere.directory / "task.fedtask").write_bytes(bundle.blob)

    elsewhere(TRAIN)

    trained = np.load(elsewhere.directory / "trained.npz")
    for trainer in (LiteRTTrainer(bundle, examples=len(data), threads=1), KerasTrainer(bundle, threads=1)):
        work = Work(bundle.initial_weights(), full_mask(bundle.task.table), 0, None, Keyed(1))
        expected = trainer.train(work, data).weights
        assert_close(dict(zip(expected, trained.values(), strict=True)), expected, 1e-5)


CHECK = """
from pathlib import Path
import msgspec
from fedprune.runtime.self_check import RuntimeUnfit, SelfCheck, run_self_check
from fedprune.model.tensors import TensorSpec
from fedprune.runtime.training_graph import TrainingGraph
tensors = msgspec.json.decode(Path("tensors.json").read_bytes(), type=tuple[TensorSpec, ...])
self_check = msgspec.json.decode(Path("self-check.json").read_bytes(), type=SelfCheck)
for path in sorted(Path().glob("*.tflite")):
    try:
        run_self_check(TrainingGraph(path.read_bytes(), tensors, threads=1), tensors, self_check)
        print(path.stem, "passes")
    except RuntimeUnfit as error:
        print(path.stem, str(error).partition(" computes ")[0])
"""


def test_the_self_check_tells_right_from_wrong(elsewhere: Elsewhere) -> None:
    model = residual()
    objective = Objective(Loss.CATEGORICAL_CROSSENTROPY, from_logits=True)
    graph = training_graph(model, objective.loss, BATCH)
    self_check = make_self_check(Reference(model, [objective]), tensor_table(model), graph, briefly=False)
    (elsewhere.directory / "tensors.json").write_bytes(msgspec.json.encode(tensor_table(model)))
    (elsewhere.directory / "self-check.json").write_bytes(msgspec.json.encode(self_check))
    (elsewhere.directory / "right.tflite").write_bytes(graph)
    wrong = next(mutant for what, mutant in mutants(graph, tensor_table(model)) if what.startswith("SUB for ADD"))
    (elsewhere.directory / "wrong.tflite").write_bytes(wrong)

    assert elsewhere(CHECK).splitlines() == ["right passes", "wrong tflite-runtime 2.14.0"]
