"""Outliers: whom a round's norms leave out, and that only the set decides, not its order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.explosion import has_exploded
from aggregator.outliers import FACTOR, Norms, are_usual, model_norms, norms_of, outliers, typical
from aggregator.standing_apart import Signals, standing_apart
from fedprune.codecs import Update
from fedprune.codecs.update import LARGEST_VALUE, LARGEST_VARIANCE
from fedprune.model.losses import Loss, Objective
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable
from fedprune.task.evaluation import LossScale

NOTHING = Norms(0.0, 0.0)
TABLE = TensorTable(
    (
        TensorSpec("kernel", (3,), "float32", TensorClass.PRUNABLE, "dense"),
        TensorSpec("moving_mean", (1,), "float32", TensorClass.STATISTICS, "norm"),
        TensorSpec("moving_variance", (1,), "float32", TensorClass.STATISTICS, "norm"),
    )
)
BASE = {
    "kernel": np.array([1.0, 2.0, 3.0], np.float32),
    "moving_mean": np.array([10.0], np.float32),
    "moving_variance": np.array([4.0], np.float32),
}
SCALE = LossScale(constant=2.3, ceiling=16.1)


def update(delta: float, mean: float = 10.0, variance: float = 4.0) -> Update:
    statistics = {"moving_mean": np.array([mean], np.float32), "moving_variance": np.array([variance], np.float32)}
    return Update({"kernel": np.array([0.0, delta, 0.0], np.float32)}, statistics, {"kernel": np.ones(3, np.bool_)})


def round_of(*deltas: float) -> dict[str, Norms]:
    return {f"pi-{index}": Norms(delta, 0.0) for index, delta in enumerate(deltas)}


def test_norms_are_of_the_delta_and_of_the_shift_of_statistics_in_their_own_units() -> None:
    assert norms_of(update(-2.0, mean=13.0, variance=36.0), BASE, TABLE) == Norms(2.0, 5.0)


def test_the_largest_update_that_is_taken_has_finite_norms() -> None:
    norms = norms_of(update(LARGEST_VALUE, -LARGEST_VALUE, LARGEST_VARIANCE), BASE, TABLE)

    assert math.isfinite(norms.delta)
    assert math.isfinite(norms.statistics)


def test_a_huge_update_of_the_first_round_is_told_by_the_others() -> None:
    assert outliers(round_of(1.0, 1.2, 1e4, 0.8), NOTHING) == {
        "pi-2": "the norm of its delta is 1e+04; up to 10 is usual here"
    }


def test_huge_statistics_are_left_out_however_small_the_delta_is() -> None:
    norms = {**round_of(1.0, 1.0, 1.0), "pi-3": Norms(1.0, 1e4)}

    assert outliers(norms, Norms(1.0, 2.0)) == {"pi-3": "the norm of its statistics is 1e+04; up to 20 is usual here"}
    assert outliers(norms, NOTHING) == {}, "nobody else has statistics that shift: nothing is usual"


@pytest.mark.parametrize("deltas", [(1.0, 1e4), (1e4,)])
def test_of_two_updates_nobody_can_tell_but_by_earlier_rounds(deltas: tuple[float, ...]) -> None:
    assert outliers(round_of(*deltas), NOTHING) == {}
    assert outliers(round_of(1.0, *deltas), Norms(1.0, 0.0)).keys() == {f"pi-{len(deltas)}"}


def test_where_all_would_be_outliers_none_is() -> None:
    assert outliers(round_of(1e4, 2e4), Norms(1.0, 0.0)) == {}


def test_a_device_that_joins_late_may_move_as_far_as_others_did_at_first() -> None:
    """The others have nothing left to learn."""
    assert outliers(round_of(0.01, 0.01, 0.01, 3.0), Norms(1.0, 0.0)) == {}
    assert outliers(round_of(0.01, 0.01, 0.01, 3.0), Norms(0.1, 0.0)).keys() == {"pi-3"}


def test_a_round_in_which_all_move_far_leaves_nobody_out() -> None:
    """Pruning at one stroke does that."""
    assert outliers(round_of(50.0, 60.0, 70.0), Norms(1.0, 0.0)) == {}


@given(
    st.dictionaries(st.text(min_size=1, max_size=4), st.floats(0.0, 1e12), min_size=1, max_size=8),
    st.floats(0.0, 1e6),
    st.randoms(),
)
def test_order_decides_nothing_half_stay_and_leaving_out_is_final(
    deltas: dict[str, float], earlier: float, order: object
) -> None:
    norms = {agent: Norms(delta, 0.0) for agent, delta in deltas.items()}
    shuffled = list(norms)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    found = outliers(norms, Norms(earlier, 0.0))

    assert list(outliers({agent: norms[agent] for agent in shuffled}, Norms(earlier, 0.0)).items()) == list(
        found.items()
    )
    assert len(found) < len(norms)
    if len(norms) >= 3:
        assert 2 * len(found) <= len(norms)
        usual = max(earlier, typical(norms.values()).delta)
        assert found.keys() == {agent for agent, each in norms.items() if each.delta > FACTOR * usual > 0.0}


def test_a_loss_that_is_not_finite_has_exploded() -> None:
    assert all(
        has_exploded(loss, 1.0, SCALE, are_usual=usual) for loss in (math.nan, math.inf) for usual in (False, True)
    )


@pytest.mark.parametrize(
    ("loss", "before", "scale", "exploded"),
    [
        (9.0, 0.1, SCALE, False),
        (9.3, 0.1, SCALE, True),
        (9.3, 4.0, SCALE, False),
        (15.0, 6.9, LossScale(6.9, 16.1), True),  # a thousand classes: four times would be above the ceiling
        (27.0, 0.1, LossScale(6.9, math.inf), False),
        (28.0, 0.1, LossScale(6.9, math.inf), True),
    ],
)
def test_a_loss_explodes_beyond_what_knowing_nothing_costs(
    loss: float, before: float, scale: LossScale, exploded: bool
) -> None:
    assert has_exploded(loss, before, scale, are_usual=False) == exploded


def test_updates_of_usual_norms_may_be_worse_than_knowing_nothing() -> None:
    """So may be an agent that has nearly one class only."""
    scale = LossScale(2.3, math.inf)

    assert not has_exploded(18.6, 2.1, scale, are_usual=True)
    assert has_exploded(60.0, 2.1, scale, are_usual=True)


def test_norms_are_usual_by_what_was_known_when_the_round_opened() -> None:
    assert are_usual([Norms(9.0, 5.0), Norms(1.0, 19.0)], Norms(1.0, 2.0))
    assert not are_usual([Norms(1.0, 1.0), Norms(11.0, 1.0)], Norms(1.0, 2.0))
    assert not are_usual([Norms(1.0, 21.0)], Norms(1.0, 2.0))
    assert are_usual([Norms(1.0, 1e9)], Norms(1.0, 0.0)), "of statistics nothing was known"
    assert not are_usual([Norms(1.0, 0.0)], NOTHING)


def test_a_models_size_is_that_of_its_weights() -> None:
    assert model_norms(BASE, TABLE) == Norms(math.sqrt(14.0), 0.0)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize(
    ("loss", "labels", "outputs", "expected"),
    [
        (Loss.SPARSE_CATEGORICAL_CROSSENTROPY, np.arange(40) % 10, 10, math.log(10)),
        (Loss.CATEGORICAL_CROSSENTROPY, np.eye(4, dtype=np.float32), 4, math.log(4)),
        (Loss.BINARY_CROSSENTROPY, np.array([[0.0], [1.0]], np.float32), 1, math.log(2)),
        (Loss.MEAN_SQUARED_ERROR, np.array([[1.0], [5.0]], np.float32), 1, 4.0),
    ],
)
def test_the_best_constant_answer_costs_the_labels_entropy_or_variance(
    loss: Loss,
    labels: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
    outputs: int,
    expected: float,
    from_logits: bool,
) -> None:
    objective = Objective(loss, from_logits)

    assert objective.constant_loss(labels, outputs) == pytest.approx(expected, rel=1e-5)  # type: ignore[arg-type]
    clips = loss is not Loss.MEAN_SQUARED_ERROR and not from_logits
    assert math.isfinite(objective.ceiling) == clips


USUAL = {f"pi-{index}": Signals(0.3 + index / 50, 0.28, 1.0) for index in range(3)}


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        (Signals(0.3, 133.6, 148.0), "its inputs reach 148, those of others 1"),
        (Signals(0.3, 0.001, 1 / 255), "its inputs reach 0.00392, those of others 1"),
        (Signals(0.3, 0.95, 1.0), "its inputs are 0.95 on average, those of others 0.28"),
        (Signals(2.1, 0.28, 1.0), "its loss is 2.1, that of others 0.33"),
        (Signals(0.3, 0.0, 0.0), "its inputs reach 0, those of others 1"),
    ],
)
def test_who_stands_apart_is_told_with_what(odd: Signals, why: str) -> None:
    assert standing_apart(USUAL | {"pi-9": odd}, constant_loss=2.3) == {"pi-9": why}


@pytest.mark.parametrize(
    "unlike", [Signals(0.001, 0.28, 1.0), Signals(1.2, 0.28, 1.0), Signals(0.3, 0.6, 1.0), Signals(0.3, 0.28, 3.0)]
)
def test_easy_data_and_other_classes_are_no_reason(unlike: Signals) -> None:
    assert standing_apart(USUAL | {"pi-9": unlike}, constant_loss=2.3) == {}


def test_two_agents_cannot_stand_apart_from_each_other() -> None:
    assert standing_apart({"pi-0": Signals(0.3, 0.3, 1.0), "pi-1": Signals(9.0, 99.0, 99.0)}, constant_loss=2.3) == {}


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.builds(Signals, st.floats(-3.5e38, 3.5e38), st.floats(-3.5e38, 3.5e38), st.floats(0.0, 3.5e38)),
        max_size=7,
    )
)
def test_whatever_agents_say_is_compared(signals: dict[str, Signals]) -> None:
    assert standing_apart(signals, constant_loss=2.3).keys() <= signals.keys()
