"""Layers that stay on the devices: neither models nor updates have them, and each device goes on with its own."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.global_model import GlobalModel, new_model
from aggregator.merging import Aggregate
from aggregator.process import run_aggregator
from aggregator.settings import FederationSettings
from edge_agent.local_round import LocalResult, LocalRound
from edge_agent.local_training import train_locally
from edge_agent.trainers import Trained, Work
from export.local_layers import with_local_layers
from fedprune.codecs import Key, Values, decode_update, parse_codec
from fedprune.data import Dataset
from fedprune.errors import ConfigurationError, TaskError
from fedprune.model.tensors import TensorClass, TensorSpec, Weights
from fedprune.pruning.masks import full_mask
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.task.bundle import Bundle, Pruning, Task, read_bundle, write_bundle
from fedprune.task.outputs import Output
from fedprune.task.training import Training
from tests.described import chain_of, normalization, table_of, weights_of
from tests.described import dense as layer_of
from tests.samples import assignment, changed

CODEC = "mask | fp32"
INPUT, CLASSES = (6,), 3
NETWORK = chain_of(
    INPUT,
    msgspec.structs.replace(layer_of(5), name="body", kernel="body/kernel", bias="body/bias"),
    normalization(beta="beta"),
    msgspec.structs.replace(layer_of(CLASSES), name="head", kernel="head/kernel", bias="head/bias"),
)
NORMALIZATION, HEAD = {"g", "beta", "m", "v"}, {"head/kernel", "head/bias"}


def rows(*names: str) -> tuple[TensorSpec, ...]:
    return with_local_layers(tuple(table_of(NETWORK)), NETWORK, names)


def bundle_of(*names: str) -> Bundle:
    table = rows(*names)
    task = Task(
        name="personal",
        input_shapes=(INPUT,),
        outputs=(Output((CLASSES,), from_logits=True),),
        tensors=table,
        training=Training(steps_per_round=4),
        pruning=Pruning(ConstantSparsity(target_sparsity=0.5, begin_step=1, frequency=1)),
        members={},
    )
    return read_bundle(write_bundle(task, network=NETWORK, weights=weights_of(table_of(NETWORK))))


class Mover:
    """Moves every weight by `far`, and keeps the work that it was given."""

    def __init__(self, far: float = 0.25) -> None:
        self._far = np.float32(far)
        self.works: list[Work] = []

    def train(self, work: Work, _: Dataset) -> Trained:
        self.works.append(work)
        moved = {name: array + self._far for name, array in work.weights.items()}
        return Trained(moved, work.mask, {}, loss=1.0, seconds=1.0, steps=4)


def first_model(bundle: Bundle) -> GlobalModel:
    return new_model(bundle.initial_weights(), bundle.task, "run", 0, Values.FP32, full_mask(bundle.task.table))


def do_round(
    bundle: Bundle, made: GlobalModel, trainer: Mover, own: Weights | None = None, agent: str = "pi-1"
) -> LocalResult:
    asked = changed(assignment(0), weights_digest=made.model.weights_digest, codec=CODEC)
    data = Dataset(np.zeros((7, *INPUT), np.float32), np.zeros(7, np.int64))
    given = read_bundle(bundle.for_devices())
    return train_locally(LocalRound(agent, asked, made.blob, lambda: None, None, 40.0, local=own), given, trainer, data)


@pytest.mark.parametrize(
    ("names", "local"),
    [
        (("head",), HEAD),
        (("batch_normalization",), NORMALIZATION),
        (("batch_normalization", "head"), NORMALIZATION | HEAD),
    ],
)
def test_layers_are_named_or_meant_by_their_kind(names: Collection[str], local: set[str]) -> None:
    table = rows(*names)

    assert {spec.name for spec in table if spec.local} == local
    assert not any(spec.kind is TensorClass.PRUNABLE for spec in table if spec.local), "masks are shared"


def test_layers_that_cannot_stay_are_refused() -> None:
    with pytest.raises(
        TaskError, match=r"model\.local: no layer 'haed' has weights; correct it .*\(known: b, body, head\)"
    ):
        rows("haed")
    with pytest.raises(TaskError, match=r"model\.local names all layers"):
        rows("body", "b", "head")
    frozen = tuple(table_of(NETWORK, HEAD))
    with pytest.raises(TaskError, match="layer 'head' is frozen"):
        with_local_layers(frozen, NETWORK, ["head"])


@pytest.mark.parametrize("names", [("head",), ("batch_normalization",)])
def test_neither_models_nor_updates_hold_a_byte_of_a_local_layer(names: tuple[str, ...]) -> None:
    def sent_of(bundle: Bundle) -> tuple[int, int]:
        made = first_model(bundle)
        return len(made.blob), len(do_round(bundle, made, Mover()).update.blob)

    plain = read_bundle(
        write_bundle(
            msgspec.structs.replace(bundle_of(*names).task, tensors=tuple(table_of(NETWORK))),
            network=NETWORK,
            weights=weights_of(table_of(NETWORK)),
        )
    )
    size = sum(spec.size for spec in bundle_of(*names).task.table.local)
    (model, update), (plain_model, plain_update) = sent_of(bundle_of(*names)), sent_of(plain)

    assert 0 <= plain_model - model - 4 * size <= 1, "a pruned kernel has a byte for its mask"
    assert plain_update - update == 4 * size


def test_a_device_goes_on_with_its_own_layers_and_everybodys_others() -> None:
    bundle, trainer = bundle_of("batch_normalization", "head"), Mover()
    made = first_model(bundle)

    first = do_round(bundle, made, trainer)
    do_round(bundle, made, trainer, first.local)

    initial = bundle.initial_weights()
    assert first.local is not None
    assert first.local.keys() == NORMALIZATION | HEAD
    for name, array in initial.items():
        own = np.float32(0.25) if name in first.local else np.float32(0)
        np.testing.assert_array_equal(trainer.works[0].weights[name], array)
        np.testing.assert_array_equal(trainer.works[1].weights[name], array + own)
    assert list(trainer.works[1].weights) == list(initial)


def test_a_merge_leaves_the_gateways_copy_of_local_layers_as_it_was() -> None:
    bundle = bundle_of("batch_normalization", "head")
    made, table = first_model(bundle), bundle.task.table
    aggregate = Aggregate(table, made.checkpoint.weights, made.checkpoint.mask)
    for agent, far in (("pi-1", 0.25), ("pi-2", 0.75)):
        blob = do_round(bundle, made, Mover(far), agent=agent).update.blob
        aggregate.add(decode_update(blob, table, made.checkpoint.mask, parse_codec(CODEC), Key(7, 0, agent)), 10)

    merged = aggregate.result(made.checkpoint.exact).weights

    assert list(merged) == [spec.name for spec in table]
    for name, array in made.checkpoint.exact.items():
        moved = np.float32(0.0 if name in NORMALIZATION | HEAD else 0.5)
        np.testing.assert_allclose(merged[name], array + moved, atol=1e-6)


def test_a_gateway_evaluates_no_model_of_which_it_has_a_part_only(tmp_path: Path) -> None:
    (tmp_path / "t.fedtask").write_bytes(bundle_of("head").blob)
    settings = FederationSettings("t.fedtask", "run", held_out="held-out.npz")

    with pytest.raises(ConfigurationError, match="held_out: layer 'head' of the task stays on the devices"):
        run_aggregator(settings, tmp_path, lambda _: None)


@pytest.mark.parametrize("kind", [TensorClass.PRUNABLE, TensorClass.FROZEN])
def test_a_bundle_whose_local_tensors_are_pruned_or_frozen_is_refused(kind: TensorClass) -> None:
    bundle = bundle_of("head")
    wrong = tuple(msgspec.structs.replace(spec, kind=kind) if spec.local else spec for spec in bundle.task.tensors)
    task = msgspec.structs.replace(bundle.task, tensors=wrong)

    with pytest.raises(TaskError, match="a local tensor is neither dense nor a statistic"):
        read_bundle(write_bundle(task, network=NETWORK, weights=bundle.initial_weights()))
