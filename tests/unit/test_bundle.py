"""The task bundle: equal tasks are equal bytes, and no file, however made, gets past the checks."""

from __future__ import annotations

import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprune.data.description import Data, Recordings, Text, Vocabulary
from fedprune.errors import StorageError, TaskError
from fedprune.model.losses import Loss, Objective
from fedprune.model.tensors import TensorClass, TensorSpec, weights_digest
from fedprune.network.description import Call, Network
from fedprune.network.layers import Dense
from fedprune.task.bundle import (
    MAX_BUNDLE_BYTES,
    Bundle,
    SeededWeights,
    Uniform,
    load_bundle,
    read_bundle,
    write_bundle,
)
from fedprune.task.outputs import Output
from fedprune.task.training import Training
from tests.bundles import (
    GRAPHS,
    HEAD,
    NETWORK,
    WEIGHTS,
    archive_of,
    make_blob,
    make_task,
    members_of,
)

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
