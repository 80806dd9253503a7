"""Bundles whose members were tampered with, do not fit each other, or make no sense are refused in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from fedprune.errors import TaskError
from fedprune.network.description import Penalty, pack_network
from fedprune.pruning.masks import Allocation
from fedprune.pruning.policy import MaskPolicy
from fedprune.runtime.self_check import MAX_BATCH, MAX_BYTES
from fedprune.task.bundle import (
    Pruning,
    read_bundle,
    write_bundle,
)
from tests.bundles import (
    GRAPHS,
    HEAD,
    NETWORK,
    WEIGHTS,
    archive_of,
    make_blob,
    make_task,
    members_of,
    output_of,
    with_task,
)


@pytest.mark.parametrize("name", ["network.json", "graphs.json", "weights.safetensors"])
def test_a_member_that_was_tampered_with_or_lost_is_named(name: str) -> None:
    members = members_of(make_blob())
    for changed in (members | {name: members[name] + b" "}, {key: members[key] for key in members if key != name}):
        with pytest.raises(TaskError, match=f"member {name} is missing or damaged"):
            read_bundle(archive_of(changed))


def test_a_bundle_without_a_network_is_refused() -> None:
    with pytest.raises(TaskError, match=r"it must list network\.json"):
        read_bundle(with_task(lambda task: task["members"].pop("network.json")))


def test_a_member_without_a_digest_is_not_taken() -> None:
    bundle = read_bundle(with_task(lambda task: task["members"].pop("graphs.json"), seeded=False))
    assert bundle.graphs == ()


def with_member(name: str, text: bytes) -> bytes:
    """A bundle with these bytes as a member, and their digest."""
    members = members_of(make_blob()) | {name: text}
    task = msgspec.json.decode(members["task.json"])
    task["members"][name] = hashlib.sha256(text).hexdigest()
    return archive_of(members | {"task.json": msgspec.json.encode(task)})


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": ((3,),)},
        {"outputs": (2,), "calls": NETWORK.calls[:2]},
        {"layers": (*NETWORK.layers[:2], msgspec.structs.replace(NETWORK.layers[2], units=4))},
        {"version": 2},
        {"penalties": (Penalty("seen"),)},
    ],
    ids=lambda change: ", ".join(change),
)
def test_a_network_that_does_not_fit_the_task_is_refused(change: dict[str, Any]) -> None:
    network = msgspec.structs.replace(NETWORK, **change)
    with pytest.raises(TaskError, match=r"\Anetwork('digits'|\.json)? ?"):
        read_bundle(with_member("network.json", pack_network(network)))


@pytest.mark.parametrize("change", [{"input_shapes": [(1, 2)]}, output_of((4,)), output_of((2, 3))], ids=str)
def test_a_network_of_another_form_than_the_tasks_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match=r"network\.json has another form than the task; build it again"):
        read_bundle(with_task(lambda task: task.update(change)))


def proven(**changes: Any) -> dict[str, Any]:
    return {"batch_size": 8, "sha256": "0" * 64, "memory_bytes": 1000, "self_check": {"probes": [probe()]}} | changes


def probe(**changes: Any) -> dict[str, Any]:
    return {"seed": 3, "examples": 2, "scale": 8.0, "answers": {"loss": [1e-5, [0.5, -0.5, 0.5]]}} | changes


def head(**changes: Any) -> dict[str, Any]:
    return {"graphs": [proven()], "activations": [0.5, [1.0, -2.0, 3.0]]} | changes


def test_this_is_a_proven_head() -> None:
    assert read_bundle(with_member("head.json", msgspec.json.encode(head()))).head == HEAD


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"\xff",
        b" " * MAX_BYTES + msgspec.json.encode(head()),
        *(
            msgspec.json.encode(changed)
            for changed in (
                head(graphs=[]),
                head(graphs=[proven(), proven(sha256="f" * 64)]),
                head(activations=[0.0, [1.0, 2.0, 3.0]]),
                head(activations=[0.5, [1.0, 2.0]]),
                head(colour="red"),
            )
        ),
    ],
)
def test_what_is_no_proven_head_is_refused_in_one_line(text: bytes) -> None:
    with pytest.raises(TaskError, match=r"build the task again") as caught:
        read_bundle(with_member("head.json", text))
    assert "\n" not in str(caught.value)


def test_these_are_proven_graphs() -> None:
    text = msgspec.json.encode([proven(), proven(batch_size=16, sha256="f" * 64, memory_bytes=2000)])
    assert read_bundle(with_member("graphs.json", text)).graphs == GRAPHS


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b"\xff",
        msgspec.json.encode([proven()]).replace(b"0.00001", b"1e999"),
        b" " * MAX_BYTES + msgspec.json.encode([proven()]),
        *(
            msgspec.json.encode(graphs)
            for graphs in (
                [proven(batch_size=size) for size in range(1, 18)],
                [proven(), proven(sha256="f" * 64)],
                [proven(batch_size=0)],
                [proven(batch_size=MAX_BATCH + 1)],
                [proven(sha256="0" * 63)],
                [proven(sha256="0" * 64 + "\n")],
                [proven(sha256="F" * 64)],
                [proven(memory_bytes=-1)],
                [proven(memory_bytes=2**63)],
                [proven(colour="red")],
                [proven(self_check={"probes": []})],
            )
        ),
        *(
            msgspec.json.encode([proven(self_check={"probes": probes})])
            for probes in (
                [probe()] * 9,
                [probe(seed=-1)],
                [probe(seed=2**64)],
                [probe(examples=0)],
                [probe(examples=2**31)],
                [probe(scale=0.0)],
                [probe(scale=1e9)],
                [probe(weights="mine")],
                [probe(answers={"loss": [0.0, [0.0, 0.0, 0.0]]})],
                [probe(answers={"loss": [-1.0, [0.0, 0.0, 0.0]]})],
                [probe(answers={"loss": [None, [0.0, 0.0, 0.0]]})],
                [probe(answers={"loss": [1.0, [0.0, 0.0]]})],
                [probe(answers={"loss": [1.0, [0.0, 0.0, 0.0, 0.0]]})],
                [probe(answers={"loss": [1.0, [0.0, 0.0, 1e300]]})],
                [probe(answers={"loss": [1.0, [0.0, 0.0, 0.0], 0.0]})],
            )
        ),
    ],
)
def test_graphs_that_make_no_sense_are_refused(text: bytes) -> None:
    with pytest.raises(TaskError, match=r"the digests of the training graphs: .*; build the task again"):
        read_bundle(with_member("graphs.json", text))


def test_initial_weights_and_their_seed_exclude_each_other() -> None:
    seed = msgspec.to_builtins(make_task(seeded=True).initial)
    for blob in (
        with_task(lambda task: task.update(initial=None), seeded=True),
        with_task(lambda task: task.update(initial=seed), seeded=False),
    ):
        with pytest.raises(TaskError, match="either initial weights or their seed"):
            read_bundle(blob)


def _grow(task: dict[str, Any], shape: list[int]) -> None:
    task["tensors"][0]["shape"] = shape


@pytest.mark.parametrize(
    "change",
    [
        lambda task: task.update(format_version=1),
        lambda task: task.update(colour="red"),
        lambda task: task.update(output_of((1,))),
        lambda task: task.update(output_of(())),
        lambda task: task.update(output_of((0, 3))),
        lambda task: task.update(output_of((3,), name="named")),
        lambda task: task.update(output_of((3,), metrics=["mean_absolute_error"])),
        lambda task: task.update(output_of((3,), metrics=["auc"] * 9)),
        lambda task: task.update(outputs=[]),
        lambda task: task.update(input_shapes=[[0]]),
        lambda task: task.update(input_shapes=[[-1]]),
        lambda task: task.update(input_shapes=[[2**40]]),
        lambda task: task.update(name=None),
        lambda task: task["training"].update(steps_per_round=0),
        lambda task: task["training"].update(batch_size=-1),
        lambda task: task["training"].update(optimizer={"name": "lamb"}),
        lambda task: task["training"].update(loss="hinge"),
        lambda task: task["training"].update(proximal_mu=-0.1),
        lambda task: task["pruning"].update(mask="own"),
        lambda task: task["pruning"]["schedule"].update(target_sparsity=1.0),
        lambda task: task["pruning"]["schedule"].update(frequency=0),
        lambda task: _grow(task, [2**62, 2**62]),
        lambda task: _grow(task, [2**40]),
        lambda task: _grow(task, [-2, 3]),
        lambda task: _grow(task, [0]),
        lambda task: task["tensors"][0].update(dtype="object"),
        lambda task: task["tensors"][0].update(dtype="float64"),
        lambda task: task["tensors"][0].update(dtype="int32"),
        lambda task: task["tensors"][4].update(kind="integer"),
        lambda task: task["tensors"][0].update(name="a/bias"),
        lambda task: task["tensors"][3].update(layer="another"),
        lambda task: task["tensors"][1].update(kind="statistics", layer="norm"),
        lambda task: task["initial"]["initializers"].pop(),
        lambda task: task["initial"]["initializers"][0].update(limit="wide"),
        lambda task: task["initial"]["initializers"][0].update(limit=1e300),
        lambda task: task["initial"]["initializers"][1].update(value=-1e300),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(TaskError, match="task bundle: "):
        read_bundle(with_task(change))


def test_integers_are_in_no_network() -> None:
    with pytest.raises(TaskError, match=r"tensor 'base/kernel' cannot be integer"):
        read_bundle(with_task(lambda task: task["tensors"][4].update(kind="integer", dtype="int32")))


@pytest.mark.parametrize(
    "weights",
    [
        {name: array for name, array in WEIGHTS.items() if name != "base/kernel"},
        WEIGHTS | {"a/bias": np.zeros(4, np.float32)},
        WEIGHTS | {"a/bias": np.zeros(3, np.float64)},
        WEIGHTS | {"a/bias": np.full(3, np.nan, np.float32)},
    ],
    ids=["lost", "shape", "dtype", "NaN"],
)
def test_a_snapshot_that_does_not_fit_the_table_is_refused(weights: dict[str, Any]) -> None:
    blob = write_bundle(make_task(), network=NETWORK, weights=weights)

    with pytest.raises(TaskError, match=r"task 'digits': initial weights: .*; build the task again"):
        read_bundle(blob).initial_weights()


def test_the_own_mask_needs_uniform_allocation() -> None:
    for allocation in (Allocation.LAMP, Allocation.GLOBAL):
        with pytest.raises(ValueError, match="needs allocation"):
            Pruning(make_task().pruning.schedule, MaskPolicy.OWN, allocation)
