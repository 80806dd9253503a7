"""The global model: what agents decode is what is pruned, checkpointed and restored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aggregator.global_model import GlobalModel, new_model, restored_model
from fedprune.codecs import Values, decode_model
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorClass, Weights, sparsity, weights_digest
from fedprune.system.disk import Directory
from fedprune.task.bundle import MaskPolicy, Task
from fedprune.task.checkpoints import load_checkpoint, save_checkpoint
from tests.simulation.world import STEPS_PER_ROUND, make_bundle

VERSIONS = (0, 1, 2, 5)


def task(policy: MaskPolicy) -> Task:
    return make_bundle(policy).task


def weights(policy: MaskPolicy, limit: float = 0.5) -> Weights:
    keyed = Keyed(1, "global model")
    return {spec.name: keyed.uniform(spec.size, -limit, limit).reshape(spec.shape) for spec in task(policy).table}


def model(version: int, values: Values = Values.FP16, policy: MaskPolicy = MaskPolicy.SHARED) -> GlobalModel:
    return new_model(weights(policy), task(policy), "run", version, values)


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


def test_the_gateways_own_weights_are_not_rounded() -> None:
    made = model(0).checkpoint

    for name, array in weights(MaskPolicy.SHARED).items():
        np.testing.assert_array_equal(made.exact[name], array)
    for spec in task(MaskPolicy.SHARED).table.of(TensorClass.PRUNABLE, TensorClass.DENSE):
        name, array = spec.name, made.exact[spec.name]
        np.testing.assert_array_equal(made.weights[name], array.astype(np.float16).astype(np.float32))


def test_weights_beyond_the_codecs_range_are_clipped_not_refused() -> None:
    policy = MaskPolicy.SHARED

    made = new_model(weights(policy, limit=1e6), task(policy), "run", 0, Values.FP16)

    assert all(np.isfinite(array).all() for array in made.checkpoint.weights.values())
