"""task.toml: a pruning schedule in steps, or in rounds; the loss of an output, or of several."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from export.settings import PruningSettings, TaskSettings
from fedprune.config import load_toml
from fedprune.errors import ConfigurationError
from fedprune.model.losses import Loss, Objective
from fedprune.pruning.schedules import ConstantSparsity, CosineSparsity, IterativeSparsity, PolynomialDecay, Schedule
from fedprune.task.outputs import Output
from fedprune.task.training import Training
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


def test_cosine_iterative_and_one_shot_are_counted_in_rounds_too(tmp_path: Path) -> None:
    cosine = {**_POLYNOMIAL, "kind": "cosine", "begin_round": 2, "end_round": 10}
    assert _schedule(tmp_path, **cosine) == CosineSparsity(
        initial_sparsity=0.0, target_sparsity=0.8, begin_step=94, end_step=470, frequency=47
    )
    iterative = {**_CONSTANT, "kind": "iterative", "begin_round": 2, "end_round": 10, "every_rounds": 4}
    assert _schedule(tmp_path, **iterative) == IterativeSparsity(
        target_sparsity=0.5, begin_step=94, end_step=470, frequency=188
    )
    assert _schedule(tmp_path, **_CONSTANT | {"kind": "one-shot"}, begin_round=3) == ConstantSparsity(
        target_sparsity=0.5, begin_step=141, end_step=141, frequency=1
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
        (_CONSTANT | {"kind": "one-shot", "begin_round": 1, "begin_step": 2}, "give either begin_round or begin_step"),
        (_CONSTANT | {"kind": "iterative", "begin_round": 1, "end_round": 2}, "give every_rounds"),
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


def _training(directory: Path, **training: Any) -> Training:
    path = directory / "task.toml"
    pruning = {"schedule": _CONSTANT | {"begin_round": 1}}
    training = {"steps_per_round": _STEPS, **training}
    path.write_text(toml({"name": "t", "model": {"file": "m.keras"}, "training": training, "pruning": pruning}))
    return load_toml(path, TaskSettings).training


@pytest.mark.parametrize(
    ("decay", "rates"),
    [
        (
            {"kind": "cosine", "begin_round": 2, "end_round": 6, "alpha": 0.1},
            [0.2, 0.2, 0.2, 0.1736, 0.11, 0.0464, 0.02],
        ),
        ({"kind": "exponential", "rate": 0.5}, [0.2, 0.1, 0.05]),
    ],
)
def test_a_learning_rate_decays_by_rounds(tmp_path: Path, decay: dict[str, Any], rates: list[float]) -> None:
    training = _training(tmp_path, optimizer={"name": "sgd", "learning_rate": 0.2}, learning_rate_decay=decay)
    found = [training.learning_rate_at(number * _STEPS) for number in range(len(rates))]
    assert found == pytest.approx(rates, abs=1e-4)
    assert training.learning_rate_at(_STEPS - 1) == training.learning_rate_at(0)


@pytest.mark.parametrize(
    ("decay", "said"),
    [
        ({"kind": "cosine", "begin_round": 4, "end_round": 4}, "end_round is 4; it must be greater than begin_round 4"),
        ({"kind": "cosine", "end_round": 4, "alpha": 1.5}, "training.learning_rate_decay.alpha"),
        ({"kind": "exponential", "rate": 0}, "training.learning_rate_decay.rate"),
        ({"kind": "step", "rate": 0.5}, "training.learning_rate_decay"),
    ],
)
def test_a_decay_that_makes_no_sense_is_refused(tmp_path: Path, decay: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=r"task\.toml: ") as refused:
        _training(tmp_path, learning_rate_decay=decay)
    assert said in str(refused.value)


def test_one_output_has_its_loss_in_training_and_several_have_tables(tmp_path: Path) -> None:
    one = _training(tmp_path, loss="binary_crossentropy", label_smoothing=0.1, class_weights=[1.0, 3])
    assert one.objective_of(Output((1,), True)) == Objective(Loss.BINARY_CROSSENTROPY, True, 1.0, 0.1, (1.0, 3.0))

    several = _training(
        tmp_path, losses={"box": {"loss": "mean_squared_error", "weight": 5}, "kind": {"loss": "binary_crossentropy"}}
    )
    assert several.objective_of(Output((4,), False, "box")) == Objective(Loss.MEAN_SQUARED_ERROR, False, 5.0)
    assert several.objective_of(Output((4,), False, "kind")) == Objective(Loss.BINARY_CROSSENTROPY, False)


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (
            {"loss": "mean_squared_error", "label_smoothing": 0.1},
            "label_smoothing is for crossentropies, not for mean_",
        ),
        ({"label_smoothing": 1.0}, "training.label_smoothing: expected `float` < 1.0"),
        ({"class_weights": [1.0, -1.0]}, "training.class_weights"),
        ({"losses": {"a": {}}}, "training.losses"),
        ({"losses": {"a": {"loss": "mean_squared_error", "weight": 0}}}, "training.losses"),
        (
            {"loss": "mean_squared_error", "losses": {"a": {"loss": "mean_squared_error"}}},
            "give loss, label_smoothing, class_weights and logit_adjustment of each output in its own table",
        ),
        ({"label_smoothing": 0.1, "losses": {"a": {"loss": "mean_squared_error"}}}, "in its own table of losses"),
    ],
)
def test_losses_that_make_no_sense_are_refused(tmp_path: Path, training: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=r"task\.toml: ") as refused:
        _training(tmp_path, **training)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("pruning", "said"),
    [
        ({"mask": "own", "allocation": "uniform", "block": [1, 4]}, 'pruning.block needs mask = "shared"'),
        ({"block": [1, 0]}, "pruning.block"),
        ({"block": [4]}, "pruning.block"),
        ({"threshold": -0.1}, "pruning.threshold"),
        ({"score": {"magnitude": 1}}, "pruning.score"),
        ({"score": "sensitivity", "mask": "own", "allocation": "uniform"}, "pruning.score is of all agents together"),
        ({"block": [1, 4], "threshold": 0.1}, "pruning.threshold prunes single weights"),
        ({"mask": "own", "allocation": "uniform", "threshold": 0.1}, "pruning.threshold prunes single weights"),
    ],
)
def test_blocks_and_thresholds_that_cannot_be_had_are_refused(
    tmp_path: Path, pruning: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        _pruning(tmp_path, **pruning)


@pytest.mark.parametrize("kind", ["cosine", "iterative"])
def test_own_masks_are_pruned_on_the_schedules_that_tfmot_has(tmp_path: Path, kind: str) -> None:
    initial = {"initial_sparsity": 0.0} if kind == "cosine" else {"every_rounds": 1}
    schedule = {"kind": kind, "target_sparsity": 0.5, "begin_round": 1, "end_round": 4, **initial}
    with pytest.raises(ConfigurationError, match="TF-MOT has no other"):
        _pruning(tmp_path, mask="own", allocation="uniform", schedule=schedule)


def _pruning(directory: Path, **pruning: Any) -> PruningSettings:
    path = directory / "task.toml"
    table = {"schedule": _CONSTANT | {"begin_round": 1}} | pruning
    model, training = {"builtin": "cnn-108k"}, {"steps_per_round": _STEPS}
    path.write_text(toml({"name": "t", "model": model, "training": training, "pruning": table}))
    return load_toml(path, TaskSettings).pruning
