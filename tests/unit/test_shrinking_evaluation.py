"""A gateway evaluates with the smaller network once it has answered as the whole one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedprune.data.npz import save_npz
from fedprune.graph.inference import write_inference_graph
from fedprune.network.description import Network
from fedprune.task import evaluation
from fedprune.task.evaluation import Evaluator
from tests.shrinking import bundle_of, examples_of

BUNDLE = bundle_of()
UNITS = np.arange(20) % 3 > 0
FORM = BUNDLE.forms.of(UNITS)
WEIGHTS = FORM.cut_all(BUNDLE.initial_weights())


@pytest.fixture
def evaluator(tmp_path: Path) -> Evaluator:
    save_npz(tmp_path / "held-out.npz", examples_of(5))
    return Evaluator(BUNDLE, tmp_path / "held-out.npz", threads=1)


def test_the_smaller_network_is_judged_as_the_whole_one(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written = []

    def noted(network: Network, *others: Any) -> bytes:
        written.append(network)
        return write_inference_graph(network, *others)

    whole = evaluator.evaluate(dict(FORM.expanded(WEIGHTS)))
    monkeypatch.setattr(evaluation, "write_inference_graph", noted)
    found = [evaluator.evaluate(WEIGHTS, FORM) for _ in range(2)]

    assert [each.loss for each in found] == pytest.approx([whole.loss] * 2, rel=1e-4)
    assert [network is FORM.network for network in written] == [False, True, True, True], "compared once"
    assert evaluator.evaluate(BUNDLE.initial_weights(), BUNDLE.forms.whole).examples == found[0].examples
    assert not caplog.text


def test_where_it_answers_otherwise_the_whole_network_is_evaluated(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(network: Network, weights: Any, *others: Any) -> bytes:
        factor = np.float32(1.1) if network is FORM.network else np.float32(1.0)
        return write_inference_graph(network, {**weights, "out/bias": weights["out/bias"] * factor}, *others)

    whole = evaluator.evaluate(dict(FORM.expanded(WEIGHTS)))
    monkeypatch.setattr(evaluation, "write_inference_graph", wrong)

    assert [evaluator.evaluate(WEIGHTS, FORM) for _ in range(2)] == [whole] * 2
    assert caplog.text.count("models are evaluated with the whole one") == 1


def test_a_model_that_has_exploded_is_no_reason_to_stay_whole(
    evaluator: Evaluator, caplog: pytest.LogCaptureFixture
) -> None:
    exploded = {**WEIGHTS, "out/bias": np.full_like(WEIGHTS["out/bias"], np.inf)}

    assert not np.isfinite(evaluator.evaluate(exploded, FORM).loss)
    assert not caplog.text
