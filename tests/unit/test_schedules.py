"""Parity with TF-MOT is tested in test_masks_tfmot."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.pruning.schedules import (
    ConstantSparsity,
    CosineSparsity,
    IterativeSparsity,
    PolynomialDecay,
    Schedule,
    final_sparsity,
    misses_target,
    steps_to_reach_target,
)

DECAY = PolynomialDecay(initial_sparsity=0.2, target_sparsity=0.8, begin_step=10, end_step=50, frequency=15)
CONSTANT = ConstantSparsity(target_sparsity=0.5, begin_step=4, frequency=3)


def windows() -> st.SearchStrategy[Schedule]:
    steps = st.integers(0, 200)
    decay = st.builds(
        lambda begin, length, frequency: PolynomialDecay(
            initial_sparsity=0.1, target_sparsity=0.9, begin_step=begin, end_step=begin + length, frequency=frequency
        ),
        steps,
        st.integers(1, 200),
        st.integers(1, 50),
    )
    constant = st.builds(
        lambda begin, length, frequency: ConstantSparsity(
            target_sparsity=0.9, begin_step=begin, end_step=begin + length, frequency=frequency
        ),
        steps,
        st.integers(0, 200),
        st.integers(1, 50),
    )
    cosine = st.builds(
        lambda begin, length, frequency: CosineSparsity(
            initial_sparsity=0.1, target_sparsity=0.9, begin_step=begin, end_step=begin + length, frequency=frequency
        ),
        steps,
        st.integers(1, 200),
        st.integers(1, 50),
    )
    iterative = st.builds(
        lambda begin, length, frequency: IterativeSparsity(
            target_sparsity=0.9, begin_step=begin, end_step=begin + length, frequency=frequency
        ),
        steps,
        st.integers(1, 200),
        st.integers(1, 50),
    )
    endless = st.builds(ConstantSparsity, target_sparsity=st.just(0.9), begin_step=steps, frequency=st.integers(1, 50))
    return decay | constant | cosine | iterative | endless


@given(windows(), st.integers(0, 500))
def test_last_due_is_the_latest_due_step(schedule: Schedule, step: int) -> None:
    due = [earlier for earlier in range(step + 1) if schedule.is_due(earlier)]
    assert schedule.last_due(step) == (due[-1] if due else None)


@given(windows(), st.integers(0, 500))
def test_sparsity_in_force_is_that_of_the_last_update_and_never_falls(schedule: Schedule, step: int) -> None:
    due = schedule.last_due(step)
    assert schedule.sparsity_in_force(step) == (0.0 if due is None else schedule.sparsity_at(due))
    assert schedule.sparsity_in_force(step) <= schedule.sparsity_in_force(step + 1)


def test_polynomial_decay_follows_the_paper() -> None:
    assert [step for step in range(100) if DECAY.is_due(step)] == [10, 25, 40]
    assert DECAY.sparsity_at(10) == pytest.approx(0.2)
    assert DECAY.sparsity_at(30) == pytest.approx(0.8 - 0.6 * 0.5**3)
    assert DECAY.sparsity_at(50) == pytest.approx(0.8)
    assert DECAY.sparsity_in_force(9) == 0.0
    assert DECAY.sparsity_in_force(1000) == DECAY.sparsity_at(40)


def test_constant_sparsity_without_end_stays_due() -> None:
    assert CONSTANT.is_due(4 + 3 * 10**6)
    assert CONSTANT.sparsity_in_force(3) == 0.0
    assert CONSTANT.sparsity_in_force(10**9) == 0.5


@pytest.mark.parametrize("schedule", [DECAY, CONSTANT])
def test_schedule_survives_json(schedule: Schedule) -> None:
    assert msgspec.json.decode(msgspec.json.encode(schedule), type=Schedule) == schedule


def test_kind_names_the_schedule() -> None:
    document = {"kind": "constant", "target_sparsity": 0.5, "begin_step": 4, "frequency": 3}
    assert msgspec.convert(document, Schedule) == CONSTANT


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("begin_step", -1, "begin_step is -1"),
        ("begin_step", 50, "greater than begin_step"),
        ("end_step", -1, "greater than begin_step"),
        ("end_step", 2**31, "below 2\\^31"),
        ("frequency", 0, "frequency is 0"),
        ("initial_sparsity", -0.1, "initial_sparsity is -0.1"),
        ("initial_sparsity", 0.9, "below initial_sparsity"),
        ("target_sparsity", 1.0, "target_sparsity is 1.0"),
        ("power", 0.0, "power is 0.0"),
        ("powr", 3.0, "powr"),
    ],
)
def test_bad_polynomial_decay_is_refused_by_field(field: str, value: Any, complaint: str) -> None:
    document = {**msgspec.to_builtins(DECAY), field: value}
    with pytest.raises(msgspec.ValidationError, match=complaint):
        msgspec.convert(document, Schedule)


@pytest.mark.parametrize("end_step", [-2, 3])
def test_constant_sparsity_that_ends_before_it_begins_is_refused(end_step: int) -> None:
    with pytest.raises(ValueError, match="end_step"):
        ConstantSparsity(target_sparsity=0.5, begin_step=4, end_step=end_step, frequency=1)


@given(windows())
def test_a_run_of_so_many_steps_reaches_the_target_and_a_shorter_one_does_not(schedule: Schedule) -> None:
    steps = steps_to_reach_target(schedule)
    if steps is None:
        assert misses_target(schedule, final_sparsity(schedule, 10**6))
    else:
        assert not misses_target(schedule, final_sparsity(schedule, steps))
        assert final_sparsity(schedule, steps) == final_sparsity(schedule, 10**6)
        assert steps == 0 or final_sparsity(schedule, steps - 1) < final_sparsity(schedule, steps)


def test_a_target_that_is_all_but_reached_counts_as_reached() -> None:
    schedule = PolynomialDecay(initial_sparsity=0.0, target_sparsity=0.8, begin_step=0, end_step=100, frequency=95)
    assert steps_to_reach_target(schedule) == 95
    assert not misses_target(schedule, final_sparsity(schedule, 95))


def test_a_schedule_that_does_not_fit_the_run_is_found_out() -> None:
    slow = PolynomialDecay(initial_sparsity=0.0, target_sparsity=0.8, begin_step=10, end_step=1000, frequency=10)
    assert final_sparsity(slow, 30) == pytest.approx(0.048, abs=0.001)
    assert misses_target(slow, final_sparsity(slow, 30))
    assert steps_to_reach_target(slow) == 1000


def test_cosine_sparsity_is_slow_at_both_ends() -> None:
    schedule = CosineSparsity(initial_sparsity=0.2, target_sparsity=0.8, begin_step=10, end_step=50, frequency=10)
    assert schedule.sparsity_at(10) == pytest.approx(0.2)
    assert schedule.sparsity_at(30) == pytest.approx(0.5)
    assert schedule.sparsity_at(20) == pytest.approx(0.8 - 0.6 * (1 + 0.5**0.5) / 2)
    assert schedule.sparsity_in_force(1000) == pytest.approx(0.8)


def test_iterative_sparsity_prunes_the_same_part_of_what_is_left_each_time() -> None:
    schedule = IterativeSparsity(target_sparsity=0.9, begin_step=5, end_step=45, frequency=20)
    left = [1.0 - schedule.sparsity_in_force(step) for step in (4, 5, 25, 45, 500)]
    assert left[0] == 1.0
    assert left[1:4] == pytest.approx([0.1 ** (1 / 3), 0.1 ** (2 / 3), 0.1])
    assert left[4] == left[3]


@pytest.mark.parametrize("kind", ["cosine", "iterative"])
def test_a_growing_schedule_must_end_after_it_begins(kind: str) -> None:
    initial = {"initial_sparsity": 0.0} if kind == "cosine" else {}
    document = {"kind": kind, "target_sparsity": 0.5, "begin_step": 5, "end_step": 5, "frequency": 1, **initial}
    with pytest.raises(msgspec.ValidationError, match="greater than begin_step"):
        msgspec.convert(document, Schedule)
