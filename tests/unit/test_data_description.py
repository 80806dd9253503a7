"""The [data] table of a task, and the one way from a path to examples."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from fedprune.data import Arrays, Data, Dataset, load_examples, load_npz, most_examples, read_examples, save_npz
from fedprune.data.command import data as data_command
from fedprune.data.description import MinMax, Standard, Table, Text, Vocabulary
from fedprune.data.task_toml import load_description
from fedprune.errors import ConfigurationError, DataError

_NORMALIZE = 'normalize = { kind = "standard", mean = [1, 2], std = [1, 2] }'
_SCALE = 'normalize = { kind = "min-max", minimum = [0], maximum = [1] }'
_FORMS = {
    "arrays": "",
    "table": f'inputs = ["a", "b"]\nlabel = "c"\nlabels = ["x", "y"]\n{_NORMALIZE}',
    "series": 'inputs = ["a"]\nlabel = "c"\nwindow = 128\nstride = 64\ngroup = "person"',
    "images": f'size = [96, 96]\nlabels = ["x", "y"]\nfit = "crop"\n{_SCALE}',
    "recordings": 'labels = ["x"]\nrate_hz = 16000\nseconds = 1\nfront_end = { kind = "mfcc", coefficients = 13 }',
    "text": 'text = "a"\nlabel = "c"\nlength = 20\ntokenizer = { kind = "hashed-words", ids = 1000 }',
}


def _described(path: Path, form: str, text: str) -> Data:
    path.write_text(f'name = "mine"\n[data]\nform = "{form}"\n{text}\n')
    return load_description(path)


@pytest.mark.parametrize(("form", "text"), _FORMS.items())
def test_every_form_is_described_in_toml_and_travels_as_json(tmp_path: Path, form: str, text: str) -> None:
    described = _described(tmp_path / "task.toml", form, text)
    assert msgspec.json.decode(msgspec.json.encode(described), type=Data) == described
    assert type(described).__struct_config__.tag == form


def test_a_task_without_data_learns_from_arrays(tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text('name = "mine"\n')
    assert load_description(tmp_path / "task.toml") == Arrays()


@pytest.mark.parametrize(
    ("form", "text", "said"),
    [
        ("tables", "", "data.form: invalid value 'tables'"),
        ("table", 'inputs = ["a"]', "a required key is missing: `label`"),
        ("table", 'inputs = ["a"]\nlabel = "a"', "data.inputs names 'a' twice"),
        ("table", 'inputs = ["a"]\nlabel = "b"\nlabels = ["x", "x"]', "data.labels names 'x' twice"),
        ("table", 'inputs = ["a"]\nlabel = "b"\nlables = ["x"]', "did you mean 'data.labels'"),
        ("series", 'inputs = ["a"]\nlabel = "b"\nwindow = 0\nstride = 1', "data.window: expected `int` >= 1"),
        ("series", 'inputs = ["a", "c"]\nlabel = "b"\nwindow = 1048576\nstride = 1', "more than 1048576 numbers"),
        ("images", "size = [9, 9]", "a required key is missing: `labels`"),
        ("images", 'size = [9, 9]\nlabels = ["x"]\nfit = "pad"', "known here: crop, resize"),
        ("recordings", 'labels = ["x"]\nseconds = 0.001', "0.001 seconds are shorter than a frame"),
        ("recordings", 'labels = ["x"]\nrate_hz = 4000', "high_hz 4000 is above half of rate_hz"),
        ("recordings", 'labels = ["x"]\nseconds = 3600', "at most 4194304 are taken"),
        (
            "recordings",
            'labels = ["x"]\nseconds = 200\nfront_end = { kind = "log-mel", stride_ms = 0.1 }',
            "frames are too many",
        ),
        (
            "recordings",
            'labels = ["x"]\nfront_end = { kind = "mfcc", bands = 8 }',
            "10 coefficients need as many bands",
        ),
        (
            "text",
            'text = "a"\nlabel = "b"\nlength = 9\ntokenizer = { kind = "vocabulary" }',
            "give either words, or file",
        ),
        (
            "arrays",
            'normalize = { kind = "standard", mean = [1], std = [0] }',
            "data.normalize.std[0]: expected",
        ),
        ("arrays", 'normalize = { kind = "standard", mean = [1, 2], std = [1] }', "mean has 2 numbers and std 1"),
        (
            "arrays",
            'normalize = { kind = "min-max", minimum = [1], maximum = [1] }',
            "leave out columns that are constant",
        ),
    ],
)
def test_a_description_that_is_wrong_is_refused_in_one_line(tmp_path: Path, form: str, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        _described(tmp_path / "task.toml", form, text)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


# Words


_TEXT = 'text = "a"\nlabel = "c"\nlength = 3\ntokenizer = { kind = "vocabulary", file = "words.txt" }'


def test_the_words_of_a_vocabularys_file_are_put_into_the_description(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("good\n\nbad \n")
    described = _described(tmp_path / "task.toml", "text", _TEXT)
    assert isinstance(described, Text)
    assert described.tokenizer == Vocabulary(words=("good", "bad"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory; name a file with a word on each line"),
        (b"", "0 words in 0 bytes; put 1 to"),
        (b"caf\xe9", "not text in UTF-8"),
        (b"good\ngood", "a word stands twice"),
        (b"Good", "'Good' is not a word as the tokeniser makes them"),
        (b"very good", "'very good' is not a word"),
    ],
)
def test_a_vocabularys_file_that_is_wrong_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"words\.txt: .*" + said):
        _described(tmp_path / "task.toml", "text", _TEXT)


# Normalisation


def test_a_column_is_normalised_by_its_own_statistics(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a,b,c\n20,0,1\n30,50,2\n")
    plain = Table(inputs=("a", "b"), label="c")
    table = msgspec.structs.replace(plain, normalize=Standard(mean=(20.0, 50.0), std=(10.0, 50.0)))
    assert load_examples(tmp_path / "d.csv", table).x.tolist() == [[0.0, -1.0], [1.0, 0.0]]
    assert read_examples(tmp_path / "d.csv", table).x.tolist() == [[20.0, 0.0], [30.0, 50.0]]


def test_an_npz_stands_in_for_files_and_is_normalised_like_them(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a,b,c\n20,0,1\n30,50,2\n")
    table = Table(inputs=("a", "b"), label="c", normalize=MinMax(minimum=(0.0,), maximum=(50.0,)))
    save_npz(tmp_path / "d.npz", read_examples(tmp_path / "d.csv", table))
    from_rows, from_arrays = (load_examples(tmp_path / name, table) for name in ("d.csv", "d.npz"))
    assert from_rows.x.tolist() == from_arrays.x.tolist() == [[np.float32(0.4), 0.0], [np.float32(0.6), 1.0]]
    assert from_rows.y.tolist() == from_arrays.y.tolist()


@pytest.mark.parametrize(
    ("x", "normalize", "said"),
    [
        (np.zeros((2, 3), np.int32), Standard(mean=(0.0,), std=(1.0,)), "x holds token ids, and the task normalises"),
        (np.zeros((2, 3), np.float32), Standard(mean=(0.0,) * 2, std=(1.0,) * 2), "has 3 columns or channels, .* 2;"),
        (np.float32([[0.0], [1e30]]), Standard(mean=(0.0,), std=(1e-30,)), "example 1 of x is too far"),
    ],
)
def test_what_cannot_be_normalised_is_refused(tmp_path: Path, x: np.ndarray, normalize: Standard, said: str) -> None:
    save_npz(tmp_path / "d.npz", Dataset(x, np.arange(2)))
    with pytest.raises(DataError, match=said):
        load_examples(tmp_path / "d.npz", Arrays(normalize=normalize))


# Arrays


def test_a_directory_with_x_npy_and_y_npy_is_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((3, 2), 51, np.uint8))
    np.save(tmp_path / "y.npy", np.arange(3))
    data = load_examples(tmp_path, Arrays())
    assert data.x.tolist() == [[np.float32(0.2)] * 2] * 3
    assert data.y.tolist() == [0, 1, 2]
    assert most_examples(tmp_path) == 3
    (tmp_path / "y.npy").unlink()
    with pytest.raises(DataError, match="it has no array 'y'"):
        load_examples(tmp_path, Arrays())
    (tmp_path / "x.npy").unlink()
    with pytest.raises(DataError, match=r"no \.npy file is in it; name an .npz file, or put x\.npy and y\.npy there"):
        load_examples(tmp_path, Arrays())


# Functions


def test_a_function_returns_examples(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("COUNT = 3\n")
    (tmp_path / "mine.py").write_text(
        "import numpy as np, helper\n"
        "def load():\n    return np.ones((helper.COUNT, 2), np.uint8), list(range(helper.COUNT))\n"
    )
    for name in ("mine.py:load", "mine:load"):
        data = load_examples(tmp_path / name, Arrays())
        assert data.x.tolist() == [[np.float32(1 / 255)] * 2] * 3
        assert data.y.tolist() == [0, 1, 2]
    assert most_examples(tmp_path / "mine.py:load") == 3


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("other.py:load", "", "there is no such file; name a function as file.py:function"),
        ("mine2.py:save", "", "mine2.py has no function 'save'"),
        ("mine2.py:load", "def load():\n    return 3", "it returned 'int'; return two arrays, x and y"),
        ("mine2.py:load", "def load():\n    raise OSError('sensor is\\noff')", r"OSError: sensor is\\noff; correct"),
        ("mine2.py:load", "import nothing_of_this_name", "ModuleNotFoundError"),
        ("mine2.py:load", "def load():\n    return [[1]], [1, 2]", "x has 1 examples and y has 2 labels"),
        ("mine2.py:load", "def load():\n    return [[None]], [1]", "x is object"),
        ("mine2.py:load", "def load():\n    return [[1], [1, 2]], [1, 2]", "ValueError"),
    ],
)
def test_a_function_that_gives_no_examples_is_refused(tmp_path: Path, name: str, code: str, said: str) -> None:
    (tmp_path / "mine2.py").write_text(code)
    with pytest.raises(DataError, match=said) as refusal:
        load_examples(tmp_path / name, Arrays())
    assert "\n" not in str(refusal.value)


# Splitting


def test_a_table_is_shared_out_as_arrays_that_the_task_then_normalises(tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text(f'name = "mine"\n[data]\nform = "table"\n{_FORMS["table"]}\n')
    rows = "".join(f"{t},{2 * t},{'xy'[t % 2]}\n" for t in range(60))
    (tmp_path / "d.csv").write_text(f"a,b,c\n{rows},,x\n")
    arguments = ["--source", str(tmp_path / "d.csv"), "--task", str(tmp_path / "task.toml"), "--partition", "iid"]
    arguments += ["--agents", "2", "--examples-per-agent", "20", "--out", str(tmp_path / "out")]

    done = CliRunner().invoke(data_command, ["split", *arguments], catch_exceptions=False)

    assert done.exit_code == 0, done.output
    for name in ("agent-0", "agent-1", "held-out"):
        path = tmp_path / "out" / f"{name}.npz"
        raw, ready = load_npz(path), load_examples(path, load_description(tmp_path / "task.toml"))
        np.testing.assert_array_equal(raw.x[:, 1], 2 * raw.x[:, 0])
        np.testing.assert_array_equal(raw.y, raw.x[:, 0] % 2)
        np.testing.assert_allclose(ready.x, (raw.x - [1, 2]) / [1, 2], rtol=1e-5)


def test_forms_other_than_images_take_no_pillow(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a,c\n1,2\n")
    script = (
        "import sys\nfrom pathlib import Path\nsys.modules['PIL'] = None\n"
        "from fedprune.data import load_examples\nfrom fedprune.data.description import Images, Table\n"
        "print(len(load_examples(Path('d.csv'), Table(inputs=('a',), label='c'))))\n"
        "load_examples(Path('.'), Images(size=(2, 2), labels=('a',)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr
    assert "which needs Pillow: pip install '.[images]'" in done.stderr
