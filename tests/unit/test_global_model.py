"""The global model: what agents decode is what is pruned, checkpointed and restored."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.global_model import GlobalModel, new_model, restored_model
from aggregator.merging import Aggregate
from fedprune.codecs import Values, decode_model, decode_update, parse_codec
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorClass, Weights, sparsity, weights_digest
from fedprune.pruning.masks import Allocation, full_mask, mask_sparsity
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.system.disk import Directory
from fedprune.task.bundle import Pruning, Task
from fedprune.task.checkpoints import load_checkpoint, save_checkpoint
from tests.encoding import KEY, encoded, update_of
from tests.simulation.stand_ins import STEPS_PER_ROUND, make_bundle

VERSIONS = (0, 1, 2, 5)


def task(policy: MaskPolicy) -> Task:
    return make_bundle(policy).task


def weights(policy: MaskPolicy, limit: float = 0.5) -> Weights:
    keyed = Keyed(1, "global model")
    return {spec.name: keyed.uniform(spec.size, -limit, limit).reshape(spec.shape) for spec in task(policy).table}


def model(version: int, values: Values = Values.FP16, policy: MaskPolicy = MaskPolicy.SHARED) -> GlobalModel:
    return new_model(weights(policy), task(policy), "run", version, values, full_mask(task(policy).table))


@pytest.mark.parametrize("policy", MaskPolicy)
@pytest.mark.parametrize("values", [Values.FP32, Values.FP16])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_restored_model_has_the_bytes_that_agents_were_sent(
    tmp_path: Path, version: int, values: Values, policy: MaskPolicy
) -> None:
    made, disk = model(version, values, policy), Directory(tmp_path)
    save_checkpoint(disk, made.checkpoint)

    restored = restored_model(load_checkpoint(disk, version), task(policy), values)

    assert restored.blob == made.blob
    assert restored.model == made.model


@pytest.mark.parametrize("values", [Values.FP32, Values.FP16])
def test_its_digest_is_that_of_what_agents_decode(values: Values) -> None:
    made = model(2, values)

    decoded, mask = decode_model(made.blob, task(MaskPolicy.SHARED).table)

    assert bytes.fromhex(weights_digest(decoded)) == made.model.weights_digest
    for name, kept in mask.items():
        np.testing.assert_array_equal(kept, made.checkpoint.mask[name])
        assert not decoded[name][~kept].any()


@pytest.mark.parametrize("policy", MaskPolicy)
def test_it_is_pruned_to_what_the_schedule_says_of_its_round(policy: MaskPolicy) -> None:
    for version in VERSIONS:
        made = model(version, policy=policy).checkpoint
        due = task(policy).pruning.schedule.sparsity_in_force(version * STEPS_PER_ROUND)
        assert sparsity(made.weights, task(policy).table) == pytest.approx(due, abs=1e-3)
        assert sparsity(made.exact, task(policy).table) == pytest.approx(due, abs=1e-3)


def test_weights_below_the_threshold_go_where_the_schedule_updates_the_mask_and_stay_where_it_does_not() -> None:
    schedule = ConstantSparsity(target_sparsity=0.0, begin_step=1, end_step=2 * STEPS_PER_ROUND, frequency=1)
    pruning = Pruning(schedule, threshold=0.2)
    thresholded = msgspec.structs.replace(task(MaskPolicy.SHARED), pruning=pruning)
    full = full_mask(thresholded.table)

    pruned = {
        version: new_model(weights(MaskPolicy.SHARED), thresholded, "run", version, Values.FP32, full).checkpoint.mask
        for version in (0, 1, 2, 3)
    }

    for version, mask in pruned.items():
        for name, kept in mask.items():
            small = np.abs(weights(MaskPolicy.SHARED)[name]) < 0.2
            np.testing.assert_array_equal(kept, ~small if version in (1, 2) else full[name])


def test_the_gateways_own_weights_are_not_rounded() -> None:
    made = model(0).checkpoint

    for name, array in weights(MaskPolicy.SHARED).items():
        np.testing.assert_array_equal(made.exact[name], array)
    for spec in task(MaskPolicy.SHARED).table.of(TensorClass.PRUNABLE, TensorClass.DENSE):
        name, array = spec.name, made.exact[spec.name]
        np.testing.assert_array_equal(made.weights[name], array.astype(np.float16).astype(np.float32))


def test_weights_beyond_the_codecs_range_are_clipped_not_refused() -> None:
    policy = MaskPolicy.SHARED
    everywhere = full_mask(task(policy).table)

    made = new_model(weights(policy, limit=1e6), task(policy), "run", 0, Values.FP16, everywhere)

    assert all(np.isfinite(array).all() for array in made.checkpoint.weights.values())


@pytest.mark.parametrize("allocation", Allocation)
def test_a_shared_mask_prunes_on_where_all_agents_set_a_kept_weight_to_zero(allocation: Allocation) -> None:
    """As a constraint such as NonNeg does. Uniform masks then kept all of the tensor again."""
    shared = task(MaskPolicy.SHARED)
    pruning = msgspec.structs.replace(shared.pruning, allocation=allocation)
    shared = msgspec.structs.replace(shared, pruning=pruning)
    drawn, everywhere = weights(MaskPolicy.SHARED), full_mask(shared.table)
    before = new_model(drawn, shared, "run", 3, Values.FP32, everywhere).checkpoint
    aggregate = Aggregate(shared.table, before.weights, before.mask)
    for examples in (7, 9, 13):
        delta = {"a/kernel": -before.weights["a/kernel"], "a/bias": np.zeros(20, np.float32)}
        statistics = {name: before.weights[name] for name in ("b/moving_mean", "b/moving_variance")}
        update = update_of(delta, statistics, before.mask)
        blob = encoded(update, shared.table, "mask | fp32", mask_is_known=True)
        aggregate.add(decode_update(blob, shared.table, before.mask, parse_codec("mask | fp32"), KEY), examples)
    merged = aggregate.result(before.exact)
    assert not merged.weights["a/kernel"].any()

    after = new_model(merged.weights, shared, "run", 4, Values.FP32, merged.mask).checkpoint

    assert mask_sparsity(before.mask) == pytest.approx(0.8, abs=1e-3)
    np.testing.assert_array_equal(after.mask["a/kernel"], before.mask["a/kernel"])


def test_with_own_masks_what_no_agent_keeps_stays_pruned() -> None:
    own = task(MaskPolicy.OWN)
    base = new_model(weights(MaskPolicy.OWN), own, "run", 0, Values.FP32, full_mask(own.table)).checkpoint
    aggregate = Aggregate(own.table, base.weights, None)
    kept = np.arange(800).reshape(40, 20) % 5 == 0
    delta = {"a/kernel": np.where(kept, -base.weights["a/kernel"], np.float32(0.0)), "a/bias": np.zeros(20, np.float32)}
    statistics = {name: base.weights[name] for name in ("b/moving_mean", "b/moving_variance")}
    aggregate.add(update_of(delta, statistics, {"a/kernel": kept}), 7)

    merged = aggregate.result(base.exact)

    after = new_model(merged.weights, own, "run", 3, Values.FP32, merged.mask).checkpoint
    np.testing.assert_array_equal(after.mask["a/kernel"], kept)
