"""Which trainer a device takes, by what is installed, its memory, and the task."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edge_agent.settings import AgentSettings
from edge_agent.trainers import choice
from edge_agent.trainers.choice import TrainerChoice, make_trainer, preferred_trainer
from fedprune.config import from_table
from fedprune.errors import ConfigurationError, TaskError
from fedprune.pruning.policy import MaskPolicy
from fedprune.runtime.tflite import advice_for
from tests.simulation.stand_ins import make_bundle

MISSING = {"keras": r"\.\[keras\]", "litert": "pip install ai-edge-litert"}


Device = Callable[[str, float], None]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Makes this a device that has some trainers installed, and so much memory."""

    def has(installed: str, memory_mb: float) -> None:
        monkeypatch.setattr(choice, "_is_installed", lambda name: name in installed.split())
        monkeypatch.setattr(choice, "device_memory_mb", lambda: memory_mb)

    return has

    return has


@pytest.mark.parametrize(
    ("installed", "memory_mb", "taken"),
    [
        ("keras litert", 1900, "keras"),
        ("keras litert", 950, "litert"),
        ("keras", 950, "keras"),
        ("litert", 8000, "litert"),
    ],
)
def test_auto_goes_by_what_is_installed_and_by_memory(
    device: Device, installed: str, memory_mb: float, taken: str
) -> None:
    device(installed, memory_mb)
    assert preferred_trainer("auto") == taken


@pytest.mark.parametrize(("asked", "missing"), [("keras", "keras"), ("litert", "litert"), ("auto", "litert")])
def test_what_is_missing_is_told_with_how_to_install_it(device: Device, asked: TrainerChoice, missing: str) -> None:
    device("", 8000)
    with pytest.raises(ConfigurationError, match=f"trainer {asked}: .*{MISSING[missing]}"):
        preferred_trainer(asked)


@pytest.mark.parametrize(
    ("machine", "bits", "python", "advice"),
    [
        ("x86_64", 64, (3, 13), "pip install ai-edge-litert"),
        ("aarch64", 64, (3, 11), "pip install ai-edge-litert"),
        ("arm64", 64, (3, 12), "pip install ai-edge-litert"),
        ("riscv64", 64, (3, 13), "unsupported: use 64-bit Arm or x86 (none for 64-bit Python 3.13 on riscv64)"),
        ("armv7l", 32, (3, 11), "pip install tflite-runtime 'numpy<2'"),
        ("aarch64", 32, (3, 11), "pip install tflite-runtime 'numpy<2'"),  # 32-bit Debian under a 64-bit kernel
        ("armv8l", 32, (3, 11), "pip install tflite-runtime 'numpy<2'"),  # the same, asked through `linux32`
        ("armv7l", 32, (3, 13), "unsupported: use 64-bit Arm or x86 (none for 32-bit Python 3.13 on armv7l)"),
        ("aarch64", 32, (3, 12), "unsupported: use 64-bit Arm or x86 (none for 32-bit Python 3.12 on aarch64)"),
        ("armv6l", 32, (3, 11), "unsupported: use 64-bit Arm or x86 (none for 32-bit Python 3.11 on armv6l)"),
        ("i686", 32, (3, 11), "unsupported: use 64-bit Arm or x86 (none for 32-bit Python 3.11 on i686)"),
    ],
)
def test_where_no_runtime_exists_none_is_recommended(
    machine: str, bits: int, python: tuple[int, int], advice: str
) -> None:
    assert advice_for(machine, bits, python) == advice


def test_a_task_without_a_training_graph_cannot_be_trained_by_litert(device: Device) -> None:
    bundle = make_bundle(MaskPolicy.SHARED)
    assert not bundle.graphs
    device("litert", 8000)
    with pytest.raises(TaskError, match="no training graph; train it with the keras trainer"):
        make_trainer("auto", bundle, examples=50, threads=1)


def test_agents_choose_by_themselves_unless_told() -> None:
    table = {"name": "pi-1", "data": "pi-1.npz"}
    assert from_table(table, AgentSettings, "agent.toml").trainer == "auto"
    assert from_table({**table, "trainer": "litert"}, AgentSettings, "agent.toml").trainer == "litert"
