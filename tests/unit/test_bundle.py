"""The task bundle: equal tasks are equal bytes, and no file, however made, gets past the checks."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprune.data.description import Data, Recordings, Text, Vocabulary
from fedprune.errors import StorageError, TaskError
from fedprune.model.losses import Loss, Objective
from fedprune.model.tensors import TensorClass, TensorSpec, weights_digest
from fedprune.network.description import Call, Network, Penalty, pack_network
from fedprune.network.layers import BatchNormalization, Dense
from fedprune.pruning.masks import Allocation
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.runtime.proven_head import ProvenHead
from fedprune.runtime.self_check import MAX_BATCH, MAX_BYTES, Probe, ProvenGraph, SelfCheck, Sketch
from fedprune.task.bundle import (
    MAX_BUNDLE_BYTES,
    Bundle,
    Fill,
    Pruning,
    SeededWeights,
    Task,
    Uniform,
    load_bundle,
    read_bundle,
    write_bundle,
)
from fedprune.task.outputs import Output
from fedprune.task.training import Training

NETWORK = Network(
    name="digits",
    inputs=((2,),),
    layers=(
        Dense(name="z", units=3, kernel="z/kernel", bias="a/bias"),
        BatchNormalization(
            name="norm",
            epsilon=1e-3,
            momentum=0.9,
            unbiased=False,
            gamma=None,
            beta=None,
            mean="norm/moving_mean",
            variance="norm/moving_variance",
        ),
        Dense(name="base", units=3, kernel="base/kernel"),
    ),
    calls=(Call(0, (0,)), Call(1, (1,)), Call(2, (2,))),
    outputs=(3,),
)
WEIGHTS: dict[str, Any] = {
    "z/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a/bias": np.zeros(3, np.float32),
    "norm/moving_mean": np.zeros(3, np.float32),
    "norm/moving_variance": np.ones(3, np.float32),
    "base/kernel": np.full((3, 3), 0.5, np.float32),
}
SELF_CHECK = SelfCheck((Probe(3, 2, 8.0, {"loss": Sketch(1e-5, (0.5, -0.5, 0.5))}),))
GRAPHS = (ProvenGraph(8, "0" * 64, 1000, SELF_CHECK), ProvenGraph(16, "f" * 64, 2000, SELF_CHECK))
KINDS = (
    TensorClass.PRUNABLE,
    TensorClass.DENSE,
    TensorClass.STATISTICS,
    TensorClass.STATISTICS,
    TensorClass.FROZEN,
)
HEAD = ProvenHead(GRAPHS[:1], Sketch(0.5, (1.0, -2.0, 3.0)))


def make_task(*, seeded: bool = False) -> Task:
    return Task(
        name="digits",
        input_shapes=((2,),),
        outputs=(Output((3,), from_logits=True),),
        tensors=tuple(
            TensorSpec(name, array.shape, array.dtype.name, kind, name.split("/")[0])
            for (name, array), kind in zip(WEIGHTS.items(), KINDS, strict=True)
        ),
        training=Training(steps_per_round=5),
        pruning=Pruning(ConstantSparsity(target_sparsity=0.5, begin_step=0, frequency=1)),
        members={},
        initial=SeededWeights(7, (Uniform(0.5), *(Fill(float(value)) for value in (0, 0, 1, 0.5)))) if seeded else None,
    )


def output_of(shape: tuple[int, ...], **changes: Any) -> dict[str, Any]:
    """A task's member with an output of this shape."""
    return {"outputs": [{"shape": shape, "from_logits": True, **changes}]}


def make_blob(*, seeded: bool = False) -> bytes:
    """A bundle with all optional members, or with none."""
    return write_bundle(
        make_task(seeded=seeded),
        network=NETWORK,
        weights=None if seeded else WEIGHTS,
        graphs=() if seeded else GRAPHS,
        head=None if seeded else HEAD,
    )


def members_of(blob: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(blob)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def with_task(change: Callable[[dict[str, Any]], object], *, seeded: bool = True) -> bytes:
    """A bundle whose task.json was changed, and is otherwise right."""
    members = members_of(make_blob(seeded=seeded))
    task = msgspec.json.decode(members["task.json"])
    change(task)
    return archive_of(members | {"task.json": msgspec.json.encode(task)})


# What comes back


@pytest.mark.parametrize("seeded", [False, True], ids=["snapshot", "seed"])
def test_what_was_written_is_read(seeded: bool) -> None:
    bundle = read_bundle(make_blob(seeded=seeded))

    assert bundle.network == NETWORK
    assert bundle.graphs == (() if seeded else GRAPHS)
    assert bundle.head == (None if seeded else HEAD)
    assert msgspec.structs.replace(bundle.task, members={}) == make_task(seeded=seeded)
    initial = bundle.initial_weights()
    assert list(initial) == list(WEIGHTS), "in the order of the tensor table"
    for name, array in initial.items():
        assert (array.shape, array.dtype) == (WEIGHTS[name].shape, WEIGHTS[name].dtype)
        if not seeded:
            np.testing.assert_array_equal(array, WEIGHTS[name])


@pytest.mark.parametrize("seeded", [False, True], ids=["snapshot", "seed"])
def test_equal_tasks_are_equal_bytes(seeded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_blob(seeded=seeded)
    monkeypatch.setattr("time.time", lambda: 1e9)

    assert make_blob(seeded=seeded) == first
    assert read_bundle(first).blob == first


def test_a_seed_gives_the_same_weights_everywhere() -> None:
    digest = weights_digest(read_bundle(make_blob(seeded=True)).initial_weights())

    assert digest == "735862009aad8fe2de8010f599496d8f82fc75666c33ceb3a66b797b20e3f264"


def test_its_members_are_the_descriptions_and_what_else_the_task_has() -> None:
    least = {"task.json", "network.json"}
    assert set(members_of(make_blob(seeded=True))) == least
    assert set(members_of(make_blob())) == least | {"graphs.json", "head.json", "weights.safetensors"}


@pytest.mark.parametrize("loss", [Loss.BINARY_CROSSENTROPY, Loss.MEAN_SQUARED_ERROR])
def test_one_output_is_enough_where_there_are_no_classes(loss: Loss) -> None:
    task = msgspec.structs.replace(
        make_task(seeded=True), outputs=(Output((1,), True),), training=Training(5, loss=loss)
    )
    first = Dense(name="z", units=1, kernel="z/kernel")
    network = Network("numbers", ((2,),), (first,), (Call(0, (0,)),), (1,))
    task = msgspec.structs.replace(
        task,
        tensors=(TensorSpec("z/kernel", (2, 1), "float32", TensorClass.PRUNABLE, "z"),),
        initial=SeededWeights(7, (Uniform(0.5),)),
    )

    blob = write_bundle(task, network=network, weights=None)

    assert read_bundle(blob).task.objectives == (Objective(loss, from_logits=True),)


def test_descriptions_travel_deflated() -> None:
    blob = make_blob(seeded=True)

    assert len(blob) < 0.8 * sum(map(len, members_of(blob).values()))


def test_a_bundle_with_a_damaged_byte_is_refused() -> None:
    blob = make_blob(seeded=True)
    for place in range(40, blob.index(b"PK", 40), 7):
        damaged = bytearray(blob)
        damaged[place] ^= 0xFF
        with pytest.raises(TaskError):
            read_bundle(bytes(damaged))


# What is refused


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


# Files that are no bundles


def _bomb() -> bytes:
    return archive_of({"task.json": b" " * 10_000_000}, zipfile.ZIP_DEFLATED)


def _lying(field: str, value: int) -> bytes:
    """A bundle whose central directory says something else of its first member."""
    blob = bytearray(make_blob())
    entry = blob.index(b"PK\x01\x02")
    offset, form = {"size": (24, "<I"), "offset": (42, "<I"), "flags": (8, "<H")}[field]
    struct.pack_into(form, blob, entry + offset, value)
    return bytes(blob)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"noise",
        b"PK\x05\x06" + b"\0" * 18,
        _bomb(),
        archive_of({f"member-{number}": b"" for number in range(17)}),
        archive_of({"task.json": b""}),
        archive_of({"task.json": b"{"}),
        archive_of({"task.json": b"[" * 100_000}),
        archive_of({"task.json": b"\xff"}),
        archive_of({"../task.json": b"{}"}),
        _lying("size", 2**31),
        _lying("offset", 10**6),
        _lying("offset", len(make_blob()) - 20),
        _lying("flags", 1),
    ],
)
def test_what_is_no_bundle_is_refused(blob: bytes) -> None:
    with pytest.raises(TaskError, match="task bundle: "):
        read_bundle(blob)


BLOBS = [make_blob(seeded=False), make_blob(seeded=True)]


@settings(max_examples=500)
@given(st.sampled_from(BLOBS), st.data())
def test_a_damaged_bundle_is_refused_or_means_the_same(blob: bytes, data: st.DataObject) -> None:
    near_the_end = st.integers(max(0, len(blob) - 400), len(blob))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(blob)) | near_the_end)
        overwritten = data.draw(st.integers(0, 30))
        blob = blob[:at] + data.draw(st.binary(max_size=30)) + blob[at + overwritten :]
    with suppress(TaskError):
        bundle: Bundle = read_bundle(blob)
        bundle.initial_weights()


def test_files_are_read_and_named(tmp_path: Path) -> None:
    (tmp_path / "right.fedtask").write_bytes(make_blob())
    (tmp_path / "wrong.fedtask").write_bytes(b"noise")
    with (tmp_path / "huge.fedtask").open("wb") as huge:
        huge.truncate(MAX_BUNDLE_BYTES + 1)

    assert load_bundle(tmp_path / "right.fedtask").blob == make_blob()
    with pytest.raises(TaskError, match=r"wrong\.fedtask"):
        load_bundle(tmp_path / "wrong.fedtask")
    with pytest.raises(TaskError, match=r"huge\.fedtask: larger than"):
        load_bundle(tmp_path / "huge.fedtask")
    with pytest.raises(StorageError, match=r"missing\.fedtask: there is no such file"):
        load_bundle(tmp_path / "missing.fedtask")


@pytest.mark.parametrize(
    "data",
    [
        Recordings(labels=("no", "yes")),
        Text(text="review", label="mood", length=9, tokenizer=Vocabulary(words=("good", "bad"))),
    ],
)
def test_a_bundle_carries_the_description_of_the_data(data: Data) -> None:
    task = msgspec.structs.replace(make_task(), data=data)
    assert read_bundle(write_bundle(task, network=NETWORK, weights=WEIGHTS)).task.data == data


def test_a_bundle_whose_vocabulary_is_a_file_is_refused_since_no_device_has_it() -> None:
    data = Text(text="review", label="mood", length=9, tokenizer=Vocabulary(file="/etc/hostname"))
    task = msgspec.structs.replace(make_task(), data=data)
    with pytest.raises(TaskError, match="its vocabulary has no words"):
        read_bundle(write_bundle(task, network=NETWORK, weights=WEIGHTS))
