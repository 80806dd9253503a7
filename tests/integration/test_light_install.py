"""The aggregator and the agent, training included, run where TensorFlow is not installed: on a gateway or a device.

The environments are made from requirements/aggregator.txt and agent.txt and the wheel of this very tree. One thing is
borrowed from the full installation: a task bundle, which in a real federation was made on a workstation as well.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from benchmarks.agent_memory.environments import make_environment
from export.settings import ConstantSettings, ModelSettings, PruningSettings, TaskSettings
from fedprune.data import Dataset, save_npz
from fedprune.data.description import Table
from fedprune.errors import BrokerError, ConfigurationError
from fedprune.graph.inference import write_inference_graph
from fedprune.task.bundle import Bundle, load_bundle, read_bundle
from fedprune.task.training import Training
from tests.brokers import MISSING, Mosquitto, free_port
from tests.exported import LABELS, exported
from tests.federations import Site
from tests.patience import PATIENCE_S
from tests.processes import Child
from tests.shared import locked

_TENSORFLOW = {"tensorflow", "keras", "tf_keras", "tensorflow_model_optimization"}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def _run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


@pytest.fixture(scope="session")
def installed(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Makes an environment of what a requirements file pins, and the wheel, and says where its scripts are. What is
    pinned is installed once, and kept in pytest's cache until a pin changes."""
    cache = request.config.cache.mkdir("environments")

    def install(requirements: str) -> Path:
        kept, path = cache / requirements, tmp_path_factory.mktemp("environment") / requirements
        with locked(cache / f"{requirements}.lock"):
            make_environment(kept, requirements, None)
            shutil.copytree(kept, path, symlinks=True)
        return make_environment(path, requirements, wheel).path / "bin"

    return install


@pytest.fixture(scope="session")
def gateway(installed: Callable[[str], Path]) -> Path:
    """The scripts' directory of a gateway's environment."""
    return installed("aggregator.txt")


@pytest.fixture(scope="session")
def device(installed: Callable[[str], Path]) -> Path:
    """The scripts' directory of a device's environment."""
    return installed("agent.txt")


@pytest.fixture
def on_gateway(gateway: Path, tmp_path: Path) -> Run:
    """Run a script of the gateway's, in `tmp_path`."""
    return lambda script, *arguments: _run(gateway / script, *arguments, cwd=tmp_path)


@pytest.fixture
def on_device(device: Path, tmp_path: Path) -> Run:
    """Run a script of the device's, in `tmp_path`."""
    return lambda script, *arguments: _run(device / script, *arguments, cwd=tmp_path)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    from export.build import build_task  # imports TensorFlow, which most tests here can do without

    model = ModelSettings(builtin="cnn-108k", input_shape=(14, 14, 1), outputs=3)
    pruning = PruningSettings(ConstantSettings(begin_step=0, frequency=5, target_sparsity=0.5))
    return read_bundle(build_task(TaskSettings("light", model, Training(5), pruning), Path()))


@pytest.fixture
def refusing_broker() -> Iterator[str]:
    """The address of something that hangs up on everybody: one that nobody listens at would be waited for."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            with suppress(OSError):  # the listener is closed
                while True:
                    listener.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        yield f"mqtt://127.0.0.1:{listener.getsockname()[1]}"


def _save_examples(path: Path, bundle: Bundle, count: int = 6) -> None:
    x = np.zeros((count, *bundle.network.inputs[0]), np.float32)
    save_npz(path, Dataset(x, np.arange(count) % bundle.task.outputs[0].shape[-1]))


def test_the_wheel_holds_the_packages_and_no_tests(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "fedprune",
        "edge_agent",
        "aggregator",
        "export",
        "benchmarks",
    }


def test_tensorflow_is_not_there(on_gateway: Run, on_device: Run) -> None:
    for module in _TENSORFLOW:
        for run in (on_gateway, on_device):
            assert f"No module named '{module}'" in run("python", "-c", f"import {module}").stderr


@pytest.mark.parametrize("command", ["aggregator", "agent", "benchmark", "export", "task build", "task show"])
def test_commands_explain_themselves(on_gateway: Run, command: str) -> None:
    done = on_gateway("fedprune", *command.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert f"Usage: fedprune {command} " in done.stdout


def test_the_aggregator_opens_a_task_and_gets_as_far_as_the_broker(
    on_gateway: Run, bundle: Bundle, refusing_broker: str, tmp_path: Path
) -> None:
    (tmp_path / "light.fedtask").write_bytes(bundle.blob)
    _save_examples(tmp_path / "held-out.npz", bundle)
    (tmp_path / "federation.toml").write_text(
        f'task = "light.fedtask"\nheld_out = "held-out.npz"\nstate = "run"\nbroker.url = "{refusing_broker}"\n'
    )
    done = on_gateway("fedprune", "aggregator", "federation.toml")
    assert done.returncode == BrokerError.exit_code, done.stdout + done.stderr
    assert refusing_broker in done.stderr


def test_a_device_shares_data_out_and_shows_what_a_task_holds(on_device: Run, bundle: Bundle, tmp_path: Path) -> None:
    """In plain text: rich is not there either."""
    assert "No module named 'rich'" in on_device("python", "-c", "import rich").stderr
    (tmp_path / "light.fedtask").write_bytes(bundle.blob)
    _save_examples(tmp_path / "data.npz", bundle, 30)

    split = on_device(
        "fedprune", "data", "split", "--source", "data.npz", "--examples-per-agent", "2", "--out", "shares"
    )
    shown = on_device("fedprune", "task", "show", "light.fedtask")

    assert split.returncode == 0, split.stderr
    assert "agent-1.npz" in split.stdout
    assert shown.returncode == 0, shown.stderr
    assert "light" in shown.stdout


def test_weights_are_evaluated(on_gateway: Run, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "light.fedtask").write_bytes(bundle.blob)
    _save_examples(tmp_path / "held-out.npz", bundle)
    program = """
from pathlib import Path
from fedprune.task.bundle import load_bundle
from fedprune.task.evaluation import Evaluator
bundle = load_bundle(Path("light.fedtask"))
print(Evaluator(bundle, Path("held-out.npz"), threads=1).evaluate(bundle.initial_weights()).examples)
"""
    done = on_gateway("python", "-c", program)
    assert done.stdout == "6\n", done.stderr


def test_models_are_benchmarked(on_device: Run, bundle: Bundle, tmp_path: Path) -> None:
    graph = write_inference_graph(bundle.network, bundle.initial_weights(), 1)
    (tmp_path / "model.tflite").write_bytes(graph)
    done = on_device("fedprune", "benchmark", "model.tflite", "--num_runs", "2", "--warmup_runs", "0")
    assert done.returncode == 0, done.stderr
    assert "model.tflite" in done.stdout


def test_an_exported_file_is_all_that_a_device_needs_to_answer_raw_data(on_device: Run, tmp_path: Path) -> None:
    exported(tmp_path, Table(("t", "h"), "state", LABELS), (2,))
    (tmp_path / "today.csv").write_text("h,t\n1,2\n")
    done = on_device("fedprune", "predict", "model.tflite", "--data", "today.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("today.csv, line 2: ")


def test_the_doctor_examines_a_device_and_a_gateway(
    on_device: Run, on_gateway: Run, bundle: Bundle, tmp_path: Path
) -> None:
    site = Site(tmp_path, f"mqtt://127.0.0.1:{free_port()}", tmp_path / "light.fedtask")
    site.task.write_bytes(bundle.blob)
    for run, config in ((on_device, site.agent("pi-1")), (on_gateway, site.federation("run"))):
        done = run("fedprune", "doctor", config, "--json")
        verdicts = {finding["check"]: finding["verdict"] for finding in json.loads(done.stdout)}
        assert verdicts["runtime"] == verdicts["clock"] == verdicts["disk"] == "ok", done.stdout
        assert verdicts["port"] == "failed"
        assert "Traceback" not in done.stderr


def test_the_agent_gets_as_far_as_the_broker(
    on_device: Run, bundle: Bundle, refusing_broker: str, tmp_path: Path
) -> None:
    _save_examples(tmp_path / "data.npz", bundle)
    done = on_device("fedprune", "agent", "--name", "pi-1", "--data", "data.npz", "--broker", refusing_broker)
    assert done.returncode == BrokerError.exit_code, done.stdout + done.stderr
    assert refusing_broker in done.stderr


def test_a_round_is_trained(on_device: Run, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "light.fedtask").write_bytes(bundle.blob)
    _save_examples(tmp_path / "data.npz", bundle)
    program = """
from pathlib import Path
from edge_agent.trainers import Work
from edge_agent.trainers.choice import make_trainer
from fedprune.task.bundle import load_bundle
from fedprune.data import load_npz
from fedprune.pruning.masks import full_mask
from fedprune.model.randomness import Keyed
bundle = load_bundle(Path("light.fedtask"))
work = Work(bundle.initial_weights(), full_mask(bundle.task.table), 0, None, Keyed(1))
data = load_npz(Path("data.npz"))
trained = make_trainer("auto", bundle, examples=len(data), threads=1).train(work, data)
print(0.1 < trained.loss < 10)
"""
    done = on_device("python", "-c", program)
    assert done.stdout == "True\n", done.stderr


def test_the_keras_trainer_asks_for_its_extra(on_device: Run, bundle: Bundle, tmp_path: Path) -> None:
    _save_examples(tmp_path / "data.npz", bundle)
    done = on_device("fedprune", "agent", "--name", "pi-1", "--data", "data.npz", "--trainer", "keras")
    assert done.returncode == ConfigurationError.exit_code, done.stdout + done.stderr
    assert "pip install '.[keras]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


WATCHED = """
import os, sys
log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT)
def watch(event, arguments):
    if event in ("open", "import"):
        os.write(log, f"{event} {arguments[0]}\\n".encode(errors="surrogateescape"))
sys.addaudithook(watch)
from fedprune.command import main
main()
"""
"""The program, which writes down what Python code opens and imports."""


@dataclass(frozen=True)
class Watched:
    """An agent's life, from its start to its stop with a round in between, as Python saw it."""

    imported: set[str]
    """Top-level modules."""
    opened: set[Path]
    mapped: str
    """The files that its memory mapped in the end."""
    state: Path
    task: Bundle


@pytest.fixture(scope="module", params=["light", "full"])
def watched(
    request: pytest.FixtureRequest, device: Path, tiny_task: Path, tmp_path_factory: pytest.TempPathFactory
) -> Watched:
    """It trains with litert: where TensorFlow is not installed, and where it is."""
    home = tmp_path_factory.mktemp(request.param)
    scripts = device if request.param == "light" else Path(sys.executable).parent
    program = (str(scripts / "python"), "-c", WATCHED, str(home / "log"))
    if MISSING:
        pytest.skip(MISSING)
    with Mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        site = Site(home, broker.url, tiny_task)
        federation = site.federation("run", rounds={"count": 1, "cohort": 1})
        with (
            Child("agent", "--config", site.agent("pi-1", trainer="litert"), by=program) as agent,
            Child("aggregator", federation) as aggregator,
        ):
            assert aggregator.ends() == 0
            mapped = agent.mapped()
            agent.interrupt()
            agent.ends()
    events = [line.partition(" ") for line in (home / "log").read_text(errors="surrogateescape").splitlines()]
    return Watched(
        imported={what.partition(".")[0] for event, _, what in events if event == "import"},
        opened={Path(what) for event, _, what in events if event == "open"},
        mapped=mapped,
        state=home / "state-of-pi-1",
        task=load_bundle(tiny_task),
    )


def test_an_agent_that_trains_on_litert_has_nothing_of_tensorflow(watched: Watched) -> None:
    assert {"edge_agent", "numpy", "ai_edge_litert"} <= watched.imported
    assert not _TENSORFLOW & watched.imported
    assert "ai_edge_litert" in watched.mapped
    for files in (*map(str, watched.opened), watched.mapped):
        assert not [module for module in _TENSORFLOW if f"/{module}/" in files]


def test_an_agent_runs_the_graph_that_it_wrote_and_none_that_it_was_sent(watched: Watched) -> None:
    """Nothing that was sent holds a graph, and the only one that is opened is the device's own."""
    written = watched.state / "training-graph.tflite"
    digests = {graph.sha256 for graph in watched.task.graphs}

    assert sha256(written.read_bytes()).hexdigest() in digests
    inside = [path for path in watched.opened if path.is_relative_to(watched.state)]
    assert {path for path in inside if path.is_file()}, "what it was sent, and its own"
    for path in (*watched.opened, *watched.state.rglob("*")):
        if path.suffix == ".tflite" or (path in inside and path.is_file() and b"TFL3" in path.read_bytes()):
            assert path == written
    assert b"TFL3" not in watched.task.blob


@pytest.mark.parametrize("module", ["aggregator.process", "fedprune.task.evaluation"])
def test_a_gateway_imports_no_tensorflow_where_it_is_installed_either(module: str, tmp_path: Path) -> None:
    program = f"import sys, {module}; print(*sorted({_TENSORFLOW} & sys.modules.keys()))"
    done = _run(sys.executable, "-c", program, cwd=tmp_path)
    assert done.stdout == "\n", done.stderr
