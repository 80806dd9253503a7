"""Examples that take more memory than there is room for: what comes of them is what comes of those in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_agent.evaluating import hold_out
from edge_agent.trainers.batches import batches_of
from fedprune.data import Arrays, Data, Dataset, fit_to, load_examples, load_npz, open_examples, save_npz
from fedprune.data.description import HashedWords, Images, Series, Standard, Table, Text
from fedprune.data.room import Room
from fedprune.errors import DataError
from fedprune.model.forms import InputForm, OutputForm
from fedprune.model.losses import Loss, Objective
from fedprune.model.randomness import Keyed

_X = np.random.default_rng(1).normal(size=(300, 6, 4))
_Y = np.arange(300) % 3


def _room(directory: Path, memory_bytes: int = 4096) -> Room:
    return Room(memory_bytes, directory)


def _check_alike(path: Path, data: Data, directory: Path) -> None:
    """What is stored is read as what is in memory: whole, in parts, and at any places."""
    expected, found = load_examples(path, data), open_examples(path, data, _room(directory))
    assert found.stored
    assert len(found) == len(expected)
    places = np.array([len(expected) - 1, 0, 2, 0])
    np.testing.assert_array_equal(found.take(places).x, expected.take(places).x)
    np.testing.assert_array_equal(np.concatenate([part.x for part in found.parts(7)]), expected.x)
    np.testing.assert_array_equal(np.concatenate([part.y for part in found.parts()]), expected.y)
    some = np.arange(1, len(expected), 2)
    np.testing.assert_array_equal(found.only(some).only(places[1:]).take(np.array([1])).x, expected.take(some[[2]]).x)
    assert found.x_largest == expected.x_largest
    assert found.x_mean == pytest.approx(expected.x_mean, rel=1e-6)
    assert [entry.name for entry in directory.iterdir()] == []


@pytest.fixture
def room(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("x", "y"),
    [
        (_X.astype(np.float32), _Y),
        (_X, _Y.astype(np.uint8)),
        ((_X * 10).astype(">f4"), _X[:, :, 0]),
        (np.abs(_X * 50).astype(np.uint8), _Y > 1),
    ],
)
def test_arrays_are_read_where_they_are(tmp_path: Path, room: Path, save: Any, x: np.ndarray, y: np.ndarray) -> None:
    save(tmp_path / "d.npz", x=x, y=y)
    _check_alike(tmp_path / "d.npz", Arrays(), room)
    _check_alike(tmp_path / "d.npz", Arrays(normalize=Standard(mean=(0.5,) * 4, std=(2.0,) * 4)), room)


def test_npy_files_of_a_directory_are_read_where_they_are(tmp_path: Path, room: Path) -> None:
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "x.npy", _X)
    np.save(tmp_path / "data" / "y.npy", _Y)
    _check_alike(tmp_path / "data", Arrays(), room)


def test_rows_windows_texts_and_pictures_go_to_a_working_file(tmp_path: Path, room: Path) -> None:
    lines = [f"{number},{number % 7},{'ab'[number % 2]},p{number % 3},word{number}" for number in range(2000)]
    (tmp_path / "d.csv").write_text("\n".join(["u,v,label,who,said", *lines]))
    _check_alike(tmp_path / "d.csv", Table(inputs=("u", "v"), label="label", labels=("a", "b")), room)
    _check_alike(tmp_path / "d.csv", Table(inputs=("u",), label="v"), room)
    _check_alike(tmp_path / "d.csv", Series(inputs=("u",), label="v", window=8, stride=4, group="who"), room)
    text = Text(text="said", label="label", labels=("a", "b"), length=3, tokenizer=HashedWords())
    _check_alike(tmp_path / "d.csv", text, room)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(9):
            pixels = np.full((8, 9, 3), 20 * number + len(label), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    _check_alike(tmp_path / "photos", Images(size=(8, 8), labels=("cat", "dog")), room)


def test_a_fault_is_found_before_anything_is_trained_on(tmp_path: Path, room: Path) -> None:
    x = _X.copy()
    x[123, 2, 1] = np.nan
    np.savez(tmp_path / "d.npz", x=x, y=_Y)
    with pytest.raises(DataError, match=r"1 examples of x hold NaN, .* the first is example 123"):
        open_examples(tmp_path / "d.npz", Arrays(), _room(room))
    np.savez(tmp_path / "d.npz", x=np.asfortranarray(_X), y=_Y)
    with pytest.raises(DataError, match=r"Fortran's order, .*; save numpy\.ascontiguousarray\(x\)"):
        open_examples(tmp_path / "d.npz", Arrays(), _room(room))


def test_a_file_that_is_cut_off_later_is_one_line(tmp_path: Path, room: Path) -> None:
    np.savez(tmp_path / "d.npz", x=_X, y=_Y)
    examples = open_examples(tmp_path / "d.npz", Arrays(), _room(room))
    os.truncate(tmp_path / "d.npz", 1000)
    with pytest.raises(DataError, match=r"d\.npz: it became shorter while it was read"):
        examples.take(np.array([299]))


def test_a_disk_without_room_is_named(tmp_path: Path, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "d.npz", x=_X, y=_Y)
    monkeypatch.setattr("fedprune.data.room._DISK_SHARE", 1e-9)
    with pytest.raises(DataError, match=r"do not fit into memory, .* free space, .* numpy\.savez, uncompressed"):
        open_examples(tmp_path / "d.npz", Arrays(), _room(room))


def test_a_model_takes_what_is_stored_in_its_own_shape_and_dtype(tmp_path: Path, room: Path) -> None:
    np.savez(tmp_path / "d.npz", x=_X, y=np.eye(3, dtype=np.int64)[_Y])
    inputs = [InputForm("x", (6, 4, 1))]
    outputs = [OutputForm("y", (3,), Objective(Loss.CATEGORICAL_CROSSENTROPY, from_logits=True))]
    stored = fit_to(open_examples(tmp_path / "d.npz", Arrays(), _room(room, 100)), inputs, outputs)
    expected = fit_to(load_npz(tmp_path / "d.npz"), inputs, outputs)
    assert len(stored.stored) == 2
    np.testing.assert_array_equal(stored.take(np.arange(300)).x, expected.x)
    np.testing.assert_array_equal(stored.take(np.arange(300)).y, expected.y)
    assert stored.take(np.arange(3)).y.dtype == np.float32
    bits = [OutputForm("y", (3,), Objective(Loss.BINARY_CROSSENTROPY, from_logits=True))]
    np.savez(tmp_path / "d.npz", x=_X, y=_Y[:, None] / np.float32([1, 2, 4]))
    with pytest.raises(DataError, match=r"rows of y are not of zeros and ones, .* the first is example 1"):
        fit_to(open_examples(tmp_path / "d.npz", Arrays(), _room(room, 100)), inputs, bits)


def test_what_is_held_out_is_the_same(tmp_path: Path, room: Path) -> None:
    np.savez(tmp_path / "d.npz", x=_X, y=_Y)
    stored = hold_out(open_examples(tmp_path / "d.npz", Arrays(), _room(room)), 0.2, 1, "pi-1")
    expected = hold_out(load_npz(tmp_path / "d.npz"), 0.2, 1, "pi-1")
    for found, right in zip(stored, expected, strict=True):
        assert found is not None
        assert right is not None
        np.testing.assert_array_equal(found.take(np.arange(len(right))).x, right.take(np.arange(len(right))).x)


def test_what_is_stored_can_be_saved(tmp_path: Path, room: Path) -> None:
    np.savez_compressed(tmp_path / "d.npz", x=_X, y=_Y)
    save_npz(tmp_path / "a.npz", open_examples(tmp_path / "d.npz", Arrays(), _room(room)))
    save_npz(tmp_path / "b.npz", load_npz(tmp_path / "d.npz"))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("row", [1, 100, 40_000])
def test_an_epoch_draws_each_stored_example_once_and_neighbours_apart(tmp_path: Path, room: Path, row: int) -> None:
    count = 40 * max(1, 2**16 // (4 * row)) + 3
    x = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (count, row), (0, 0))
    np.savez(tmp_path / "d.npz", x=x, y=np.zeros(count))
    examples = open_examples(tmp_path / "d.npz", Arrays(), _room(room))
    steps = 2 * count // 10
    drawn = np.concatenate(list(batches_of(Keyed(1), examples, steps, 10)))
    assert len(drawn) == 10 * steps
    assert sorted(drawn[:count]) == list(range(count))
    assert sorted(set(drawn[count:])) == sorted(drawn[count:])
    assert np.mean(np.abs(np.diff(drawn[:count])) > count / 10) > 0.5
    again = np.concatenate(list(batches_of(Keyed(1), examples, steps, 10)))
    assert (drawn == again).all()
    assert (drawn != np.concatenate(list(batches_of(Keyed(2), examples, steps, 10)))).any()


_SCRIPT = """
import sys
from pathlib import Path
from fedprune.data import Arrays, open_examples
from fedprune.data.room import Room
from fedprune.system.usage import peak_memory_mb
from edge_agent.trainers.batches import batches_of
from fedprune.model.randomness import Keyed
import numpy as np
def run(path, most):
    examples = open_examples(path, Arrays(), Room(2**22, path.parent))
    for indices in batches_of(Keyed(1), examples, min(most, len(examples) // 32), 32):
        assert examples.take(indices).x.shape == (32, 784)
run(Path(sys.argv[1]) / "small.npz", 10)
before = peak_memory_mb()
run(Path(sys.argv[1]) / "large.npz", 2**30)
print(peak_memory_mb() - before)
"""


def test_memory_is_bounded_however_large_the_file_is(tmp_path: Path) -> None:
    """60 MB and 19 MB as float32 would be in memory else."""
    pixels = np.random.default_rng(1).integers(0, 255, (20_000, 784), np.uint8)
    np.savez(tmp_path / "small.npz", x=pixels[:6000], y=np.zeros(6000, np.int64))
    np.savez(tmp_path / "large.npz", x=pixels, y=np.zeros(20_000, np.int64))
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path)]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 6.0


def test_examples_in_memory_are_a_dataset(tmp_path: Path, room: Path) -> None:
    np.savez(tmp_path / "d.npz", x=_X, y=_Y)
    assert isinstance(open_examples(tmp_path / "d.npz", Arrays(), Room(2**20, room)).in_memory, Dataset)
