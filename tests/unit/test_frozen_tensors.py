"""Frozen tensors travel once, in the task bundle, and cost a device no gradients."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from aggregator.global_model import GlobalModel, new_model, restored_model
from edge_agent.local_round import LocalResult, LocalRound
from edge_agent.local_training import train_locally
from edge_agent.trainers import Trained, Work
from fedprune.codecs import Values
from fedprune.data import Dataset
from fedprune.errors import ProtocolError, TaskError
from fedprune.graph.training import write_training_graph
from fedprune.model.losses import Loss, Objective
from fedprune.model.tensors import Array, TensorClass
from fedprune.network.description import Network
from fedprune.network.layers import (
    Activation,
    AnyLayer,
    BatchNormalization,
    Convolution,
    Dense,
    DepthwiseConvolution,
    Function,
    GlobalPooling,
    Pooling,
    Statistic,
)
from fedprune.pruning.masks import full_mask
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.task.bundle import Bundle, Pruning, Task, read_bundle, write_bundle
from fedprune.task.outputs import Output
from fedprune.task.training import Training
from tests.described import chain_of, table_of, weights_of
from tests.samples import assignment, changed

CLASSES = 3
BASE: tuple[AnyLayer, ...] = (
    Convolution(name="edges", size=(3, 3), strides=(1, 1), filters=8, kernel="edges/kernel", bias="edges/bias"),
    BatchNormalization(
        name="scale",
        epsilon=0.001,
        momentum=0.9,
        unbiased=True,
        gamma="scale/gamma",
        beta="scale/beta",
        mean="scale/mean",
        variance="scale/variance",
    ),
    Activation(name="relu", function=Function.RELU6),
    DepthwiseConvolution(name="each", size=(3, 3), strides=(1, 1), multiplier=1, kernel="each/kernel"),
    Activation(name="sigmoid", function=Function.SIGMOID),
    Pooling(name="pool", size=(2, 2), strides=(2, 2), statistic=Statistic.MAX),
)
BASE_TENSORS = frozenset(
    ("edges/kernel", "edges/bias", "scale/gamma", "scale/beta", "scale/mean", "scale/variance", "each/kernel")
)
HEAD: tuple[AnyLayer, ...] = (
    GlobalPooling(name="mean", statistic=Statistic.MEAN),
    Dense(name="hidden", units=5, kernel="hidden/kernel", bias="hidden/bias"),
    Activation(name="hidden relu", function=Function.RELU),
    Dense(name="head", units=CLASSES, kernel="head/kernel", bias="head/bias"),
)
HEAD_TENSORS = frozenset(("hidden/kernel", "hidden/bias", "head/kernel", "head/bias"))
NETWORK_INPUT, HEAD_INPUT = (10, 10, 2), (3, 3, 8)


NETWORK = chain_of(NETWORK_INPUT, *BASE, *HEAD)


def bundle_of(frozen: Collection[str], weights: Mapping[str, Array] | None = None) -> Bundle:
    table = table_of(NETWORK, frozen)
    task = Task(
        name="transfer",
        input_shapes=(NETWORK_INPUT,),
        outputs=(Output((CLASSES,), from_logits=True),),
        tensors=tuple(table),
        training=Training(steps_per_round=4),
        pruning=Pruning(ConstantSparsity(target_sparsity=0.5, begin_step=1, frequency=1)),
        members={},
    )
    return read_bundle(write_bundle(task, network=NETWORK, weights=dict(weights or weights_of(table))))


class Mover:
    """Moves every weight by 0.25, frozen ones too, and keeps the work that it was given."""

    def __init__(self) -> None:
        self.works: list[Work] = []

    def train(self, work: Work, _: Dataset) -> Trained:
        self.works.append(work)
        moved = {name: array + np.float32(0.25) for name, array in work.weights.items()}
        return Trained(moved, work.mask, {}, loss=1.0, seconds=1.0, steps=4)


def first_model(bundle: Bundle, values: Values) -> GlobalModel:
    table = bundle.task.table
    return new_model(bundle.initial_weights(), bundle.task, "run", 0, values, full_mask(table))


def do_round(bundle: Bundle, made: GlobalModel, trainer: Mover) -> LocalResult:
    asked = changed(assignment(0), weights_digest=made.model.weights_digest, codec="mask | fp32")
    data = Dataset(np.zeros((7, *NETWORK_INPUT), np.float32), np.zeros(7, np.int64))
    return train_locally(LocalRound("pi-1", asked, made.blob, lambda: None, None, 40.0), bundle, trainer, data)


@pytest.mark.parametrize("values", Values)
def test_a_device_trains_from_the_whole_model_though_its_base_came_with_the_bundle_alone(values: Values) -> None:
    bundle, trainer = bundle_of(BASE_TENSORS), Mover()
    made = first_model(bundle, values)

    do_round(bundle, made, trainer)

    (work,) = trainer.works
    assert list(work.weights) == [spec.name for spec in bundle.task.table]
    for name, array in made.checkpoint.weights.items():
        np.testing.assert_array_equal(work.weights[name], array)
    for name in BASE_TENSORS:
        np.testing.assert_array_equal(work.weights[name], bundle.initial_weights()[name])


def test_neither_models_nor_updates_hold_a_byte_of_a_frozen_base() -> None:
    def sent_of(bundle: Bundle) -> tuple[int, int]:
        made = first_model(bundle, Values.FP32)
        return len(made.blob), len(do_round(bundle, made, Mover()).update.blob)

    base = sum(spec.size for spec in table_of(NETWORK, BASE_TENSORS).of(TensorClass.FROZEN))
    (model, update), (trained_model, trained_update) = sent_of(bundle_of(BASE_TENSORS)), sent_of(bundle_of(()))

    kernels = 2  # a byte in front of each of the base's, since everything is kept at first
    assert trained_model - model == 4 * base + kernels
    assert trained_update - update == 4 * base


@pytest.mark.parametrize("frozen", [BASE_TENSORS, ()], ids=["with a frozen base", "all trained"])
def test_pretrained_weights_of_trained_layers_come_with_the_model_alone(frozen: Collection[str]) -> None:
    bundle = bundle_of(frozen)
    given = read_bundle(bundle.for_devices())
    made, trainer = first_model(bundle, Values.FP32), Mover()

    do_round(given, made, trainer)

    trained = sum(spec.size for spec in bundle.task.table if spec.name not in frozen)
    assert 4 * trained <= len(bundle.blob) - len(given.blob) <= 4 * trained + 100 * len(bundle.task.table)
    assert given.for_devices() == given.blob
    assert (given.network, given.graphs, given.task.table.parameters) == (
        bundle.network,
        bundle.graphs,
        bundle.task.table.parameters,
    )
    for name, array in bundle.initial_weights().items():
        np.testing.assert_array_equal(trainer.works[0].weights[name], array)


def test_a_gateway_cannot_start_from_a_bundle_for_devices() -> None:
    with pytest.raises(TaskError, match=r"initial weights: tensors .* do not match the task's .*; build"):
        read_bundle(bundle_of(BASE_TENSORS).for_devices()).initial_weights()


def test_a_device_with_another_base_is_noticed() -> None:
    bundle = bundle_of(BASE_TENSORS)
    other = {**bundle.initial_weights(), "each/kernel": np.zeros((3, 3, 8, 1), np.float32)}

    with pytest.raises(ProtocolError, match="the decoded model's digest is not the gateway's"):
        do_round(bundle_of(BASE_TENSORS, other), first_model(bundle, Values.FP32), Mover())


def test_checkpoints_hold_the_base_and_give_the_same_bytes_again() -> None:
    bundle = bundle_of(BASE_TENSORS)
    made = first_model(bundle, Values.FP16)

    restored = restored_model(made.checkpoint, bundle.task, Values.FP16)

    bundle.task.table.check(made.checkpoint.weights)
    bundle.task.table.check(made.checkpoint.exact)
    assert (restored.blob, restored.model) == (made.blob, made.model)


def test_where_nothing_is_frozen_the_bundles_weights_are_not_read_in_a_round() -> None:
    bundle = bundle_of(())
    made = first_model(bundle, Values.FP32)

    do_round(replace(bundle, _weights=b"not read"), made, Mover())


def operators_of(network: Network, frozen: Collection[str]) -> int:
    objective = Objective(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, from_logits=True)
    graph = write_training_graph(network, table_of(network, frozen), [objective], batch_size=8).blob
    return int(schema.Model.GetRootAs(graph).Subgraphs(0).OperatorsLength())


def test_the_training_graph_differentiates_nothing_below_the_lowest_trainable_layer() -> None:
    """A network that is frozen as a whole has the operators of the forward pass alone."""
    head = chain_of(HEAD_INPUT, *HEAD)
    backward_of_head = operators_of(head, ()) - operators_of(head, HEAD_TENSORS)
    forward = operators_of(NETWORK, BASE_TENSORS | HEAD_TENSORS)

    assert operators_of(NETWORK, BASE_TENSORS) == forward + backward_of_head
    assert operators_of(NETWORK, ()) > forward + 2 * backward_of_head
