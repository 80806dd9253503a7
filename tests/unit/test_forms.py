"""The forms of a task: what is cut, put back and carried, and names that are anybody's."""

from __future__ import annotations

import numpy as np
import pytest

from fedprune.errors import ProtocolError
from fedprune.model.randomness import Keyed
from fedprune.pruning.schedules import ConstantSparsity, PolynomialDecay
from fedprune.slimming.pruning import MOST_STAGES, UnitPruning
from fedprune.task.forms import Forms
from tests.described import weights_of
from tests.shrinking import NETWORK, bundle_of

BUNDLE = bundle_of()
WHOLE = BUNDLE.forms.whole
UNITS = 8 + 12


def forms() -> Forms:
    return Forms(BUNDLE.task, NETWORK)


def without(*gone: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    units = np.ones(UNITS, np.bool_)
    units[list(gone)] = False
    return units


def test_what_is_put_back_and_cut_again_is_the_same() -> None:
    form = forms().of(without(0, 3, 9, 11))
    weights = form.cut_all(weights_of(BUNDLE.task.table))

    back = {name: form.expand(name, array) for name, array in weights.items()}

    form.task.table.check(weights)
    form.network.check(form.task.table)
    BUNDLE.task.table.check(back)
    for name, array in weights.items():
        np.testing.assert_array_equal(form.cut(name, back[name]), array)
        assert np.count_nonzero(back[name]) == array.size


def test_what_a_former_form_had_not_is_zero_in_the_next() -> None:
    every = forms()
    former, form = every.of(without(0, 1)), every.of(without(1, 2))
    bias = former.cut("beta", np.arange(1, 9, dtype=np.float32))

    assert form.carry(former, "beta", bias).tolist() == [0.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert form.carry_parts(former, {"momentum/beta": bias})["momentum/beta"].shape == (6,)


def test_a_form_that_is_forgotten_and_made_again_is_as_the_one_before() -> None:
    every = forms()
    former = every.of(without(0, 1))
    others = [every.of(without(gone)) for gone in (2, 3, 4)]
    form = every.of(without(0, 1))
    bias = former.cut_all(weights_of(BUNDLE.task.table))

    assert form is not former
    assert form.is_as(former)
    assert form.carried(former, bias) is bias
    assert not any(form.is_as(other) for other in [every.whole, *others])


def test_a_form_is_found_by_its_name_and_by_a_models_first_bytes() -> None:
    every = forms()
    form = every.of(without(2, 10))

    assert every.named(form.name) is form
    assert every.read(form.name + b"model") == (form, b"model")
    assert len(form.name) == 3


@pytest.mark.parametrize(
    "name",
    [b"", b"\xff", b"\xff\xff\xff", b"\xff\xff\x0f\x00", bytes(3)],
    ids=["empty", "short", "bits beyond the units", "long", "no unit left"],
)
def test_names_that_are_no_forms_are_refused(name: bytes) -> None:
    with pytest.raises(ProtocolError, match="form"):
        forms().named(name)


def test_any_bits_are_a_form_or_are_refused() -> None:
    for number in range(200):
        name = Keyed(number, "names").integers(1).tobytes()[:3]
        try:
            form = forms().named(name)
        except ProtocolError:
            continue
        assert form.name == name
        form.network.check(form.task.table)


def test_a_task_whose_network_keeps_its_shape_has_one_form_without_a_name() -> None:
    kept = Forms(bundle_of(slim=False).task, NETWORK)

    assert not kept.can_change
    assert kept.read(b"model") == (kept.whole, b"model")
    with pytest.raises(ProtocolError, match="the task's keep theirs"):
        kept.of(without(1))


@pytest.mark.parametrize("end_step", [17, 40, 1000])
@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_a_network_becomes_smaller_seldom_and_when_the_target_is_reached(end_step: int, power: float) -> None:
    schedule = PolynomialDecay(
        begin_step=3, end_step=end_step, frequency=1, initial_sparsity=0.1, target_sparsity=0.5, power=power
    )
    stages = [UnitPruning(schedule).stage(step) for step in range(end_step + 10)]

    assert stages == sorted(stages)
    assert stages[2] == 0
    assert stages.index(MOST_STAGES) == next(
        step for step in range(end_step + 1) if schedule.sparsity_in_force(step) == schedule.sparsity_in_force(end_step)
    )


def test_a_constant_schedule_has_one_stage() -> None:
    units = UnitPruning(ConstantSparsity(target_sparsity=0.5, begin_step=6, frequency=3))

    assert [units.stage(step) for step in (0, 5, 6, 100)] == [0, 0, MOST_STAGES, MOST_STAGES]
    assert UnitPruning(units.schedule, slim=False).stage(100) == 0
