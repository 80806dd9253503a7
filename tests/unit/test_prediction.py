"""An exported file answers raw data by itself: with the task's preprocessing, and by the names of its classes."""

from __future__ import annotations

import json
import re
import subprocess
import wave
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedprune.data import load_examples
from fedprune.data.description import (
    Arrays,
    Bytes,
    Data,
    Images,
    Mfcc,
    MinMax,
    Recordings,
    Series,
    Standard,
    Table,
    Text,
)
from fedprune.errors import DataError, ExportError
from fedprune.model.losses import Loss
from fedprune.model.tensors import Array
from fedprune.network.layers import Dense, Embedding
from fedprune.prediction import load_model
from fedprune.prediction.metadata import MEMBER, Input, Metadata, Output, read_metadata, with_metadata
from tests.described import chain_of, table_of, weights_of
from tests.exported import LABELS, SQUARES, exported
from tests.processes import FEDPRUNE


def logits(x: Array) -> Array:
    """What the dense layer of `exported` gives."""
    network = chain_of((int(np.prod(x.shape[1:])),), Dense(name="d", units=3, kernel="d/kernel"))
    return x.reshape(len(x), -1) @ weights_of(table_of(network), -1.0, 1.0)["d/kernel"]


def assert_answers_as_trained(path: Path, data: Data, examples: Path) -> list[Any]:
    """The file takes of unlabelled data what a trainer takes of labelled ones."""
    dataset = load_examples(examples, data)
    expected = logits(dataset.x)
    found = list(load_model(path).predict(examples))
    usable = [prediction for prediction in found if not prediction.fault]
    assert [prediction.label for prediction in usable] == [LABELS[label] for label in expected.argmax(axis=1)]
    shares = np.exp(expected - expected.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        [prediction.answers[0].values for prediction in usable], shares / shares.sum(axis=1, keepdims=True), atol=1e-3
    )
    return found


def test_rows_of_a_table_are_answered_without_labels_and_with_names(tmp_path: Path) -> None:
    table = Table(("t", "h"), "state", LABELS, Standard((20.0, 50.0), (5.0, 20.0)))
    path, rows = exported(tmp_path, table, (2,)), tmp_path / "rows.csv"
    rows.write_text("h;t;state\n40;21;no\n80;10;yes\n55;30;no\n")
    found = assert_answers_as_trained(path, table, rows)
    assert [prediction.place for prediction in found] == [f"rows.csv, line {line}" for line in (2, 3, 4)]
    rows.write_text("t,h\n21,40\n10,eighty\n30,55\n")
    again = list(load_model(path).predict(rows))
    assert again[0] == found[0]
    assert again[2] == found[2]
    assert "column 'h' is 'eighty'" in again[1].fault
    assert again[1].label is None


def test_windows_of_a_series_are_those_that_training_has_and_a_fault_ends_its_groups_window(tmp_path: Path) -> None:
    series = Series(("a", "b"), "kind", 3, 2, "who", LABELS, MinMax((0.0,), (10.0,)))
    path, rows = exported(tmp_path, series, (3, 2)), tmp_path / "rows.csv"
    lines = [f"{i},{9 - i % 5},{who},no" for i in range(12) for who in ("ann", "bob")]
    lines[9] = "?,1,bob,no"
    rows.write_text("\n".join(["a,b,who,kind", *lines]) + "\n")
    found = assert_answers_as_trained(path, series, rows)
    assert sum(bool(prediction.fault) for prediction in found) == 1


def test_pictures_of_one_folder_or_many_are_answered(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    images = Images((4, 4), LABELS, normalize=Standard((0.5,), (0.25,)))
    path, folder = exported(tmp_path, images, (4, 4, 3)), tmp_path / "pictures"
    for number, label in enumerate(LABELS):
        (folder / label).mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 6, 3), np.uint8)
        pillow.fromarray(pixels).save(folder / label / f"{number}.png")
    found = {prediction.place: prediction for prediction in assert_answers_as_trained(path, images, folder)}
    (one,) = load_model(path).predict(folder / "yes" / "1.png")
    assert found[str(folder / "yes" / "1.png")] == one
    (folder / "yes" / "note.txt").write_text("no picture")
    faults = [prediction for prediction in load_model(path).predict(folder) if prediction.fault]
    assert [fault.place for fault in faults] == [str(folder / "yes" / "note.txt")]


def test_recordings_go_through_the_front_end(tmp_path: Path) -> None:
    recordings = Recordings(LABELS, 8000, 0.1, Mfcc(bands=20, coefficients=5))
    path, folder = exported(tmp_path, recordings, recordings.example_shape), tmp_path / "sounds"
    for number, label in enumerate(LABELS):
        (folder / label).mkdir(parents=True)
        sound = (np.sin(np.arange(900) * (0.1 + 0.3 * number)) * 20_000).astype("<i2")
        with wave.open(str(folder / label / "1.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(sound.tobytes())
    assert len(assert_answers_as_trained(path, recordings, folder)) == 3


def test_texts_are_tokenised(tmp_path: Path) -> None:
    text = Text("said", "mood", 6, Bytes(), LABELS)
    table = Embedding(name="e", vocabulary=257, units=2, table="e/table")
    path, rows = exported(tmp_path, text, (6,), front=[table], vocabulary=257), tmp_path / "texts.jsonl"
    rows.write_text('{"said": "well done"}\n{"said": "  "}\n{"said": "well done"}\n{"said": "oh no"}\n')
    first, empty, second, _ = load_model(path).predict(rows)
    assert first.answers == second.answers
    assert first.label in LABELS
    assert "column 'said' is empty" in empty.fault


def test_arrays_need_no_labels_and_what_is_learned_of_numbers_is_a_number(tmp_path: Path) -> None:
    path = exported(tmp_path, Arrays(), (2,), outputs=2, loss=SQUARES)
    x = np.float32([[1, 2], [3, 4]])
    np.savez(tmp_path / "x.npz", x=x)
    found = list(load_model(path).predict(tmp_path / "x.npz"))
    assert [prediction.place for prediction in found] == ["example 0", "example 1"]
    assert {prediction.label for prediction in found} == {None}
    rows = load_model(path).answer({"x": x})
    assert [prediction.answers for prediction in found] == rows
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 5), np.float32))
    with pytest.raises(DataError, match="an example of x is 5, the task's model takes 2"):
        list(load_model(path).predict(tmp_path / "x.npz"))


def test_one_sigmoid_has_two_classes(tmp_path: Path) -> None:
    table = Table(("t",), "state", ("off", "on"))
    path, rows = exported(tmp_path, table, (1,), outputs=1, loss=Loss.BINARY_CROSSENTROPY), tmp_path / "rows.csv"
    rows.write_text("t\n-50\n50\n")
    low, high = load_model(path).predict(rows)
    assert {low.label, high.label} == {"off", "on"}
    assert low.answers[0].probability == pytest.approx(1.0, abs=1e-3)


def test_the_command_prints_lines_or_json_and_names_what_it_cannot_read(tmp_path: Path) -> None:
    path, rows = exported(tmp_path, Table(("t", "h"), "state", LABELS), (2,)), tmp_path / "rows.csv"
    rows.write_text("t,h\n1,2\n,2\n")

    def predicted(*more: str) -> subprocess.CompletedProcess[str]:
        command = [*FEDPRUNE, "predict", str(path), "--data", str(rows), *more]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    plain, as_json = predicted(), predicted("--json")
    assert (plain.returncode, as_json.returncode) == (0, 0)
    assert plain.stdout.startswith("rows.csv, line 2: ")
    assert re.fullmatch(rf"rows.csv, line 2: ({'|'.join(LABELS)}) \(0\.\d{{3}}\)\n", plain.stdout)
    assert "rows.csv, line 3: column 't' is empty" in plain.stderr
    first, second = map(json.loads, as_json.stdout.splitlines())
    assert first["answers"][0]["label"] in LABELS
    assert second["fault"]
    rows.write_text("t,h\n")
    nothing = predicted()
    assert nothing.returncode == DataError.exit_code
    assert "nothing in it could be answered" in nothing.stderr


def test_a_file_without_a_description_and_a_forged_one_are_refused_in_words(tmp_path: Path) -> None:
    path = exported(tmp_path, Arrays(), (2,))
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"PK\x03\x04")])
    with pytest.raises(ExportError, match="does not say how data become its inputs; export the model again"):
        load_model(path)
    for member, text in ((MEMBER, b"{}"), (MEMBER, b"\xff"), ("other", b"{}")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, text)
        with pytest.raises(ExportError, match="export the model again"):
            read_metadata(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, b" " * 1000)
    with pytest.raises(ExportError, match="export the model again"):
        read_metadata(path)


def test_a_description_of_another_format_says_what_to_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "later.tflite"
    later = Metadata("mine", Arrays(), (Input("x", "x", (2,)),), (Output("y", (1,), SQUARES),), format=9)
    path.write_bytes(with_metadata(b"", later))
    with pytest.raises(ExportError, match="has format 9, this fedprune reads 1; upgrade it"):
        read_metadata(path)


def test_equal_descriptions_make_equal_bytes_that_other_tools_read(tmp_path: Path) -> None:
    path = exported(tmp_path, Table(("t", "h"), "state", LABELS), (2,))
    first = path.read_bytes()
    assert exported(tmp_path, Table(("t", "h"), "state", LABELS), (2,)).read_bytes() == first
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read(MEMBER))["data"]["labels"] == list(LABELS)
