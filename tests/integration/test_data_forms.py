"""Federations over files as devices have them: what a task says of its data holds on agents, gateway and in exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.build import build_task
from export.settings import TaskSettings
from fedprune.config import load_toml
from fedprune.data import load_npz
from fedprune.errors import TaskError
from fedprune.prediction import load_model
from tests.brokers import Mosquitto
from tests.federations import Site
from tests.processes import Child, run

_MODEL = """
from fedprune.keras.stack import keras

def regression():
    layers = keras.layers
    return keras.Sequential([layers.Input((2,)), layers.Dense(8, "relu"), layers.Dense(1)])

def classifier():
    layers = keras.layers
    return keras.Sequential([layers.Input((2,)), layers.Dense(8, "relu"), layers.Dense(3, "softmax")])

def texts():
    layers = keras.layers
    return keras.Sequential(
        [layers.Input((6,)), layers.Embedding(50, 4), layers.GlobalAveragePooling1D(), layers.Dense(2, "softmax")]
    )
"""
_TASK = """
name = "mine"
model.file = "model.py:{model}"
training = {{ steps_per_round = 4, batch_size = 8, loss = "{loss}", optimizer = {{ name = "adam" }} }}
pruning.schedule = {{ kind = "constant", target_sparsity = 0.5, begin_round = 1 , end_round = 2 }}
[data]
{data}
"""
_CROSSENTROPY, _SQUARES = "sparse_categorical_crossentropy", "mean_squared_error"
_TABLE = 'form = "table"\ninputs = ["t", "h"]\nlabel = "power"\n'


def _task_toml(directory: Path, model: str, loss: str, data: str) -> Path:
    (directory / "model.py").write_text(_MODEL)
    path = directory / "task.toml"
    path.write_text(_TASK.format(model=model, loss=loss, data=data))
    return path


def _rows(path: Path, count: int, seed: int) -> None:
    """Temperatures of some hundreds, humidities in percent, and the power that depends on both."""
    random = np.random.default_rng(seed)
    t, h = random.normal(300, 5, count), random.uniform(0, 100, count)
    power = 0.2 * (t - 300) - 0.02 * h
    path.write_text(
        "time;power;h;t\n"
        + "".join(f"12:0{i % 9};{p};{h};{t}\n" for i, (p, h, t) in enumerate(zip(power, h, t, strict=True)))
    )


def test_a_federation_learns_from_tables_as_devices_have_them(tmp_path: Path, mosquitto: Mosquitto) -> None:
    normalize = 'normalize = { kind = "standard", mean = [300, 50], std = [5, 30] }'
    task = _task_toml(tmp_path, "regression", _SQUARES, _TABLE + normalize)
    code, said = run("task", "build", task, "--out", tmp_path / "mine.fedtask")
    assert code == 0, said
    for seed, name in enumerate(("pi-1", "pi-2", "rows")):
        _rows(tmp_path / f"{name}.csv", 60, seed)
    with (tmp_path / "pi-1.csv").open("a") as file:
        file.write("12:00;;1;2\n12:00;0,5;1;2\n")
    site = Site(tmp_path, mosquitto.url, tmp_path / "mine.fedtask")
    rounds = {"count": 2, "cohort": 2, "quorum": 1.0, "deadline_s": 300.0, "gather_s": 300.0}
    federation = site.federation("run", held_out="rows.csv", rounds=rounds)

    with (
        Child("agent", "--config", site.agent("pi-1", data="pi-1.csv")) as agent,
        Child("agent", "--config", site.agent("pi-2", data="pi-2.csv")),
        Child("aggregator", federation, "--json") as aggregator,
    ):
        line = agent.says("rows with")
        assert "1 rows with an empty cell skipped, the first is pi-1.csv, line 62: column 'power' is empty" in line
        assert "1 rows with a decimal comma skipped" in agent.says("rows with")
        losses = [aggregator.reports()["loss"] for _ in range(2)]
        assert aggregator.ends() == 0

    assert max(losses) < 100  # of inputs that were not normalised it would be thousands
    assert load_npz(tmp_path / "run" / "held-out.npz").x[:, 0].min() > 250  # as the rows have it
    code, said = run("export", tmp_path / "run", "--formats", "fp32,int8", "--data", tmp_path / "pi-2.csv")
    assert code == 0, said
    (tmp_path / "today.csv").write_text("h;t\n0;310\n100;290\n")  # as a device has them, without what is wanted
    fp32, int8 = (_answers(tmp_path / "run" / "export" / f"{form}.tflite", "today.csv") for form in ("fp32", "int8"))
    assert max(map(abs, fp32)) < 20  # eight steps after a random start; of raw numbers it would be hundreds
    assert int8 == pytest.approx(fp32, abs=1.0)


def _answers(model: Path, data: str) -> list[float]:
    """What a file says of the rows of `data`, which is beside the run."""
    return [prediction.answers[0].values[0] for prediction in load_model(model).predict(model.parents[2] / data)]


@pytest.mark.parametrize(
    ("model", "loss", "data", "said"),
    [
        (
            "regression",
            _SQUARES,
            _TABLE.replace('"h"', '"h", "wind"'),
            r"makes examples of \[3\], the model takes \[2\]",
        ),
        ("regression", _SQUARES, f'{_TABLE}labels = ["off", "on"]', "leave out data.labels"),
        ("classifier", _CROSSENTROPY, _TABLE, "it takes names of its 3 classes in data.labels"),
        ("classifier", _CROSSENTROPY, f'{_TABLE}labels = ["off", "on"]', "of 2 names.* names of its 3 classes"),
        ("classifier", "categorical_crossentropy", f'{_TABLE}labels = ["a", "b", "c"]', "sparse_categorical"),
        (
            "texts",
            _CROSSENTROPY,
            'form = "text"\ntext = "t"\nlabel = "c"\nlabels = ["a", "b"]\nlength = 6\n'
            'tokenizer = { kind = "hashed-words", ids = 51 }',
            "ids below 51, the model knows those below 50",
        ),
        (
            "texts",
            _CROSSENTROPY,
            'form = "series"\ninputs = ["t"]\nlabel = "c"\nwindow = 6\nstride = 1',
            "makes numbers",
        ),
    ],
)
def test_data_that_the_model_would_not_take_are_refused_at_build(
    tmp_path: Path, model: str, loss: str, data: str, said: str
) -> None:
    settings = load_toml(_task_toml(tmp_path, model, loss, data), TaskSettings)
    with pytest.raises(TaskError, match=said):
        build_task(settings, tmp_path)
