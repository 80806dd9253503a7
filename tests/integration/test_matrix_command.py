"""`fedprune matrix`: the real converter, the real runtime, real measurements."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from exported_runs import export_here
from keras_bundles import bundle_of, convolutional, learnable, seeded, weights_of

from aggregator.book import Book, RoundRecord, Spread
from benchmarks.matrix import build
from benchmarks.matrix.build import FILES, MASKED_DIRECTORY, plan_matrix
from benchmarks.matrix.candidates import Matrix, Model
from benchmarks.matrix.card import Card
from benchmarks.matrix.command import matrix
from export.export_command import export
from export.report import Format
from fedprune.data import save_npz
from fedprune.errors import ConfigurationError
from fedprune.model.tensors import TensorClass, sparsity
from fedprune.pruning.masks import apply_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.runtime.tflite import default_runtime
from fedprune.slimming.groups import dependency_groups
from fedprune.slimming.pruning import UnitPruning
from fedprune.slimming.selection import UnitAllocation, choose_units
from fedprune.slimming.unit_masks import prunable_unit_mask
from fedprune.system.disk import Directory
from fedprune.task.bundle import load_bundle
from fedprune.task.checkpoints import Checkpoint, load_latest, save_checkpoint
from fedprune.task.run_directory import BOOK, CHECKPOINTS, HELD_OUT, TASK

_SPREAD = Spread(3, 0.5, (0.6, 0.7, 0.8), 0.9, "agent-2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as an aggregator leaves it, of an untrained model without half of its units, and with 80 % zeros."""
    path = tmp_path_factory.mktemp("run")
    schedule = ConstantSparsity(begin_step=1, frequency=2, target_sparsity=0.8)
    model = seeded(convolutional())
    bundle, weights = bundle_of(model, schedule, mask=MaskPolicy.SHARED), weights_of(model)
    groups = dependency_groups(bundle.network, bundle.task.table)
    kept = choose_units(groups, weights, 0.5, UnitAllocation.UNIFORM)
    weights = apply_mask(weights, prunable_unit_mask(groups, kept))
    for spec in bundle.task.table.of(TensorClass.PRUNABLE):
        sizes = np.abs(weights[spec.name])
        weights[spec.name] *= sizes > np.quantile(sizes, 0.8)
    save_checkpoint(Directory(path / CHECKPOINTS), Checkpoint("a-run", 1, weights, weights, {}))
    (path / TASK).write_bytes(bundle.blob)
    save_npz(path / HELD_OUT, learnable(200))
    book = Book.open(path / BOOK)
    book.start("a-run", b"task", {"codec.model": "fp32"})
    book.assign(0, {"agent-1": 10}, 10)
    book.finish(_record())
    book.close()
    return path


def _record() -> RoundRecord:
    """A round whose figures are not looked at, but for the spread over agents."""
    special = {
        "metrics": {"accuracy": 0.7},
        "spreads": {"accuracy": _SPREAD},
        "outliers": (),
        "suspects": (),
        "kept": True,
        "hint": "",
        "bytes_up_by_kind": {},
        "bytes_down_by_kind": {},
    }
    return RoundRecord(**(dict.fromkeys(RoundRecord.__struct_fields__, 0) | special))


@pytest.fixture(scope="module")
def out(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out")
    arguments = [str(run), "--out", str(path), "--num_runs", "40"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "export_model", export_here)
        shown = CliRunner().invoke(matrix, arguments, catch_exceptions=False)
    assert shown.exit_code == 0
    assert "Not made: slimmed int8-sparse: TFLite's runtimes have no kernel for sparse int8 weights" in shown.output
    return path


def _matrix(out: Path) -> Matrix:
    return msgspec.json.decode((out / "matrix.json").read_bytes(), type=Matrix)


def test_every_combination_is_measured_or_refused_and_one_is_recommended(out: Path) -> None:
    found = _matrix(out)
    assert [(each.model, each.format) for each in found.candidates] == [*product(Model, Format)]
    assert {refused.format for refused in found.refused} == {"dynamic-sparse", "int8-sparse"}
    for each in found.candidates:
        assert each.bytes == (out / each.path).stat().st_size
        assert 0 < each.bytes_zstd < each.bytes
        assert 0 < each.bytes_deflate < each.bytes
        assert each.quality is not None
        assert each.p50_ms is not None
        assert each.p90_ms is not None
        assert 0 < each.p50_ms <= each.p90_ms
    assert found.recommendation is not None
    (taken,) = [each for each in found.candidates if each.path == found.recommendation.path]
    assert not taken.degraded
    assert any(each.is_efficient for each in found.candidates)


def test_a_slimmed_model_stands_beside_the_masked_one_smaller_and_with_the_same_answers(run: Path, out: Path) -> None:
    found = _matrix(out)
    masked, slimmed = (
        {each.format: each for each in found.candidates if each.model is model}
        for model in (Model.MASKED, Model.SLIMMED)
    )
    assert found.parameters[Model.MASKED] == load_bundle(run / TASK).task.table.parameters
    assert found.parameters[Model.SLIMMED] < found.parameters[Model.MASKED] / 2
    assert not found.why_one_model
    for form in (Format.FP32, Format.FP16, Format.INT8):
        assert masked[form].path == f"{MASKED_DIRECTORY}/{slimmed[form].path}"
        assert slimmed[form].bytes < masked[form].bytes
        assert slimmed[form].quality == pytest.approx(masked[form].quality, abs=0.05)


def test_where_no_unit_is_dead_the_masked_model_stands_alone_and_why(run: Path, tmp_path: Path) -> None:
    bundle, last = load_bundle(run / TASK), load_latest(run)
    (tmp_path / TASK).write_bytes(bundle.blob)
    weights = {name: np.ones_like(array) for name, array in last.weights.items()}
    save_checkpoint(Directory(tmp_path / CHECKPOINTS), Checkpoint("a-run", 1, weights, weights, {}))
    save_npz(tmp_path / HELD_OUT, learnable(20))
    plan = plan_matrix(tmp_path, None)
    assert plan.models == (Model.MASKED,)
    assert plan.why_one == "no unit is dead, so that the slimmed model is the masked one"


def test_of_a_network_that_became_smaller_in_its_federation_there_is_the_slimmed_model_alone(tmp_path: Path) -> None:
    never = ConstantSparsity(begin_step=1, frequency=2, target_sparsity=0.0)
    half = ConstantSparsity(begin_step=1, frequency=2, target_sparsity=0.5)
    model = seeded(convolutional())
    bundle = bundle_of(model, never, mask=MaskPolicy.SHARED, units=UnitPruning(half))
    groups = bundle.forms.groups
    left = choose_units(groups, weights_of(model), 0.5, UnitAllocation.UNIFORM)
    form = bundle.forms.of(left)
    weights = {spec.name: np.ones(spec.shape, np.float32) for spec in form.task.table}
    (tmp_path / TASK).write_bytes(bundle.blob)
    save_checkpoint(Directory(tmp_path / CHECKPOINTS), Checkpoint("a-run", 1, weights, weights, {}, units=left))
    save_npz(tmp_path / HELD_OUT, learnable(20))
    plan = plan_matrix(tmp_path, None)
    assert plan.models == (Model.SLIMMED,)
    assert "became smaller while the federation ran" in plan.why_one


def test_sparse_encoding_keeps_the_zeros_and_the_answers(run: Path, out: Path) -> None:
    by_format = {each.format: each for each in _matrix(out).candidates if each.model is Model.MASKED}
    exact = sparsity(load_latest(run).weights, load_bundle(run / TASK).task.table)
    for form in (Format.FP32_SPARSE, Format.FP16_SPARSE):
        assert by_format[form].sparsity.overall == exact
        assert by_format[form].quality == pytest.approx(by_format[Format.FP32].quality, abs=0.02)


def test_full_int8_has_a_scale_for_each_channel_of_a_convolution(out: Path) -> None:
    details = default_runtime().interpreter(out / Format.INT8.file).get_tensor_details()  # type: ignore[attr-defined]
    scales = [len(each["quantization_parameters"]["scales"]) for each in details if len(each["shape"]) == 4]
    assert max(scales) > 1


def test_the_model_card_says_what_the_model_is(run: Path, out: Path) -> None:
    card = msgspec.json.decode((out / "model-card.json").read_bytes(), type=Card)
    weights = load_latest(run).weights
    assert (card.task, card.run, card.version, card.rounds) == ("test", "a-run", 1, 1)
    assert card.spreads == {"accuracy": _SPREAD}
    assert card.sparsity_by_layer == {name: float(np.mean(weights[name] == 0)) for name in card.sparsity_by_layer}
    assert [(each.model, each.format) for each in card.files if each.runs_on] == [*product(Model, Format)]
    assert card.parameters_by_model == _matrix(out).parameters
    assert sum(card.removed_units.values()) > 0
    text = (out / "model-card.md").read_text()
    assert "accuracy over 3 agents, in their last evaluation: worst 0.5" in text
    assert f"**Recommended: {card.recommended}.**" in text
    assert (out / "matrix.png").read_bytes().startswith(b"\x89PNG")
    assert {*FILES, "exports.json"} <= {file.name for file in out.iterdir()}


def test_a_combination_that_is_known_to_fail_is_refused_with_the_reason(run: Path) -> None:
    result = CliRunner().invoke(export, [str(run), "--formats", "fp32,int8-sparse"])
    assert isinstance(result.exception, ConfigurationError)
    assert "no kernel for sparse int8 weights" in str(result.exception)
    assert "take int8" in str(result.exception)
