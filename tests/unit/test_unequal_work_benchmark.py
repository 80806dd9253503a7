"""Epochs, FedNova and local layers on LiteRT: what the benchmark of unequal work puts together, with a few examples."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from aggregator.local_work import check_local_steps
from aggregator.server_optimizers import FedAdam
from aggregator.settings import Aggregation
from benchmarks.unequal_work.simulation import Federation
from benchmarks.unequal_work.task import INPUTS, make_bundle
from edge_agent.trainers import Work
from edge_agent.trainers.litert import LiteRTTrainer
from fedprune.data import Dataset
from fedprune.model.randomness import Keyed
from fedprune.pruning.masks import full_mask
from tests import samples

EXAMPLES = {"pi-1": 5, "pi-2": 40, "pi-3": 100}


def images(agent: str) -> Dataset:
    """Images whose class is the brightest of ten bands."""
    keyed, count = Keyed(1, agent), EXAMPLES[agent]
    labels = (keyed.integers(count) % np.uint64(10)).astype(np.int64)
    x = keyed.uniform(count * INPUTS, 0.0, 0.5).reshape(count, INPUTS)
    for row, label in enumerate(labels.tolist()):
        x[row, label * 78 : label * 78 + 78] += np.float32(0.5)
    return Dataset(x, labels)


@pytest.mark.parametrize(("agent", "steps"), [("pi-1", 2), ("pi-2", 3), ("pi-3", 7)])
def test_a_device_makes_the_steps_of_its_epochs_in_batches_that_it_fills(agent: str, steps: int) -> None:
    bundle = make_bundle(epochs=2, seed=1, is_normalized=False, local=())
    work = Work(bundle.initial_weights(), full_mask(bundle.task.table), 0, None, Keyed(1))

    trained = LiteRTTrainer(bundle, examples=EXAMPLES[agent], threads=1).train(work, images(agent))

    assert trained.steps == steps
    submit = samples.submit(examples=EXAMPLES[agent])
    check_local_steps(msgspec.structs.replace(submit, local_steps=trained.steps), bundle)


@pytest.mark.parametrize(
    "aggregation",
    [Aggregation("fednova"), Aggregation(optimizer=FedAdam(learning_rate=0.02))],
    ids=["fednova", "fedadam"],
)
def test_unequal_devices_with_layers_of_their_own_learn_together(aggregation: Aggregation) -> None:
    shares = {agent: images(agent) for agent in EXAMPLES}
    bundle = make_bundle(epochs=2, seed=1, is_normalized=True, local=["batch_normalization", "head"])

    outcome = Federation(bundle, shares, aggregation, 1, None).run(12)

    assert outcome.unkept == 0
    assert outcome.worst is not None
    assert outcome.accuracy > 0.5
