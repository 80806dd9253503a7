"""What people get wrong: one clear line, the documented exit code, no traceback, nothing lost."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from aggregator.book import Book, RoundRecord
from fedprune.task.bundle import load_bundle, write_bundle
from fedprune.task.run_directory import BOOK, CHECKPOINTS
from tests.brokers import MISSING, Mosquitto, free_port, make_password_file, settings_without_subscriptions
from tests.federations import Site, examples, task_toml
from tests.processes import Child, run

CONFIGURATION, DATA, TASK, BROKER, STORAGE, TRAINING, EXPORT = 3, 4, 5, 6, 7, 9, 10
_LOG_LINE = re.compile(r"\d\d:\d\d:\d\d [\w-]+: ")

needs_mosquitto = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def line_of(said: str) -> str:
    """The one line that was said besides the log."""
    lines = [line for line in said.splitlines() if line and not _LOG_LINE.match(line)]
    assert len(lines) == 1, said
    assert lines[0].startswith("fedprune: ")
    return lines[0].removeprefix("fedprune: ")


def refusal(code: int, *arguments: str | Path, env: dict[str, str] | None = None, largest_file: int = 0) -> str:
    """What a command says as it ends with `code`."""
    ended_with, said = run(*arguments, env=env, largest_file=largest_file)
    assert ended_with == code, said
    return line_of(said)


@pytest.fixture
def nowhere(tmp_path: Path, tiny_task: Path) -> Site:
    """A site whose broker does not run."""
    return Site(tmp_path, f"mqtt://127.0.0.1:{free_port()}", tiny_task)


@pytest.fixture
def site(tmp_path: Path, mosquitto: Mosquitto, tiny_task: Path) -> Site:
    return Site(tmp_path, mosquitto.url, tiny_task)


def contents(directory: Path) -> dict[str, str]:
    """Every file, by its digest."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


# Brokers


def test_a_broker_that_does_not_run_is_waited_for_and_that_is_said_once(tmp_path: Path, tiny_task: Path) -> None:
    """As at boot, when the device is faster than its network."""
    with Mosquitto(tmp_path) as mosquitto:
        site = Site(tmp_path, mosquitto.url, tiny_task)
        mosquitto.stop()
        expected = (
            f"broker {site.url}: Connection refused; is it running there, and the port right? (trying again until"
        )
        with (
            Child("agent", "--config", site.agent("pi-1")) as agent,
            Child("aggregator", site.federation("run")) as aggregator,
        ):
            for process in (agent, aggregator):
                process.says(expected)
            mosquitto.start()
            agent.says("connected")
            aggregator.says("waiting for 2 agents")
            assert [process.stderr.count("(trying again") for process in (agent, aggregator)] == [1, 1]


def test_nobody_has_to_wait_for_a_broker_that_does_not_run(nowhere: Site) -> None:
    with Child("agent", "--config", nowhere.agent("pi-1")) as agent:
        agent.says("(trying again")
        agent.interrupt()
        assert agent.ends() == 130


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("gateway.local", CONFIGURATION, "broker address 'gateway.local': write mqtt://HOST[:PORT]"),
        ("http://gateway.local", CONFIGURATION, "broker address 'http://gateway.local': write mqtt://HOST[:PORT]"),
        ("mqtt://gateway.local:mqtt", CONFIGURATION, "write mqtt://HOST[:PORT]"),
        ("mqtt://pi:secret@gateway.local", CONFIGURATION, "put the user name in broker.username"),
        ("mqtt://gateway..local", BROKER, "no host can be called so; check the address"),
    ],
)
def test_a_broker_address_that_is_wrong(nowhere: Site, url: str, code: int, said: str) -> None:
    assert said in refusal(code, "agent", "--config", nowhere.agent("pi-1"), "--broker", url)


@contextmanager
def web_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"mqtt://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_something_else_where_the_broker_should_be(nowhere: Site) -> None:
    with web_server() as url:
        said = refusal(BROKER, "agent", "--config", nowhere.agent("pi-1"), "--broker", url)
    assert "is this an MQTT 3.1.1 broker" in said


@needs_mosquitto
def test_a_broker_that_wants_another_password(tmp_path: Path, tiny_task: Path) -> None:
    make_password_file(tmp_path / "passwords", "pi-1", "open sesame")
    (tmp_path / "password").write_text("open barley\n")
    with Mosquitto(tmp_path, "allow_anonymous false", f"password_file {tmp_path / 'passwords'}") as mosquitto:
        site = Site(tmp_path, mosquitto.url, tiny_task)
        anonymous = {"url": mosquitto.url}
        for broker in (anonymous, {**anonymous, "username": "pi-1", "password_file": "password"}):
            said = refusal(BROKER, "agent", "--config", site.agent("pi-1", broker=broker))
            assert said.startswith(f"broker {mosquitto.url}: not authorized; check broker.username, the password and")
        config = site.agent("pi-1", broker={**anonymous, "username": "pi-1"})
        with Child("agent", "--config", config, env={"FEDPRUNE_BROKER_PASSWORD": "open sesame"}) as agent:
            agent.says("connected")


@needs_mosquitto
def test_a_broker_that_lets_nobody_subscribe(tmp_path: Path, tiny_task: Path) -> None:
    with Mosquitto(tmp_path, *settings_without_subscriptions(tmp_path)) as mosquitto:
        site = Site(tmp_path, mosquitto.url, tiny_task)
        for command in (["agent", "--config", site.agent("pi-1")], ["aggregator", site.federation("run")]):
            assert "may not subscribe; check its access list" in refusal(BROKER, *command)


# Data


def _npz(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros((2, 12, 12, 1)), "y": np.zeros(2, int)}, "no array 'x'"),
        ({"x": np.zeros((2, 12, 12, 1))}, "no array 'y'"),
        ({"x": np.zeros((2, 12, 12, 1)), "y": np.zeros(3, int)}, "x has 2 examples and y has 3 labels"),
        ({"x": np.zeros((2, 12, 12, 1)), "y": np.array(1)}, "y has shape (); it must be [examples, ...]"),
        ({"x": np.zeros(2), "y": np.zeros(2, int)}, "it must be [examples, ...]"),
        ({"x": np.full((2, 4), np.nan), "y": np.zeros(2, int)}, "2 examples of x hold NaN"),
        ({"x": np.zeros((0, 12, 12, 1)), "y": np.zeros(0, int)}, "it is empty"),
        ({"x": np.zeros((2, 4)), "y": np.array([0, -1])}, "label -1 in y is out of range"),
        ({"x": np.zeros((2, 4)), "y": np.array([0.5, np.nan])}, "1 examples of y hold NaN"),
        ({"x": np.zeros((2, 4)), "y": np.array(["cat", "dog"])}, "save class numbers as int64"),
        ({"x": np.array(["a", "b"], object).reshape(2, 1), "y": np.zeros(2, int)}, "x is object"),
    ],
)
def test_data_that_cannot_be_used(nowhere: Site, arrays: dict[str, Any], said: str) -> None:
    config = nowhere.agent("pi-1")
    _npz(nowhere.path / "pi-1.npz", **arrays)

    line = refusal(DATA, "agent", "--config", config)

    assert line.startswith(f"{nowhere.path / 'pi-1.npz'}: ")
    assert said in line


@pytest.mark.parametrize("damage", [None, b"", b"noise", b"PK\x03\x04 and no more"])
def test_data_files_that_are_none(nowhere: Site, damage: bytes | None) -> None:
    config = nowhere.agent("pi-1")
    path = nowhere.path / "pi-1.npz"
    path.unlink() if damage is None else path.write_bytes(damage)

    assert refusal(DATA, "agent", "--config", config).startswith(f"{path}: ")


def _misfits() -> list[tuple[dict[str, Any], str]]:
    good = examples(6, 1)
    return [
        ({"x": good.x, "y": good.y + 5}, "label 7 is out of range: the task's model has 3 classes, 0 to 2"),
        ({"x": good.x, "y": np.eye(3)[good.y]}, "y does not hold class numbers, integers [examples], "),
        ({"x": good.x[:, :10], "y": good.y}, "an example of x is 10x12x1, the task's model takes 12x12x1"),
    ]


@pytest.mark.parametrize(("arrays", "said"), _misfits(), ids=["labels", "one-hot", "shape"])
def test_held_out_data_that_do_not_fit_the_model(nowhere: Site, arrays: dict[str, Any], said: str) -> None:
    config = nowhere.federation("run")
    _npz(nowhere.path / "held-out.npz", **arrays)

    assert said in refusal(DATA, "aggregator", config)
    assert not (nowhere.path / "run").exists()


@needs_mosquitto
@pytest.mark.parametrize(("arrays", "said"), _misfits(), ids=["labels", "one-hot", "shape"])
def test_an_agents_data_that_do_not_fit_the_model(site: Site, arrays: dict[str, Any], said: str) -> None:
    """A person reads the reason on both sides; the agent stays, for a federation that its data fit."""
    federation = site.federation("run", rounds={"cohort": 1, "count": 1, "deadline_s": 1.0})
    config = site.agent("pi-1")
    _npz(site.path / "pi-1.npz", **arrays)
    with Child("aggregator", federation) as aggregator, Child("agent", "--config", config) as agent:
        assert said in agent.says("cannot train: ")
        assert said in aggregator.says("pi-1 cannot do round 1: ")
        assert aggregator.ends() == TRAINING
        assert "1 agents failed and none succeeded" in line_of(aggregator.stderr)
        agent.interrupt()
        assert agent.ends() == 130
        assert "Traceback" not in agent.stderr


@needs_mosquitto
def test_an_agent_fails_with_the_name_of_a_file_whatever_bytes_are_in_it(site: Site) -> None:
    """Messages hold text. A file's name need not be text."""
    federation = site.federation("run", rounds={"cohort": 1, "count": 1, "deadline_s": 1.0})
    data = site.path / os.fsdecode(b"caf\xe9.npz")
    config = site.agent("pi-1")
    (site.path / "pi-1.npz").rename(data)
    with Child("agent", "--config", config, "--data", data) as agent:
        agent.says("connected")
        data.write_bytes(b"noise")
        with Child("aggregator", federation) as aggregator:
            assert r"xe9.npz: not a readable .npz" in aggregator.says("pi-1 cannot do round 1: ")
        agent.interrupt()
        assert agent.ends() == 130
        assert "Traceback" not in agent.stderr


@needs_mosquitto
@pytest.mark.parametrize("scale", [1e6, 1e30])
def test_training_that_diverges_on_one_device_tells_the_scale_of_its_data_on_both_sides(
    site: Site, scale: float
) -> None:
    config = site.agent("pi-1")
    good = examples(24, 1)
    _npz(site.path / "pi-1.npz", x=good.x / np.abs(good.x).max() * np.float32(-scale), y=good.y)
    federation = site.federation("run", rounds={"cohort": 1, "count": 1, "deadline_s": 1.0})
    with Child("aggregator", federation) as aggregator, Child("agent", "--config", config) as agent:
        for said in (agent.says("cannot train: "), aggregator.says("pi-1 cannot do round 1: ")):
            assert "training diverged: " in said
            assert "lower the task's learning rate, or scale this device's examples as the others': their" in said
            assert f"largest |x| is {scale:.3g}" in said


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


# What is on the disk


@pytest.fixture
def begun(site: Site) -> Path:
    """The configuration of a run that has been started: ``run`` holds its state."""
    config = site.federation("run")
    with Child("aggregator", config) as aggregator:
        aggregator.says("waiting for 2 agents")
        aggregator.interrupt()
    return config


def _finish_round(state: Path) -> None:
    """Let the book say that round 1 is over."""
    book = Book.open(state / BOOK)
    book.assign(0, {"pi-1": 24, "pi-2": 24}, 240)
    book.finish(RoundRecord(0, 2, 1, 1.0, {}, {}, 0.0, 1, 1, 1.0, 1.0, 1.0, 0, 0, 0, 1.0, True, 0, (), (), 0.0, 0.0))
    book.close()


def _renamed(task: Path, directory: Path) -> Path:
    """The same task under another name: another task."""
    bundle = load_bundle(task)
    weights = None if bundle.task.initial else bundle.initial_weights()
    other = directory / "other.fedtask"
    other.write_bytes(
        write_bundle(
            msgspec.structs.replace(bundle.task, name="other"),
            network=bundle.network,
            weights=weights,
            graphs=bundle.graphs,
        )
    )
    return other


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        (8, "the run of 8 rounds will end at sparsity 0.80"),
        (2, "will end at sparsity 0.63, not at the task's target 0.80; set rounds.count to 5, or build the task with"),
    ],
)
def test_the_sparsity_that_a_run_will_end_with_is_said_when_it_starts(nowhere: Site, rounds: int, said: str) -> None:
    with Child("aggregator", nowhere.federation("run", rounds={"cohort": 1, "count": rounds})) as aggregator:
        aggregator.says(said)
        aggregator.interrupt()


@needs_mosquitto
def test_a_run_of_another_task_is_not_touched(begun: Path, site: Site, tiny_task: Path) -> None:
    before = contents(begun.parent / "run")

    other = Site(site.path, site.url, _renamed(tiny_task, site.path))
    said = refusal(STORAGE, "aggregator", other.federation("run"))

    assert said.startswith("the state directory holds a run of another task; name an empty ")
    after = contents(begun.parent / "run")
    changed = {name for name in before if after[name] != before[name]}
    assert changed <= {BOOK, ".owner"}, "but for the book's count of starts, and who owned the directory last"


@needs_mosquitto
def test_a_checkpoint_that_is_damaged_or_missing(begun: Path, site: Site) -> None:
    state = site.path / "run"
    checkpoint = state / CHECKPOINTS / "000001.safetensors"
    _finish_round(state)

    assert "000001.safetensors is missing; restore it" in refusal(STORAGE, "aggregator", begun)
    checkpoint.write_bytes((state / CHECKPOINTS / "000000.safetensors").read_bytes()[:-1])
    before = contents(state / CHECKPOINTS)
    for command in (["aggregator", begun], ["export", state]):
        assert "000001.safetensors is damaged" in refusal(STORAGE, *command)
    assert contents(state / CHECKPOINTS) == before


@needs_mosquitto
@pytest.mark.parametrize("damage", [b"not a database, but long enough to be taken for one" * 100, b"short"])
def test_a_book_that_is_damaged(begun: Path, site: Site, damage: bytes) -> None:
    book = site.path / "run" / BOOK
    for journal in book.parent.glob(f"{BOOK}-*"):
        journal.unlink()
    book.write_bytes(damage)

    assert refusal(STORAGE, "aggregator", begun).startswith("the book: file is not a database")
    assert book.read_bytes() == damage


def test_a_directory_without_a_run_cannot_be_exported(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(STORAGE, "export", tmp_path)


def test_a_memory_that_is_damaged(nowhere: Site) -> None:
    config = nowhere.agent("pi-1")
    state = nowhere.path / "state-of-pi-1"
    state.mkdir()
    (state / "agent.json").write_text("{")

    assert "agent.json: " in refusal(STORAGE, "agent", "--config", config)
    assert (state / "agent.json").read_text() == "{"


def test_a_memory_that_is_another_agents(nowhere: Site) -> None:
    config = nowhere.agent("pi-1")
    state = nowhere.path / "state-of-pi-1"
    state.mkdir()
    (state / "agent.json").write_text('{"format": 7, "agent": "pi-7", "federation": "greenhouse"}')

    assert refusal(STORAGE, "agent", "--config", config) == (
        "this state directory belongs to agent pi-7 of federation greenhouse; name another with --state"
    )


def test_a_memory_of_another_version(nowhere: Site) -> None:
    config = nowhere.agent("pi-1")
    state = nowhere.path / "state-of-pi-1"
    state.mkdir()
    (state / "memory.json").write_text("{}")

    said = refusal(STORAGE, "agent", "--config", config)
    assert said.startswith("this state directory was written by another version of fedprune; ")


def test_a_file_where_a_directory_should_be(nowhere: Site) -> None:
    for config, command in (
        (nowhere.agent("pi-1", state="occupied"), ["agent", "--config"]),
        (nowhere.federation("occupied"), ["aggregator"]),
    ):
        (nowhere.path / "occupied").write_text("")
        assert "occupied: a file is where this directory should be" in refusal(STORAGE, *command, config)


@needs_mosquitto
@pytest.mark.parametrize("room", [1, 6, 20], ids=lambda room: f"{room} kB")
def test_a_full_disk_on_the_gateway(site: Site, room: int) -> None:
    config = site.federation("run")

    said = refusal(STORAGE, "aggregator", config, largest_file=room)

    assert re.search("File too large|full|disk I/O", said)
    assert "nothing is lost" in said
    assert not list((site.path / "run").rglob(".*.draft"))
    with Child("aggregator", config) as aggregator:
        aggregator.says("waiting for 2 agents")


@needs_mosquitto
def test_a_full_disk_on_a_device(site: Site) -> None:
    federation = site.federation("run", rounds={"cohort": 1, "count": 1})
    with Child("aggregator", federation) as aggregator:
        aggregator.says("waiting for 1 agents")
        said = refusal(STORAGE, "agent", "--config", site.agent("pi-1"), largest_file=2)
        aggregator.says("pi-1 cannot do round 1: ")
    assert "File too large; free space" in said
    assert [path.name for path in (site.path / "state-of-pi-1").iterdir()] == [".owner"]
