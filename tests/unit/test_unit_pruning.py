"""Structured pruning in a federation: everybody masks the same units when they are due, and they stay so."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.global_model import new_model, next_model
from edge_agent.held_model import HeldModel
from edge_agent.round_model import round_model
from export.local_layers import BATCH_NORMALIZATION, with_local_layers
from export.settings import UnitSettings
from export.show import show
from export.unit_check import units_that_stay
from fedprune.codecs import Values, encode_replay, parse_model_codec
from fedprune.config import from_table
from fedprune.errors import ConfigurationError, TaskError
from fedprune.model.tensors import Mask, TensorClass, TensorTable, Weights
from fedprune.network.description import Network
from fedprune.network.layers import Activation, Convolution, Dense, Function, LayerNormalization, Reshape
from fedprune.pruning.masks import Allocation, apply_mask, full_mask, mask_sparsity
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity, PolynomialDecay
from fedprune.slimming.groups import dependency_groups
from fedprune.slimming.pruning import UnitPruning, mask_without_units
from fedprune.slimming.unit_masks import dead_units, units_without
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle, Pruning, Task, read_bundle, write_bundle
from fedprune.task.outputs import Output
from fedprune.task.succession import first_version
from fedprune.task.training import Training
from fedprune.task.versions import without_due_units
from tests.described import chain_of, dense, normalization, table_of, weights_of
from tests.drawn_networks import drawn_weights
from tests.samples import assignment, changed
from tests.shrinking import bundle_of

NETWORK = chain_of(
    (6, 6, 1),
    Convolution(name="conv", size=(3, 3), strides=(1, 1), filters=8, kernel="conv/kernel", bias="conv/bias"),
    Activation(name="relu", function=Function.RELU),
    Reshape(name="flat", shape=(128,)),
    Dense(name="dense", units=16, kernel="dense/kernel", bias="dense/bias"),
    Dense(name="out", units=3, kernel="out/kernel", bias="out/bias"),
)
TABLE = table_of(NETWORK)
GROUPS = dependency_groups(NETWORK, TABLE)
EVERYWHERE = full_mask(TABLE)
STEPS = 10
"""A round's."""
GROWING = PolynomialDecay(begin_step=20, end_step=60, frequency=10, initial_sparsity=0.25, target_sparsity=0.5)


def pruned(weights: Weights, mask: Mask, version: int, after: int, units: UnitPruning | None = None) -> Mask:
    steps = (version * STEPS, after * STEPS)
    return mask_without_units(units or UnitPruning(GROWING), NETWORK, TABLE, weights, mask, steps)


def gone(mask: Mask) -> int:
    return int(units_without(GROUPS, mask).sum())


def test_units_go_when_they_are_due_and_stay_away() -> None:
    mask: Mask = EVERYWHERE
    counts = []
    for version in range(8):
        before = mask
        mask = pruned(drawn_weights(TABLE, version), mask, version, version + 1)
        assert all(not (mask[name] & ~before[name]).any() for name in mask)
        counts.append(gone(mask))

    assert counts[0] == 0
    assert counts[1] == 2 + 4
    assert counts == sorted(counts)
    assert counts[-1] == 4 + 8


def test_masks_are_the_same_for_the_same_weights_and_dead_units_are_what_they_leave() -> None:
    first, second = (pruned(drawn_weights(TABLE, 1), EVERYWHERE, 5, 6) for _ in range(2))

    dead = dead_units(GROUPS, apply_mask(drawn_weights(TABLE, 2), first))

    assert all(np.array_equal(first[name], second[name]) for name in EVERYWHERE)
    np.testing.assert_array_equal(dead, units_without(GROUPS, first))


def test_units_that_are_due_go_from_the_initial_model_and_after_going_back_too() -> None:
    constant = UnitPruning(ConstantSparsity(begin_step=0, frequency=10, target_sparsity=0.5))

    assert gone(pruned(drawn_weights(TABLE, 1), EVERYWHERE, 0, 0, constant)) == 4 + 8
    assert gone(pruned(drawn_weights(TABLE, 1), EVERYWHERE, 0, 9)) == 4 + 8


def test_a_layer_keeps_as_many_as_the_task_says() -> None:
    constant = ConstantSparsity(begin_step=0, frequency=10, target_sparsity=0.6)

    assert gone(pruned(drawn_weights(TABLE, 1), EVERYWHERE, 0, 0, UnitPruning(constant, minimum=6))) == 2 + 10
    assert gone(pruned(drawn_weights(TABLE, 1), EVERYWHERE, 0, 0, UnitPruning(constant, multiple=4))) == 4 + 8


def task(sparsity: float) -> Task:
    schedule = ConstantSparsity(begin_step=0, frequency=10, target_sparsity=sparsity)
    units = UnitPruning(ConstantSparsity(begin_step=0, frequency=10, target_sparsity=0.5))
    return Task(
        name="half",
        input_shapes=NETWORK.inputs,
        outputs=(Output((3,), from_logits=True),),
        tensors=tuple(TABLE),
        training=Training(steps_per_round=STEPS),
        pruning=Pruning(schedule, units=units),
        members={},
    )


def test_half_the_units_go_and_then_most_of_what_is_left() -> None:
    half, both = task(0.0), task(0.95)
    weights = drawn_weights(TABLE, 1)

    models = []
    for each in (half, both):
        mask = without_due_units(weights, EVERYWHERE, each, NETWORK, 0, 0)
        models.append(new_model(weights, each, "run", 0, Values.FP32, mask).checkpoint)

    left = 9 * 4 + 16 * 4 * 8 + 8 * 3
    assert mask_sparsity(models[0].mask) == pytest.approx(1 - left / TABLE.prunable)
    assert mask_sparsity(models[1].mask) == pytest.approx(0.95, abs=1e-3)
    assert gone(models[0].mask) == 4 + 8
    assert gone(models[1].mask) >= 4 + 8


def test_agents_own_masks_cannot_remove_units() -> None:
    constant = ConstantSparsity(begin_step=0, frequency=10, target_sparsity=0.5)

    with pytest.raises(ValueError, match='units needs mask = "shared"'):
        Pruning(constant, MaskPolicy.OWN, Allocation.UNIFORM, UnitPruning(constant))


def test_the_schedule_of_units_may_be_given_in_rounds() -> None:
    schedule = {"kind": "constant", "target_sparsity": 0.5, "begin_round": 3}
    settings = from_table({"schedule": schedule, "multiple": 8}, UnitSettings, "task.toml")

    units = settings.in_steps(STEPS)

    assert units == UnitPruning(ConstantSparsity(begin_step=30, frequency=10, target_sparsity=0.5), multiple=8)
    with pytest.raises(ConfigurationError, match="multiple"):
        from_table({"schedule": schedule, "multiple": 0}, UnitSettings, "task.toml")


# What a task is told of its network


def normalized(then: int) -> tuple[Network, TensorTable]:
    network = chain_of(
        (5,),
        Dense(name="first", units=4, kernel="first/kernel"),
        LayerNormalization(name="norm", axes=1, epsilon=1e-3, gamma=None, beta=None),
        *(Dense(name=f"dense{number}", units=4, kernel=f"dense{number}/kernel") for number in range(then)),
    )
    return network, table_of(network)


def test_layers_whose_units_stay_are_named_with_the_reason() -> None:
    assert units_that_stay(NETWORK, TABLE) == []
    (line,) = units_that_stay(*normalized(2))
    assert line == "first: layer 'norm' normalises each example over all of its channels"


def test_units_that_no_pruned_kernel_takes_stay() -> None:
    specs = [
        msgspec.structs.replace(spec, kind=TensorClass.DENSE) if spec.name == "dense/kernel" else spec for spec in TABLE
    ]

    (line,) = units_that_stay(NETWORK, TensorTable(tuple(specs)))

    assert line == "conv: something else than a kernel that is pruned takes them"


def test_a_task_is_shown_with_its_units_and_when_the_network_becomes_smaller(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(bundle_of())
    shown = capsys.readouterr().out
    assert "conv 8, dense 12" in shown
    assert "the network becomes so as units go: after rounds 2, 3" in shown

    show(bundle_of(slim=False))
    assert "the network becomes so when it is exported" in capsys.readouterr().out


def test_a_network_without_units_that_can_go_is_refused() -> None:
    with pytest.raises(
        TaskError, match=r"has no units that can be removed \(first: layer 'norm'.*; leave pruning\.units"
    ):
        units_that_stay(*normalized(1))


@pytest.mark.parametrize("unsent", ["", "frozen", "local"])
def test_devices_follow_a_delta_over_which_units_go(unsent: str, tmp_path: Path) -> None:
    """What no model brings, frozen and local tensors, counts in the norms of units on both sides."""
    network = chain_of(
        (6,),
        msgspec.structs.replace(dense(5), name="body", kernel="body/kernel", bias="body/bias"),
        normalization(beta="beta"),
        msgspec.structs.replace(dense(8), name="middle", kernel="middle/kernel", bias="middle/bias"),
        msgspec.structs.replace(dense(3), name="head", kernel="head/kernel", bias="head/bias"),
    )
    bundle = _bundle_without(network, unsent)
    task, codec = bundle.task, parse_model_codec("fp16 + mask | topk(0.5) | ternary | rice")
    initial = bundle.initial_weights()
    form, start = first_version(bundle.forms, initial)
    first = new_model(initial, task, "run", 0, codec.values, start, form=form)
    moving = {spec.name for spec in task.table} - {spec.name for spec in task.table.unsent}
    merged = {name: array + np.float32(0.01) * (name in moving) for name, array in first.checkpoint.exact.items()}
    assert codec.deltas is not None
    made = next_model(merged, bundle.forms, "run", first.checkpoint, codec.values, codec.deltas, 7)
    assert made.delta is not None
    held = HeldModel(Directory(tmp_path))
    held.keep("run", 0, first.blob)
    asked = changed(
        assignment(1), run="run", base=0, seed=7, model_codec=str(codec), weights_digest=made.model.weights_digest
    )

    found = round_model(encode_replay([made.delta]), asked, read_bundle(bundle.for_devices()), held)

    mask = found.form.expanded(found.mask)
    assert {name: kept.tolist() for name, kept in mask.items()} == {
        name: kept.tolist() for name, kept in found.form.expanded(made.checkpoint.mask).items()
    }
    assert mask_sparsity(mask) > 0.4
    assert held.version == ("run", 1)


def _bundle_without(network: Network, unsent: str) -> Bundle:
    """Half of the units go after round 0. The first layer is frozen, or the normalisation local."""
    frozen = ("body/kernel", "body/bias") if unsent == "frozen" else ()
    table = tuple(table_of(network, frozen))
    if unsent == "local":
        table = with_local_layers(table, network, [BATCH_NORMALIZATION])
    task = Task(
        name="units",
        input_shapes=((6,),),
        outputs=(Output((3,), from_logits=True),),
        tensors=table,
        training=Training(steps_per_round=4),
        pruning=Pruning(
            ConstantSparsity(target_sparsity=0.2, begin_step=1, frequency=1),
            units=UnitPruning(ConstantSparsity(target_sparsity=0.5, begin_step=4, frequency=4)),
        ),
        members={},
    )
    return read_bundle(write_bundle(task, network=network, weights=weights_of(table_of(network))))
