"""Debian devices with Arm processors, emulated, in a federation whose gateway and broker are this machine.

The first time takes a minute or two: each system is made of Debian's packages and kept in pytest's cache.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from keras_bundles import varied
from training_networks import training_graph

from aggregator.book import Book
from export.architecture import tensor_table
from export.proof.probes import make_self_check
from export.proof.reference import Reference
from fedprune.errors import ConfigurationError, ExportError
from fedprune.model.losses import Loss, Objective
from fedprune.task.run_directory import BOOK
from tests.brokers import MISSING, Mosquitto
from tests.emulation import BOOKWORM_32, BOOKWORM_64, TRIXIE_32, TRIXIE_64, Device, System, UnavailableError, make_image
from tests.federations import Site
from tests.patience import PATIENCE_S
from tests.processes import Child, run

_ROOT = Path(__file__).parents[2]
_SUPPORTED = [BOOKWORM_64.name, BOOKWORM_32.name, TRIXIE_64.name]
_FEDPRUNE = ("-m", "fedprune.command")
_ROUNDS = 3

_SAME_EVERYWHERE = (
    "unit/test_augmentation.py::test_augmented_images_are_the_same_on_every_machine",
    "unit/test_bundle.py::test_a_seed_gives_the_same_weights_everywhere",
    "unit/test_codecs_golden.py",
    "unit/test_graph_golden.py",
    "unit/test_masks.py::test_masks_are_the_same_on_every_machine",
    "unit/test_messages.py::test_bytes_have_not_drifted",
    "unit/test_randomness.py::test_golden_values",
)


@pytest.fixture(scope="module")
def make_device(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[System], Device | str]:
    """Makes a device of a system, or says why there is none."""
    cache = request.config.cache.mkdir("arm")

    def make(system: System) -> Device | str:
        try:
            image = make_image(system, cache)
        except UnavailableError as error:
            return str(error)
        return Device(system, image, wheel, tmp_path_factory.mktemp(system.name))

    return make


@pytest.fixture(scope="module")
def devices(make_device: Callable[[System], Device | str]) -> dict[str, Device | str]:
    """By the system's name: a device, or why there is none. They are made at the same time, which saves half of it."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(_SUPPORTED, pool.map(make_device, (BOOKWORM_64, BOOKWORM_32, TRIXIE_64)), strict=True))


@pytest.fixture(params=_SUPPORTED)
def device(request: pytest.FixtureRequest, devices: dict[str, Device | str]) -> Device:
    return available(devices[request.param])


def available(device: Device | str) -> Device:
    if isinstance(device, str):
        pytest.skip(device)
    return device


def runtime_of(system: System) -> str:
    return "tflite-runtime" if system.is_32_bit else "ai-edge-litert"


def inside(device: Device, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python there."""
    return subprocess.run((*device.python, *arguments), capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_it_is_the_system_it_is_called(device: Device) -> None:
    program = "import platform, struct, sys; print(platform.machine(), 8 * struct.calcsize('P'), sys.version[:4])"
    system = device.system
    done = inside(device, "-c", program)
    assert done.stdout.split() == [system.machine, "32" if system.is_32_bit else "64", system.python], done.stderr


def test_the_agents_extra_asks_for_what_is_there(device: Device) -> None:
    """The markers in pyproject.toml, evaluated where they count."""
    program = """
from importlib import metadata
from packaging.requirements import Requirement
wanted = [Requirement(text) for text in metadata.requires("fedprune")]
wanted = [needed for needed in wanted if needed.marker is None or needed.marker.evaluate({"extra": "agent"})]
for needed in wanted:
    assert needed.specifier.contains(metadata.version(needed.name)), needed
print(*[needed.name for needed in wanted if needed.marker])
"""
    done = inside(device, "-c", program)
    expected = {runtime_of(device.system), *(["numpy"] if device.system.is_32_bit else [])}
    assert set(done.stdout.split()) == expected, done.stderr


@pytest.mark.parametrize(
    "device",
    [BOOKWORM_64.name, BOOKWORM_32.name, pytest.param(TRIXIE_64.name, marks=pytest.mark.slow)],
    indirect=True,
)
def test_what_must_be_equal_on_every_machine_is(device: Device) -> None:
    """Keyed randomness, masks, codecs and messages against the digests and bytes that were fixed on x86-64."""
    shutil.copytree(_ROOT / "tests", device.home / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    ids = [device.name_of(device.home / "tests" / test) for test in _SAME_EVERYWHERE]
    # Rewriting assertions, so that they tell more, takes an emulator longer than the tests.
    options = ("-q", "-p", "no:cacheprovider", "--assert=plain", "--rootdir", device.name_of(device.home))
    done = inside(device, "-m", "pytest", *options, *ids)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def self_checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the training graph of a network that has most kinds of layers, and what TensorFlow answers."""
    directory, model = tmp_path_factory.mktemp("graph"), varied()
    objective, tensors = Objective(Loss.CATEGORICAL_CROSSENTROPY, from_logits=True), tensor_table(model)
    graph = training_graph(model, objective.loss, 4)
    (directory / "training.tflite").write_bytes(graph)
    (directory / "tensors.json").write_bytes(msgspec.json.encode(tensors))
    self_check = make_self_check(Reference(model, [objective]), tensors, graph, briefly=False)
    (directory / "self-check.json").write_bytes(msgspec.json.encode(self_check))
    return directory


def test_it_computes_what_tensorflow_does(device: Device, self_checked: Path) -> None:
    program = """
import sys
from pathlib import Path
import msgspec
from fedprune.runtime.self_check import SelfCheck, run_self_check
from fedprune.model.tensors import TensorSpec
from fedprune.runtime.training_graph import TrainingGraph
graph, tensors, self_check = (Path(sys.argv[1], name).read_bytes() for name in sys.argv[2:])
table = msgspec.json.decode(tensors, type=tuple[TensorSpec, ...])
run_self_check(TrainingGraph(graph, table, threads=1), table, msgspec.json.decode(self_check, type=SelfCheck))
"""
    directory = shutil.copytree(self_checked, device.home / "graph")
    files = ("training.tflite", "tensors.json", "self-check.json")
    done = inside(device, "-c", program, device.name_of(directory), *files)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Fleet:
    """A federation of all these devices that is over."""

    state: Path
    records: list[dict[str, Any]]
    said: dict[str, str]
    """By agent, what it said."""


@pytest.fixture(scope="module")
def fleet(devices: dict[str, Device | str], tiny_task: Path, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    if MISSING:
        pytest.skip(MISSING)
    present = {name: device for name in _SUPPORTED if isinstance(device := devices[name], Device)}
    if not present:
        pytest.skip("; ".join(sorted({str(devices[name]) for name in _SUPPORTED})))
    gateway = tmp_path_factory.mktemp("gateway")
    rounds = {"count": _ROUNDS, "cohort": len(present), "quorum": 1.0, "deadline_s": 300.0, "gather_s": 300.0}
    with Mosquitto(tmp_path_factory.mktemp("broker")) as broker, ExitStack() as stack:
        agents: dict[str, Child] = {}
        for name, device in present.items():
            # All that a device is given: its own data, its own state, and where the broker is.
            settings = Site(device.home, broker.url, tiny_task).agent(name, trainer="litert")
            agents[name] = stack.enter_context(
                Child("agent", "--config", device.name_of(settings), by=(*device.python, *_FEDPRUNE))
            )
        for agent in agents.values():
            agent.says("waiting for work")
        federation = Site(gateway, broker.url, tiny_task).federation("run", rounds=rounds)
        aggregator = stack.enter_context(Child("aggregator", federation, "--json"))
        records = [aggregator.reports() for _ in range(_ROUNDS)]
        assert aggregator.ends() == 0
    return Fleet(gateway / "run", records, {name: agent.stderr for name, agent in agents.items()})


def test_it_joins_trains_and_its_updates_are_accepted(device: Device, fleet: Fleet) -> None:
    book = Book.open(fleet.state / BOOK)
    assert all(device.system.name in book.accepted(number) for number in range(_ROUNDS))
    book.close()
    said = fleet.said[device.system.name]
    assert all(f"round {number + 1}: submitting" in said for number in range(_ROUNDS))
    assert "Traceback" not in said
    checked = json.loads((device.home / f"state-of-{device.system.name}" / "self-check.json").read_bytes())
    assert checked["runtime"] == runtime_of(device.system)


def test_the_rounds_are_like_any_others(fleet: Fleet) -> None:
    assert sum(record["ignored"] + record["refused"] for record in fleet.records) == 0
    assert fleet.records[-1]["sparsity"] > fleet.records[0]["sparsity"]
    assert fleet.records[-1]["loss"] < fleet.records[0]["loss"]


@pytest.fixture(scope="module")
def exported(fleet: Fleet) -> Path:
    code, said = run("export", fleet.state, "--formats", "fp32,int8")
    assert code == 0, said
    return fleet.state / "export"


def test_it_benchmarks_the_exported_model(device: Device, exported: Path) -> None:
    models = [Path(shutil.copy(exported / name, device.home)) for name in ("fp32.tflite", "int8.tflite")]
    names = [device.name_of(model) for model in models]

    done = inside(device, *_FEDPRUNE, "benchmark", "--num_runs", "3", "--warmup_runs", "1", "--json", "-", *names)

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["runtime"].split()[0] == runtime_of(device.system)
    assert [row["path"] for row in report["models"]] == names
    assert all(row["latency_ms"]["p50"] > 0 for row in report["models"])


@pytest.mark.slow
def test_where_no_runtime_exists_it_is_called_unsupported(make_device: Callable[[System], Device | str]) -> None:
    device = available(make_device(TRIXIE_32))
    for command in (("agent", "--name", "pi", "--data", "pi.npz"), ("benchmark", "model.tflite")):
        done = inside(device, *_FEDPRUNE, *command)
        assert done.returncode in (ConfigurationError.exit_code, ExportError.exit_code), done.stderr
        last = done.stderr.splitlines()[-1]
        assert last.endswith("unsupported: use 64-bit Arm or x86 (none for 32-bit Python 3.13 on armv7l)")
