"""Files of a model that learned normalised targets answer in the user's units."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from export.exporting import export_model
from export.report import DENSE_FORMATS, Format, Report
from export.workbench import Workbench
from fedprune.data import Dataset
from fedprune.data.description import MinMax, Normalization, Standard, Table
from fedprune.data.normalization import normalize, normalize_targets
from fedprune.model.tensors import Array, Weights
from fedprune.prediction.model import load_model
from fedprune.runtime.tflite import default_runtime, predict_by_names
from fedprune.task.bundle import Bundle
from fedprune.task.checkpoints import Checkpoint
from fedprune.task.evaluation import InferenceGraph
from tests.regressions import COLUMNS, raw_columns, regression_bundle

INPUTS = Standard((4.0, 101_300.0, 0.5), (8.0, 800.0, 0.5))
WATTS = Standard((3300.0,), (2000.0,))
FAR_FROM_0 = Standard((1e6,), (100.0,))
SPAN = MinMax((-2000.0,), (8000.0,))


def weights_of(bundle: Bundle) -> Weights:
    return {name: np.asarray(array) for name, array in bundle.initial_weights().items()}


def exported(targets: Normalization, out: Path) -> tuple[Report, Dataset, Array]:
    """The report, the examples as the model takes them, and the model's own answers to them."""
    bundle = regression_bundle(Table(COLUMNS, "watts", normalize=INPUTS, targets=targets))
    data = raw_columns(400, 3)
    normalize(data, INPUTS)
    data = normalize_targets(data, targets)
    weights = weights_of(bundle)
    checkpoint = Checkpoint(run="run", version=0, weights=weights, exact=weights, mask={})
    report = export_model(
        bundle,
        checkpoint,
        data,
        out,
        DENSE_FORMATS,
        lambda _: None,
        open_converter=lambda job: nullcontext(Workbench(job)),
    )
    graph = InferenceGraph(bundle.network, threads=1)
    graph.load(weights)
    return report, data, np.concatenate([answers for (answers,) in graph.predict([data.x])])


@pytest.mark.parametrize("targets", [WATTS, FAR_FROM_0, SPAN], ids=["watts", "far from 0", "min-max"])
def test_every_format_answers_in_the_units_of_the_data_files(targets: Normalization, tmp_path: Path) -> None:
    report, data, learned = exported(targets, tmp_path)
    shift, scale = (
        (targets.mean[0], targets.std[0])
        if isinstance(targets, Standard)
        else (targets.minimum[0], targets.maximum[0] - targets.minimum[0])
    )

    assert not report.failures
    raw = raw_columns(400, 3).x
    for row in report.exports:
        told = [given[0].values for given in load_model(tmp_path / row.path).answer({"x": raw[:20]})]
        interpreter = default_runtime().interpreter((tmp_path / row.path).read_bytes())
        (answers,) = predict_by_names(interpreter, {"x": data.x}, ["output_0"])
        np.testing.assert_allclose(np.array(told), answers[:20], rtol=1e-3, atol=0.1 * scale)
        off = np.abs((answers - shift) / scale - learned).mean() / np.abs(learned).max()
        assert off < (0.05 if row.format is Format.INT8 else 0.01), row.format
        assert row.metrics["root_mean_squared_error"] == pytest.approx(
            scale * np.sqrt(np.mean(np.square(learned - data.y))), rel=0.05
        )


def test_the_report_says_how_inputs_are_normalised(tmp_path: Path) -> None:
    report, _, _ = exported(WATTS, tmp_path)

    assert report.normalize == INPUTS
    assert report.keras_metrics["root_mean_squared_error"] == pytest.approx(
        2000.0 * np.sqrt(report.keras_loss), rel=1e-4
    )
