"""Checkpoints: they come back bit for bit, other tools can read them, and damage is said to be damage."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from fedprune.errors import StorageError
from fedprune.system.disk import Directory
from fedprune.task.checkpoints import Checkpoint, load_checkpoint, load_latest, save_checkpoint
from fedprune.task.run_directory import CHECKPOINTS
from tests.simulation.faults import Physics, Process, Rates, SimulatedDisk

WEIGHTS = {
    "z/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a/bias": np.array([-0.0, 1e-45, 3e38], np.float32),
    "scale": np.array(0.5, np.float32),
    "seen": np.array(2**40, np.int64),
}
MASK = {"z/kernel": np.array([[True, False, True], [False, False, True]])}


def checkpoint(version: int = 3) -> Checkpoint:
    exact = {name: array + array.dtype.type(1) for name, array in WEIGHTS.items()}  # of no dimension: numpy scalars
    return Checkpoint(run="run", version=version, weights=WEIGHTS, exact=exact, mask=MASK)  # type: ignore[arg-type]


def assert_equal(found: Checkpoint, expected: Checkpoint) -> None:
    assert (found.run, found.version) == (expected.run, expected.version)
    for ours, theirs in ((found.weights, expected.weights), (found.exact, expected.exact), (found.mask, expected.mask)):
        assert list(ours) == list(theirs), "the order of the tensor table"
        for name, array in theirs.items():
            np.testing.assert_array_equal(ours[name], np.asarray(array), strict=True)
            assert ours[name].tobytes() == array.tobytes()
            assert isinstance(ours[name], np.ndarray)


@pytest.fixture
def disk(tmp_path: Path) -> Directory:
    return Directory(tmp_path / CHECKPOINTS)


def test_a_checkpoint_comes_back_bit_for_bit(disk: Directory) -> None:
    save_checkpoint(disk, checkpoint())

    assert_equal(load_checkpoint(disk, 3), checkpoint())


def test_what_the_last_deltas_sent_comes_back(disk: Directory) -> None:
    save_checkpoint(disk, replace(checkpoint(), sent=b"FPH1 and counts"))

    assert load_checkpoint(disk, 3).sent == b"FPH1 and counts"
    assert_equal(load_checkpoint(disk, 3), checkpoint())


def test_other_tools_find_the_tensors_under_their_names(disk: Directory) -> None:
    save_checkpoint(disk, checkpoint())

    tensors = safetensors.numpy.load_file(disk.path / "000003.safetensors")

    np.testing.assert_array_equal(tensors["z/kernel"], WEIGHTS["z/kernel"])


def test_the_newest_is_found_among_other_files(disk: Directory) -> None:
    for version in (0, 9, 10, 11):
        save_checkpoint(disk, checkpoint(version))
    for foreign in ("notes.txt", "best.safetensors", "000099.safetensors.bak"):
        disk.write(foreign, b"")

    assert_equal(load_latest(disk.path.parent), checkpoint(11))


def test_where_there_is_none_what_to_do_is_said(tmp_path: Path, disk: Directory) -> None:
    with pytest.raises(StorageError, match="name the state directory of an aggregator"):
        load_latest(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="no checkpoint yet"):
        load_latest(tmp_path)
    with pytest.raises(StorageError, match=r"000007\.safetensors is missing; restore it"):
        load_checkpoint(disk, 7)


def header(**changes: str | None) -> bytes:
    """A checkpoint's bytes with other metadata."""
    metadata = {"run": "run", "version": "3", "tensors": json.dumps(["a"]), **changes}
    tensors = {"a": np.zeros(1, np.float32), "exact/a": np.zeros(1, np.float32)}
    return bytes(safetensors.numpy.save(tensors, {key: text for key, text in metadata.items() if text is not None}))


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"noise",
        b"\xff" * 8 + b"{}",
        header(tensors=None),
        header(run=None),
        header(tensors="["),
        header(tensors="3"),
        header(tensors="[3]"),
        header(tensors='["b"]'),
        header(tensors='[["a"]]'),
        header(tensors='["a", {}]'),
        bytes(safetensors.numpy.save({"a": np.zeros(1, np.float32)})),
    ],
)
def test_a_damaged_checkpoint_is_said_to_be(disk: Directory, damaged: bytes) -> None:
    disk.write("000003.safetensors", damaged)

    with pytest.raises(StorageError, match=r"checkpoint 000003\.safetensors is damaged .*; restore it"):
        load_checkpoint(disk, 3)


SIMULATED = Process("test", Physics(0, Rates(crash=0.0)))


@given(st.data())
def test_any_damage_is_noticed_or_harmless(data: st.DataObject) -> None:
    disk = SimulatedDisk({}, SIMULATED)
    save_checkpoint(disk, checkpoint())
    blob = disk.blobs["000003.safetensors"]
    at = data.draw(st.integers(0, len(blob) - 1))
    length = data.draw(st.integers(0, 20))
    disk.blobs["000003.safetensors"] = blob[:at] + data.draw(st.binary(max_size=20)) + blob[at + length :]

    with suppress(StorageError):
        assert load_checkpoint(disk, 3).version == 3


def test_a_write_that_fails_leaves_the_checkpoint_before_it(disk: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(disk, checkpoint())

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fails)
        with pytest.raises(StorageError, match="No space left"):
            save_checkpoint(disk, Checkpoint("another", 3, {}, {}, {}))
    assert_equal(load_checkpoint(disk, 3), checkpoint())
