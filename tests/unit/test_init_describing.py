"""What init makes of data and a model's form: descriptions that read the data, and a line for what does not fit.

The model's form is given here; `tests/integration/test_init.py` takes it from models.
"""

from __future__ import annotations

import json
import tomllib
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from export.scaffold.data_look import look_at_data
from export.scaffold.describing import Described, describe_data
from export.scaffold.files import task_toml
from export.scaffold.model_look import ModelLook, OutputLook
from export.scaffold.plan import Plan, Wishes, make_plan
from export.scaffold.questions import Questions, Unanswered
from export.settings import TaskSettings
from fedprune.config import from_table
from fedprune.data import load_examples
from fedprune.data.description import (
    Arrays,
    Bytes,
    HashedWords,
    Images,
    LogMel,
    Mfcc,
    Recordings,
    Series,
    Standard,
    Table,
    Text,
    Waveform,
)
from fedprune.data.normalization import lacks_statistics
from fedprune.errors import ConfigurationError, DataError, TaskError
from fedprune.model.losses import Loss
from tests.processes import run

_OPTIONS = (
    "from", "data", "label", "targets", "inputs", "group", "stride", "text", "tokenizer", "seconds", "front-end",
    "loss",
)  # fmt: skip


def _model(
    takes: tuple[int, ...], outputs: int, activation: str = "softmax", vocabulary: int | None = None, **changes: Any
) -> ModelLook:
    known: dict[str, Any] = {
        "source": "model.py:model",
        "name": "net",
        "inputs": (takes,),
        "vocabularies": (vocabulary,),
        "outputs": (OutputLook((outputs,), "", activation),),
        "parameters": 20_000,
        "prunable": 19_000,
        "frozen": 0,
        "pixel_scale": None,
        "normalizes": False,
    }
    return ModelLook(**(known | changes))


def _questions(**given: str) -> Questions:
    options: dict[str, str | None] = dict.fromkeys(_OPTIONS)
    return Questions(options | {key.replace("_", "-"): value for key, value in given.items()}, on_terminal=False)


def _described(path: Path, model: ModelLook, **given: str) -> Described:
    return describe_data(path, look_at_data(path, model), model, _questions(**given))


def _plan(path: Path, model: ModelLook, agents: int = 2, **given: str) -> Plan:
    look, questions = look_at_data(path, model), _questions(**given)
    return make_plan(
        path, look, describe_data(path, look, model, questions), model, questions, Wishes(agents, 10, None)
    )


def _pictures(path: Path, count: int = 20) -> Path:
    for name, grey in (("dark", 30), ("light", 200)):
        (path / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (6, 5), (grey, number, 0)).save(path / name / f"{number}.png")
    return path


def _sounds(path: Path, rate: int = 16_000, seconds: float = 1.0, count: int = 20) -> Path:
    random = np.random.default_rng(0)
    for name in ("no", "yes"):
        (path / name).mkdir(parents=True)
        for number in range(count):
            with wave.open(str(path / name / f"{number}.wav"), "wb") as file:
                file.setparams((1, 2, rate, 0, "NONE", ""))
                file.writeframes(random.integers(-9000, 9000, round(rate * seconds)).astype("<i2").tobytes())
    return path


def _csv(path: Path, header: str, row: Callable[[int], str], count: int = 60) -> Path:
    path.write_text("\n".join([header, *(row(number) for number in range(count))]) + "\n")
    return path


def _rooms(path: Path) -> Path:
    return _csv(path / "rooms.csv", "t;h;watts", lambda n: f"{300 + n % 7};{n % 50};{1000 + 3.5 * n}")


def _commas(path: Path) -> Path:
    return _csv(path / "commas.csv", "t;watts", lambda n: f"{n};{n},5")


def _scores(path: Path) -> Path:
    return _csv(path / "scores.csv", "t,score", lambda n: f"{n},{n / 2000}", 2000)


def _people(path: Path) -> Path:
    return _csv(
        path / "people.csv",
        "who,time,ax,ay,act",
        lambda n: f"p{n // 100},12:00:{n % 60:02},{n % 9},{n % 5},{'run' if n // 50 % 2 else 'sit'}",
        400,
    )


def _reviews(path: Path) -> Path:
    lines = [json.dumps({"text": f"word{n} good", "stars": n % 2, "id": n}) for n in range(60)]
    (path / "reviews.jsonl").write_text("\n".join(lines))
    return path / "reviews.jsonl"


def test_pictures_get_the_models_size_and_the_folders_names(tmp_path: Path) -> None:
    described = _described(_pictures(tmp_path), _model((8, 6, 1), 2))
    assert described.data == Images((8, 6), ("dark", "light"), channels=1)
    assert described.loss is Loss.SPARSE_CATEGORICAL_CROSSENTROPY


def test_two_classes_may_have_one_output(tmp_path: Path) -> None:
    assert _described(_pictures(tmp_path), _model((8, 6, 3), 1, "sigmoid")).loss is Loss.BINARY_CROSSENTROPY


def test_a_model_that_rescales_pixels_gets_them_as_it_expects_them(tmp_path: Path) -> None:
    plan = _plan(_pictures(tmp_path), _model((5, 6, 3), 2, pixel_scale=1 / 255))
    x = load_examples(tmp_path, plan.data).x
    assert x.max() == pytest.approx(200, abs=0.1)
    assert "0 to 255" in plan.notes[0]


@pytest.mark.parametrize(
    ("takes", "front_end"),
    [((49, 40, 1), LogMel), ((49, 10), Mfcc), ((98, 40), LogMel), ((61, 13, 1), Mfcc), ((16_000, 1), Waveform)],
)
def test_a_front_end_is_found_that_makes_what_the_model_takes(
    tmp_path: Path, takes: tuple[int, ...], front_end: type
) -> None:
    plan = _plan(_sounds(tmp_path, count=4), _model(takes, 2))
    assert isinstance(plan.data, Recordings)
    assert isinstance(plan.data.front_end, front_end)
    x = load_examples(tmp_path, plan.data).x
    assert x[0].size == np.prod(takes)
    if front_end is not Waveform:
        assert abs(float(x.mean())) < 0.1
        assert float(x.std()) == pytest.approx(1, abs=0.1)


def test_columns_of_numbers_are_inputs_and_are_normalised(tmp_path: Path) -> None:
    plan = _plan(_rooms(tmp_path), _model((2,), 1, "linear"), label="watts")
    assert isinstance(plan.data, Table)
    assert (plan.data.inputs, plan.data.labels, plan.loss) == (("t", "h"), (), Loss.MEAN_SQUARED_ERROR)
    assert plan.data.normalize == plan.data.targets == Standard(statistics="federated")


def test_targets_stay_where_the_model_brings_its_answers_to_their_scale(tmp_path: Path) -> None:
    answers = OutputLook((1,), "", "linear", rescales=True)
    rescaling = msgspec.structs.replace(_model((2,), 1, "linear"), outputs=(answers,))
    plan = _plan(_rooms(tmp_path), rescaling, label="watts")
    assert isinstance(plan.data, Table)
    assert (plan.data.normalize, plan.data.targets) == (Standard(statistics="federated"), None)


def test_columns_of_classes_are_normalised_by_the_statistics_that_are_seen(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal((0, 100), 9, (40, 2))
    np.savez(tmp_path / "rows.npz", x=x, y=np.arange(40) % 3)
    plan = _plan(tmp_path / "rows.npz", _model((2,), 3))
    assert abs(load_examples(tmp_path / "rows.npz", plan.data).x.mean(axis=0)).max() < 1e-3


def test_windows_are_as_long_as_the_model_takes_and_people_are_found(tmp_path: Path) -> None:
    described = _described(_people(tmp_path), _model((16, 2), 2))
    assert described.data == Series(("ax", "ay"), "act", 16, 8, "who", ("run", "sit"))


def test_text_gets_as_many_ids_as_the_model_knows(tmp_path: Path) -> None:
    path = _reviews(tmp_path)
    described = _described(path, _model((12,), 2, vocabulary=500), label="stars")
    assert described.data == Text("text", "stars", 12, HashedWords(500), ("0", "1"))
    of_bytes = _described(path, _model((12,), 2, vocabulary=257), label="stars").data
    assert isinstance(of_bytes, Text)
    assert of_bytes.tokenizer == Bytes()


@pytest.mark.parametrize(
    ("y", "outputs", "activation", "loss"),
    [
        (np.arange(40) % 3, 3, "linear", Loss.SPARSE_CATEGORICAL_CROSSENTROPY),
        (np.eye(3)[np.arange(40) % 3], 3, "softmax", Loss.CATEGORICAL_CROSSENTROPY),
        (np.arange(40) % 2, 1, "sigmoid", Loss.BINARY_CROSSENTROPY),
        (np.linspace(0, 1, 40), 1, "linear", Loss.MEAN_SQUARED_ERROR),
    ],
)
def test_the_loss_of_arrays_follows_from_labels_and_the_models_end(
    tmp_path: Path, y: np.ndarray, outputs: int, activation: str, loss: Loss
) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, x=np.random.default_rng(0).normal(50, 9, (40, 4)), y=y)
    plan = _plan(path, _model((4,), outputs, activation))
    assert plan.loss is loss
    if loss is Loss.MEAN_SQUARED_ERROR:
        assert lacks_statistics(plan.data)
    else:
        assert abs(load_examples(path, plan.data).x.mean()) < 0.01


@pytest.mark.parametrize("make", [_pictures, _rooms, _people, _reviews, _sounds])
def test_what_is_written_parses_and_is_what_was_planned(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    models = {
        _pictures: (_model((5, 6, 3), 2), {}),
        _rooms: (_model((2,), 1, "linear"), {"label": "watts"}),
        _people: (_model((16, 2), 2), {"label": "act"}),
        _reviews: (_model((12,), 2, vocabulary=500), {"label": "stars"}),
        _sounds: (_model((49, 40, 1), 2), {}),
    }
    model, given = models[make]
    plan = _plan(make(tmp_path), model, **given)
    settings = from_table(tomllib.loads(task_toml("mine", "../model.py:model", model, plan)), TaskSettings, "task.toml")
    assert settings.data == plan.data
    assert (settings.training.loss, settings.training.batch_size) == (plan.loss, plan.batch_size)
    assert settings.pruning.schedule.target_sparsity == plan.sparsity


@pytest.mark.parametrize(
    ("make", "model", "given", "error", "said"),
    [
        (_pictures, _model((8, 6, 3), 5), {}, TaskError, r"has 2 classes \(dark, light\), and the model 5 outputs"),
        (_pictures, _model((8, 6, 2), 2), {}, TaskError, "holds pictures, and the model takes"),
        (_pictures, _model((8, 6, 3), 2, "relu"), {}, TaskError, "ends in relu, and tells 2 classes apart"),
        (_sounds, _model((50, 7, 2), 2), {}, TaskError, "no usual front-end makes"),
        (_sounds, _model((49, 40), 2), {"seconds": "soon"}, ConfigurationError, "--seconds 'soon'"),
        (_rooms, _model((3,), 1, "linear"), {"label": "watts"}, TaskError, "has 2 columns of numbers.*let it take 2"),
        (_rooms, _model((2,), 3), {"label": "watts"}, TaskError, "has 60 classes"),
        (
            _rooms,
            _model((2,), 4, "linear"),
            {"label": "watts", "targets": "numbers"},
            TaskError,
            "returns 4; end it in",
        ),
        (_rooms, _model((2,), 1, "linear"), {"label": "power"}, ConfigurationError, "--label 'power': it is none of t"),
        (_rooms, _model((2,), 1, "linear"), {}, Unanswered, "which column holds the labels with --label .one of: t, h"),
        (_rooms, _model((1,), 1, "linear"), {"label": "watts"}, Unanswered, "with --inputs"),
        (_people, _model((16, 2), 2), {"label": "act", "group": "age"}, ConfigurationError, "--group 'age'"),
        (_reviews, _model((12,), 2), {"label": "stars"}, TaskError, "begin it with an Embedding"),
        (_commas, _model((1,), 1, "linear"), {"label": "watts"}, TaskError, "'watts' is '0,5'; write 0.5, with a poin"),
        (
            _commas,
            _model((1,), 1, "linear"),
            {"label": "watts", "targets": "numbers"},
            TaskError,
            "'watts' is '0,5'; write 0.5, with a point; or name",
        ),
        (_scores, _model((1,), 1, "sigmoid"), {"label": "score"}, TaskError, "more than 1024.*with --targets numbers"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path,
    make: Callable[[Path], Path],
    model: ModelLook,
    given: dict[str, str],
    error: type[Exception],
    said: str,
) -> None:
    with pytest.raises(error, match=said) as refusal:
        _described(make(tmp_path), model, **given)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.csv", "", "its first line must have the names of the columns"),
        ("d.csv", "a,b,a\n1,2,3\n", "each of them once"),
        ("d.csv", "a,b\n", "no row under its header"),
        ("d.xlsx", "PK", "the task learns from"),
        ("folder/a/d.txt", "x", "it holds neither .npy, .csv nor .jsonl files"),
        ("folder/d.txt", "x", "put the files into a folder for each class"),
    ],
)
def test_data_of_no_form_are_one_line(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        look_at_data(tmp_path / name.split("/")[0], _model((8, 6, 3), 2))


def test_somebody_at_a_terminal_is_asked_again_until_the_answer_is_possible() -> None:
    @click.command()
    def ask() -> None:
        click.echo(Questions({"label": None}, on_terminal=True).ask("label", "which column has the labels", ["t", "h"]))

    result = CliRunner().invoke(ask, input="power\nh\n")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "h"


@pytest.mark.parametrize(("takes", "outputs"), [((5, 6, 3), 2), ((5, 6), 2), ((5, 6), 1)])
def test_a_table_beside_folders_of_pictures_is_not_what_a_model_of_pictures_takes(
    tmp_path: Path, takes: tuple[int, ...], outputs: int
) -> None:
    _pictures(tmp_path)
    (tmp_path / "list.csv").write_text("file;class\n0.png;dark\n")
    plan = _plan(tmp_path, _model(takes, outputs, "softmax" if outputs > 1 else "sigmoid"))
    assert isinstance(plan.data, Images)
    assert plan.notes[0] == "list.csv is not read, but the folders beside it"


def test_a_table_beside_folders_is_what_a_model_of_rows_takes(tmp_path: Path) -> None:
    _people(_pictures(tmp_path))
    assert isinstance(_described(tmp_path, _model((2,), 2), label="act").data, Table)
    (tmp_path / "plots").mkdir()
    Image.new("L", (2, 2)).save(tmp_path / "plots" / "a.png")
    assert isinstance(_described(tmp_path, _model((16, 2), 2), label="act").data, Series)


def test_folders_without_a_picture_are_no_classes(tmp_path: Path) -> None:
    _pictures(tmp_path)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "info.txt").write_text("x")
    plan = _plan(tmp_path, _model((5, 6, 3), 2))
    assert isinstance(plan.data, Images)
    assert plan.data.labels == ("dark", "light")
    assert plan.notes[0] == "1 folders are left out, since no picture is in them: __MACOSX"


def test_too_few_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="40 examples are too few for 32 agents"):
        _plan(_pictures(tmp_path), _model((5, 6, 3), 2), agents=32)


def test_files_that_cannot_be_used_are_told_by_kind_and_are_no_examples(tmp_path: Path) -> None:
    _sounds(tmp_path, count=10)
    (tmp_path / "no" / "3.wav").write_bytes(b"no sound")
    with wave.open(str(tmp_path / "yes" / "4.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16_000))
    plan = _plan(tmp_path, _model((49, 40, 1), 2))
    assert plan.examples == 18
    assert "1 files that cannot be read skipped, the first is no/3.wav" in plan.notes[0]
    assert "1 recordings of another sample rate skipped, the first is yes/4.wav" in plan.notes[1]


def test_files_that_are_not_looked_at_count_as_those_that_are(tmp_path: Path) -> None:
    _pictures(tmp_path, count=200)
    for name in ("dark", "light"):
        for number in range(200, 400):
            (tmp_path / name / f"{number}.png").write_bytes((tmp_path / name / "0.png").read_bytes())
        for number in range(125):
            (tmp_path / name / f"0{number}.png").write_bytes(b"no picture")
    assert _plan(tmp_path, _model((5, 6, 3), 2)).examples == 525


def test_grey_pictures_without_an_axis_of_channels_have_one_statistic_for_all(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(100, 30, (40, 6, 6))
    np.savez(tmp_path / "grey.npz", x=x, y=np.arange(40) % 3)
    plan = _plan(tmp_path / "grey.npz", _model((6, 6, 1), 3))
    assert isinstance(plan.data, Arrays)
    assert plan.data.normalize == Standard((pytest.approx(x.mean(), rel=1e-3),), (pytest.approx(x.std(), rel=1e-3),))


def test_columns_of_windows_have_statistics_of_their_own(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal((0, 100), 9, (40, 6, 2))
    np.savez(tmp_path / "windows.npz", x=x, y=np.arange(40) % 3)
    plan = _plan(tmp_path / "windows.npz", _model((6, 2), 3))
    assert abs(load_examples(tmp_path / "windows.npz", plan.data).x.mean(axis=(0, 1))).max() < 1e-3


def test_scores_are_numbers_for_a_sigmoid_if_that_is_said(tmp_path: Path) -> None:
    model = _model((1,), 1, "sigmoid")
    assert _described(_scores(tmp_path), model, label="score", targets="numbers").loss is Loss.MEAN_SQUARED_ERROR


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.ones((40, 4)), "y": np.arange(40) % 3.0}, r'class numbers as floats; save y.astype\("int64"\)'),
        ({name: np.ones((40, 4)) for name in ("x_train", "x_test", "y_train", "y_test")}, "as arrays x and y"),
        ({"x_train": np.ones((40, 4)), "x_test": np.ones((9, 4)), "y": np.arange(40)}, "a single array x"),
    ],
)
def test_arrays_that_do_not_fit_are_one_line_with_a_cure(
    tmp_path: Path, arrays: dict[str, np.ndarray], said: str
) -> None:
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(DataError, match=said) as refusal:
        _plan(tmp_path / "mine.npz", _model((4,), 3))
    assert "\n" not in str(refusal.value)


def test_a_class_that_only_the_last_of_many_rows_has_is_a_class(tmp_path: Path) -> None:
    count = 2**17
    path = _csv(tmp_path / "long.csv", "a,kind", lambda n: "1,seldom" if n == count else "0,often", count + 1)
    assert _described(path, _model((1,), 2)).data == Table(("a",), "kind", ("often", "seldom"))


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "federation.toml").write_text("mine")
    code, said = run("init", tmp_path, "--from", "model.py", "--data", tmp_path)
    assert code == ConfigurationError.exit_code
    assert "federation.toml: there already" in said
    assert (tmp_path / "federation.toml").read_text() == "mine"


@pytest.mark.parametrize(("has_data", "option"), [(False, "--data"), (True, "--from")])
def test_a_missing_answer_is_named_with_its_option(tmp_path: Path, has_data: bool, option: str) -> None:
    data = ("--data", _rooms(tmp_path)) if has_data else ()
    code, said = run("init", tmp_path / "mine", *data)
    assert code == 2
    assert said.startswith("Error: say where your ")
    assert said.endswith(f"with {option}\n")
    assert not (tmp_path / "mine").exists()
