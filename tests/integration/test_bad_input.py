"""What people get wrong in settings and on the command line: one clear line, the documented exit code, no traceback."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.federations import Site, task_toml
from tests.processes import run
from tests.refusals import CONFIGURATION, DATA, EXPORT, STORAGE, TASK, refusal

# Configuration


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cohort": 2}, "key 'cohort' unknown"),
        ({"rouns": {"count": 2}}, "key 'rouns' unknown (did you mean 'rounds'?)"),
        ({"rounds": {"cohrt": 2}}, "key 'rounds.cohrt' unknown (did you mean 'rounds.cohort'?)"),
        ({"broker": {"tls": {"cafile": "x"}}}, "key 'broker.tls.cafile' unknown"),
        ({"rounds": {"quorum": 2}}, "rounds.quorum: expected `float` <= 1.0"),
        ({"rounds": {"deadline_s": 1e300}}, "rounds.deadline_s: expected `float` <= 1000000000.0"),
        ({"codec": {"update": "mask | int4"}}, "codec: 'int4' is unknown; known are mask, clip, feedback"),
        ({"codec": {"model_values": "int4"}}, "invalid value 'int4' (known here: fp16, fp32)"),
        ({"broker": "mqtt://gateway"}, "broker: expected `object`, got `str`"),
        ({"seed": "lucky"}, "seed: expected `int`, got `str`"),
        ({"name": "a/b"}, "name 'a/b': use 1 to 64 letters"),
    ],
)
def test_a_federation_toml_that_is_wrong(nowhere: Site, changes: dict[str, Any], said: str) -> None:
    config = nowhere.federation("run", **changes)

    for options in ([], ["--broker", "mqtt://127.0.0.1"]):
        assert said in refusal(CONFIGURATION, "aggregator", config, *options)
    assert not (nowhere.path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nmae": "pi-1"}, "key 'nmae' unknown (did you mean 'name'?)"),
        ({"broker": {"user": "pi-1"}}, "key 'broker.user' unknown (did you mean 'broker.username'?)"),
        ({"trainer": "torch"}, "trainer: invalid value 'torch' (known here: auto, keras, litert)"),
        ({"threads": 0}, "threads: expected `int` >= 1"),
        ({"broker": {"password_file": "secret"}}, "broker.password_file"),
        ({"broker": {"password_file": "."}}, "Is a directory; name a file whose first line is the password"),
        ({"broker": {"url": "mqtts://127.0.0.1", "tls": {"ca": "."}}}, "is a directory; name a PEM file"),
        ({"broker": {"url": "mqtts://127.0.0.1", "tls": {"ca": "ca.pem"}}}, "ca.pem: there is no such file"),
    ],
)
def test_an_agent_toml_that_is_wrong(nowhere: Site, changes: dict[str, Any], said: str) -> None:
    if "broker" in changes:
        changes = {"broker": {"username": "pi-1", **changes["broker"]}}
    assert said in refusal(CONFIGURATION, "agent", "--config", nowhere.agent("pi-1", **changes))


@pytest.mark.parametrize("name", ["100%", "pi 1", "a/b", ""])
def test_a_name_that_cannot_be_in_a_topic(nowhere: Site, name: str) -> None:
    said = refusal(CONFIGURATION, "agent", "--config", nowhere.agent("pi-1"), "--name", name)

    assert said == f"agent name {name!r}: use 1 to 64 letters, digits, '_' or '-'"


@pytest.mark.parametrize("text", [None, "= 3", "\xff\xfe"])
def test_files_that_are_no_toml(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "settings.toml"
    if text is not None:
        path.write_text(text, "latin-1")

    for command in (["aggregator"], ["agent", "--config"], ["task", "build", "--out", str(tmp_path / "x")]):
        assert str(path) in refusal(CONFIGURATION, *command, path)


def test_files_that_notepad_has_saved_are_read(tmp_path: Path) -> None:
    """With a byte order mark and Windows' ends of lines. In UTF-16 they are refused with what to do."""
    path = tmp_path / "settings.toml"
    for command in (["aggregator"], ["agent", "--config"], ["task", "build", "--out", str(tmp_path / "x")]):
        path.write_bytes(b"\xef\xbb\xbfnmae = 'x'\r\n")
        assert re.search("'nmae' unknown|name is missing", run(*command, path)[1])
        path.write_text("name = 'x'", "utf-16")
        assert refusal(CONFIGURATION, *command, path) == f"{path}: not text in UTF-8; save it in UTF-8"


# Folders where files should be, and the other way round


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["data", "split", "--source", "folder", "--out", "x"], DATA, "no .npy file is in it; name an .npz file"),
        (
            ["agent", "--name", "a", "--data", "folder"],
            DATA,
            "it holds no folder; put the files into a folder for each",
        ),
        (["task", "show", "folder"], STORAGE, "is a directory; name a .fedtask file"),
        (["task", "build", "folder", "--out", "x"], CONFIGURATION, "Is a directory; name a .toml file"),
        (["task", "build", "task.toml", "--out", "x"], TASK, "folder.keras: is a directory; model.file is a file"),
        (["aggregator", "folder"], CONFIGURATION, "Is a directory; name a .toml file"),
        (["export", "file"], STORAGE, "is not a directory; name the state directory of an aggregator"),
        (["export", "missing"], STORAGE, "there is no such directory; name the state directory of an aggregator"),
        (["export", "folder"], STORAGE, "no checkpoints/ in it; name the state directory of an aggregator"),
        (["benchmark", "folder"], EXPORT, "is not a file: give a .tflite file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_folder_is_not_called_a_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], code: int, said: str
) -> None:
    for name in ("folder", "folder.keras"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "task.toml").write_text(
        task_toml(4)
        .replace('builtin = "cnn-108k"', 'file = "folder.keras"')
        .replace("input_shape = [12, 12, 1]", "")
        .replace("outputs = 3", "")
    )
    monkeypatch.chdir(tmp_path)
    ended_with, lines = run(*command)

    assert ended_with == code, lines
    assert said in lines.splitlines()[-1]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("", "net.py has no function 'make'; model.file names one as file.py:function"),
        ("def make():\n    return 1 / 0", "net.py:make: ZeroDivisionError: division by zero (net.py, line 2); correct"),
        (
            "import tf_keras as k\nL = k.layers\ndef make():\n"
            "    return k.Sequential([L.Input((5, 2)), L.LocallyConnected1D(3, 1, name='its'), L.Dense(2)])",
            "layer 'its' (LocallyConnected1D): a layer of this kind is not supported; use layers of these: Activation",
        ),
    ],
    ids=["no function", "raises", "LocallyConnected1D"],
)
def test_a_model_of_ones_own_that_cannot_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    (tmp_path / "net.py").write_text(code)
    (tmp_path / "task.toml").write_text(
        task_toml(4)
        .replace('builtin = "cnn-108k"', 'file = "net.py:make"')
        .replace("input_shape = [12, 12, 1]", "")
        .replace("outputs = 3", "")
    )
    monkeypatch.chdir(tmp_path)
    ended_with, lines = run("task", "build", "task.toml", "--out", "task.fedtask")

    assert ended_with == TASK, lines
    assert said in lines.splitlines()[-1]
    assert not (tmp_path / "task.fedtask").exists()


@pytest.mark.parametrize("key", ["task", "held_out"])
def test_a_federations_files_that_are_folders(nowhere: Site, key: str) -> None:
    (nowhere.path / "folder").mkdir()
    code, said = (STORAGE, "is a directory; name a") if key == "task" else (DATA, "no .npy file is in it; name an .npz")

    assert f"folder: {said}" in refusal(code, "aggregator", nowhere.federation("run", **{key: "folder"}))


# Tasks


def test_a_task_that_is_missing_or_damaged(nowhere: Site, tiny_task: Path) -> None:
    damaged = nowhere.path / "damaged.fedtask"
    damaged.write_bytes(tiny_task.read_bytes()[:-100])

    assert "damaged.fedtask" in refusal(TASK, "aggregator", nowhere.federation("run", task="damaged.fedtask"))
    assert "missing.fedtask: there is no such file" in refusal(
        STORAGE, "aggregator", nowhere.federation("run", task="missing.fedtask")
    )
    assert not (nowhere.path / "run").exists()
