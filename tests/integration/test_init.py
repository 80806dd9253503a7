"""`fedprune init` on real models, in the process with TensorFlow, and the bundles that come of what it writes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aggregator.settings import FederationSettings
from edge_agent.settings import AgentSettings
from export.build import build_task
from export.scaffold.model_look import Candidates, ModelLook, look_at_model
from export.settings import TaskSettings
from fedprune.config import load_toml
from fedprune.errors import StorageError, TaskError
from fedprune.task.bundle import read_bundle
from tests.docs.snippets import ROOT
from tests.patience import PATIENCE_S
from tests.processes import FEDPRUNE, ran, run

_CODE = """
import keras
from keras import layers

def _hidden():
    return 1

def needs(size):
    return size

def small():
    return keras.Sequential([layers.Input((4,)), layers.Dense(8, "relu"), layers.Dense(3, "softmax")])

def large(size=64):
    return keras.Sequential([layers.Input((4,)), layers.Dense(size, "relu"), layers.Dense(3)])
"""


def _made(example: str, directory: Path) -> Path:
    """The example's model, and the data that its script makes."""
    for script in (ROOT / "docs" / "examples" / example).glob("*.py"):
        (directory / script.name).write_bytes(script.read_bytes())
    subprocess.run([sys.executable, "make_data.py"], cwd=directory, check=True, timeout=PATIENCE_S)
    return directory


@pytest.mark.parametrize(
    ("example", "arguments"),
    [
        ("keywords", ("--data", "words")),
        ("text", ("--data", "reviews.jsonl")),
        pytest.param("anomaly", ("--data", "normal.npz"), marks=pytest.mark.slow),
    ],
)
def test_what_init_writes_builds(tmp_path: Path, example: str, arguments: tuple[str, ...]) -> None:
    _made(example, tmp_path)
    code, said = _init(tmp_path, "--from", "model.py", *arguments)
    assert code == 0, said
    mine = tmp_path / "mine"
    bundle = read_bundle(build_task(load_toml(mine / "task.toml", TaskSettings), mine))
    assert bundle.graphs
    federation = load_toml(mine / "federation.toml", FederationSettings)
    agent = load_toml(mine / "agent.toml", AgentSettings)
    assert (federation.name, agent.federation) == ("mine", "mine")
    assert (mine / agent.data).exists()


@pytest.mark.parametrize("model", ["small", "large"], ids=["that ends with softmax", "of logits"])
def test_what_init_writes_as_comments_builds_when_they_are_none(tmp_path: Path, model: str) -> None:
    (tmp_path / "net.py").write_text(_CODE)
    np.savez(tmp_path / "mine.npz", x=np.zeros((90, 4), np.float32), y=np.arange(90) % 3)
    code, said = _init(tmp_path, "--from", f"net.py:{model}", "--data", "mine.npz")
    assert code == 0, said
    written = tmp_path / "mine" / "task.toml"
    for line in ("logit_adjustment = 1.0", "label_smoothing = 0.1"):
        assert written.read_text().count(f"# {line}") == 1
        written.write_text(written.read_text().replace(f"# {line}", line))

    bundle = read_bundle(build_task(load_toml(written, TaskSettings), written.parent))

    (objective,) = bundle.task.objectives
    assert (objective.logit_adjustment, objective.label_smoothing) == (1.0, 0.1)


def test_which_function_is_the_model_is_asked(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(_CODE)
    np.savez(tmp_path / "mine.npz", x=np.zeros((90, 4)), y=np.arange(90) % 3)
    code, said = _init(tmp_path, "--from", "net.py", "--data", "mine.npz")
    assert code == 2
    assert said.strip() == "Error: say which of net.py is the model: --from net.py:small or --from net.py:large"

    looked = look_at_model("net.py:large", tmp_path)
    assert isinstance(looked, ModelLook)
    assert (looked.inputs, looked.outputs[0].shape, looked.outputs[0].activation) == (((4,),), (3,), "linear")
    assert looked.parameters == 4 * 64 + 64 + 64 * 3 + 3


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise RuntimeError('no disk')", "net.py cannot be imported: RuntimeError: no disk (net.py, line 1)"),
        ("import os; os._exit(3)", "looking at the model ended with exit code 3"),
    ],
)
def test_code_that_fails_is_one_line(tmp_path: Path, code: str, said: str) -> None:
    (tmp_path / "net.py").write_text(code)
    np.savez(tmp_path / "mine.npz", x=np.zeros((90, 4)), y=np.arange(90) % 3)
    ended_with, line = _init(tmp_path, "--from", "net.py", "--data", "mine.npz")
    assert (ended_with, line.count("\n")) == (TaskError.exit_code, 1)
    assert said in line


def test_who_watches_is_told_what_takes_long_and_who_reads_a_pipe_is_not(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("raise RuntimeError('no disk')")
    np.savez(tmp_path / "mine.npz", x=np.zeros((90, 4)), y=np.arange(90) % 3)
    arguments = ("init", "mine", "--from", "net.py", "--data", "mine.npz")
    screen, terminal = pty.openpty()
    watched = subprocess.run([*FEDPRUNE, *arguments], cwd=tmp_path, stdin=terminal, stderr=terminal, check=False)
    os.close(terminal)
    with os.fdopen(screen, "rb", buffering=0) as seen:
        lines = seen.read(4096).decode().splitlines()
    assert watched.returncode == TaskError.exit_code
    assert lines[0] == "Looking at net.py with TensorFlow, which has to start"
    assert "no disk" in lines[1]


def test_an_option_that_the_data_have_no_use_for_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(_CODE)
    np.savez(tmp_path / "mine.npz", x=np.zeros((90, 4)), y=np.arange(90) % 3)
    loss = "sparse_categorical_crossentropy"
    arguments = ("--from", "net.py:small", "--data", "mine.npz", "--loss", loss, "--stride", "3")
    code, printed, said = ran("init", "mine", *arguments)
    assert code == 0, said
    assert "Note: --stride says nothing about such data or such a model, and is left out" in printed
    assert "--loss" not in printed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_full_in_between_leaves_no_file_in_the_way_of_the_next_call(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(_CODE)
    np.savez(tmp_path / "mine.npz", x=np.zeros((90, 4)), y=np.arange(90) % 3)
    (tmp_path / "mine").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", tmp_path / "mine"], check=True)
    try:
        code, said = _init(tmp_path, "--from", "net.py:small", "--data", "mine.npz")
        left = [*(tmp_path / "mine").iterdir()]
    finally:
        subprocess.run(["umount", tmp_path / "mine"], check=True)
    assert (code, left) == (StorageError.exit_code, []), said


def test_a_file_without_a_model_has_no_candidates(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("x = 1\n")
    assert look_at_model("net.py", tmp_path) == Candidates(())


def _init(directory: Path, *arguments: str) -> tuple[int, str]:
    """Called as in a shell in that directory: exit code, and what it said on stderr."""
    here = Path.cwd()
    os.chdir(directory)
    try:
        return run("init", "mine", *arguments)
    finally:
        os.chdir(here)
