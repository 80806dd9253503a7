"""A small task, and what stands in for its training and its evaluation: nothing is really learned."""

from __future__ import annotations

import numpy as np

from edge_agent.trainers import Trained, Work
from fedprune.data import Dataset
from fedprune.model.metrics import Metric
from fedprune.model.tensors import TensorClass, TensorSpec, Weights
from fedprune.network import description
from fedprune.network.description import Call
from fedprune.network.layers import BatchNormalization, Dense
from fedprune.pruning.masks import Allocation, apply_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.regrowth import Regrowth, votes_for
from fedprune.pruning.schedules import PolynomialDecay
from fedprune.task.bundle import Bundle, Fill, Pruning, SeededWeights, Task, Uniform, read_bundle, write_bundle
from fedprune.task.evaluation import Evaluation
from fedprune.task.forms import Form
from fedprune.task.outputs import Output
from fedprune.task.training import Sgd, Training

STEPS_PER_ROUND = 10
DATA = Dataset(np.zeros((7, 40), np.float32), np.zeros(7, np.int64))
_SANE = 20.0


def _network(inputs: int) -> description.Network:
    dense = Dense(name="a", units=20, kernel="a/kernel", bias="a/bias")
    normalization = BatchNormalization(
        name="b",
        epsilon=1e-3,
        momentum=0.99,
        unbiased=False,
        gamma=None,
        beta=None,
        mean="b/moving_mean",
        variance="b/moving_variance",
    )
    return description.Network(
        name="simulated",
        inputs=((inputs,),),
        layers=(dense, normalization),
        calls=(Call(0, (0,)), Call(1, (1,))),
        outputs=(2,),
    )


def make_bundle(policy: MaskPolicy, inputs: int = 40, regrowth: Regrowth | None = None) -> Bundle:
    """A small task with every class of tensor that devices send; nothing is really trained here."""
    tensors = (
        TensorSpec("a/kernel", (inputs, 20), "float32", TensorClass.PRUNABLE, "a"),
        TensorSpec("a/bias", (20,), "float32", TensorClass.DENSE, "a"),
        TensorSpec("b/moving_mean", (20,), "float32", TensorClass.STATISTICS, "b"),
        TensorSpec("b/moving_variance", (20,), "float32", TensorClass.STATISTICS, "b"),
    )
    allocation = Allocation.LAMP if policy is MaskPolicy.SHARED else Allocation.UNIFORM
    schedule = PolynomialDecay(
        initial_sparsity=0.0, target_sparsity=0.8, begin_step=5, end_step=3 * STEPS_PER_ROUND, frequency=5
    )
    task = Task(
        name="simulated",
        input_shapes=((inputs,),),
        outputs=(Output((20,), from_logits=True, metrics=(Metric.ACCURACY,)),),
        tensors=tensors,
        training=Training(steps_per_round=STEPS_PER_ROUND, optimizer=Sgd()),
        pruning=Pruning(schedule=schedule, mask=policy, allocation=allocation, regrowth=regrowth),
        members={},
        initial=SeededWeights(1, (Uniform(0.5), Fill(0.0), Fill(0.0), Fill(1.0))),
    )
    return read_bundle(write_bundle(task, network=_network(inputs), weights=None))


class NoisyTrainer:
    """Moves every weight by keyed noise, within the mask: enough to tell apart whose update was merged.

    With its own mask an agent also prunes some weights more, others than other agents do.
    """

    def __init__(self, policy: MaskPolicy) -> None:
        self._policy = policy

    def train(self, work: Work, data: Dataset) -> Trained:
        assert len(data)
        mask = dict(work.mask)
        if self._policy is MaskPolicy.OWN:
            for name, kept in work.mask.items():
                mask[name] = kept & (work.keyed.uniform(kept.size, 0.0, 1.0).reshape(kept.shape) > 0.1)
        moved = {
            name: array + work.keyed.uniform(array.size, 0.001, 0.1).reshape(array.shape)
            for name, array in work.weights.items()
        }
        votes = votes_for(moved, mask, work.most_votes)
        return Trained(apply_mask(moved, mask), mask, {}, loss=1.0, seconds=1.0, steps=STEPS_PER_ROUND, votes=votes)


def evaluate(weights: Weights, form: Form) -> Evaluation:  # noqa: ARG001
    """A stand-in whose loss explodes with the weights."""
    largest = max(float(np.abs(array).max()) for array in weights.values())
    return Evaluation(1, 1.0 if largest < _SANE else largest, {"accuracy": 0.5})
