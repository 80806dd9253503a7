"""task.toml: a pruning schedule in steps, or in rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from export.settings import TaskSettings
from fedprune.config import load_toml
from fedprune.errors import ConfigurationError
from fedprune.pruning.schedules import ConstantSparsity, PolynomialDecay, Schedule
from tests.processes import toml

_STEPS = 47
_POLYNOMIAL = {"kind": "polynomial", "initial_sparsity": 0.0, "target_sparsity": 0.8}
_CONSTANT = {"kind": "constant", "target_sparsity": 0.5}


def _schedule(directory: Path, **schedule: Any) -> Schedule:
    """The schedule of a task whose rounds have `_STEPS` steps."""
    path = directory / "task.toml"
    training = {"steps_per_round": _STEPS}
    model = {"builtin": "cnn-108k"}
    path.write_text(toml({"name": "t", "model": model, "training": training, "pruning": {"schedule": schedule}}))
    return load_toml(path, TaskSettings).pruning.in_steps(_STEPS).schedule


def test_rounds_are_counted_in_steps_of_the_global_clock(tmp_path: Path) -> None:
    assert _schedule(tmp_path, **_POLYNOMIAL, begin_round=2, end_round=10) == PolynomialDecay(
        initial_sparsity=0.0, target_sparsity=0.8, begin_step=94, end_step=470, frequency=47
    )
    assert _schedule(tmp_path, **_CONSTANT, begin_round=3) == ConstantSparsity(
        target_sparsity=0.5, begin_step=141, frequency=47
    )
    assert _schedule(tmp_path, **_CONSTANT, begin_round=3, end_round=5) == ConstantSparsity(
        target_sparsity=0.5, begin_step=141, end_step=235, frequency=47
    )


def test_steps_are_taken_as_they_are(tmp_path: Path) -> None:
    window = {"begin_step": 10, "end_step": 50, "frequency": 20}
    assert _schedule(tmp_path, **_POLYNOMIAL, **window) == PolynomialDecay(
        initial_sparsity=0.0, target_sparsity=0.8, begin_step=10, end_step=50, frequency=20
    )
    assert _schedule(tmp_path, **_CONSTANT, begin_step=4, frequency=3) == ConstantSparsity(
        target_sparsity=0.5, begin_step=4, frequency=3
    )


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (_POLYNOMIAL | {"begin_round": 2, "end_step": 100}, "give begin_round and end_round, or"),
        (_POLYNOMIAL | {"begin_round": 2, "end_round": 4, "frequency": 10}, "not both"),
        (_POLYNOMIAL | {"begin_round": 2}, "give begin_round and end_round, or"),
        (_POLYNOMIAL | {"end_round": 2}, "give begin_round and end_round, or"),
        (_POLYNOMIAL | {"begin_step": 2, "end_step": 20}, "begin_step, end_step and frequency"),
        (_POLYNOMIAL, "give begin_round and end_round, or"),
        (_CONSTANT | {"end_round": 2}, "give begin_round"),
        (_POLYNOMIAL | {"begin_round": 4, "end_round": 4}, "end_round is 4; it must be greater than begin_round 4"),
        (_POLYNOMIAL | {"begin_round": -1, "end_round": 4}, "begin_round is -1"),
        (_POLYNOMIAL | {"begin_round": 1, "end_round": 2**30}, "below 2^31"),
        (_POLYNOMIAL | {"begin_round": 0.1, "end_round": 0.5}, "pruning.schedule.begin_round: expected `int"),
        (_POLYNOMIAL | {"begin_rounds": 1, "end_round": 2}, "did you mean 'pruning.schedule.begin_round'"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused(tmp_path: Path, schedule: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=r"task\.toml: ") as refused:
        _schedule(tmp_path, **schedule)
    assert said in str(refused.value)
