"""The import rules of pyproject.toml are not vacuous: each is broken in a copy of the project, and reported."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("fedprune", "edge_agent", "aggregator", "export", "benchmarks")

_BREACHES = {
    "fedprune.breach_1": "edge_agent.agent_machine",
    "fedprune.breach_2": "aggregator.round_machine",
    "fedprune.breach_3": "export.settings",
    "fedprune.breach_4": "benchmarks.latency",
    "edge_agent.breach_1": "aggregator.round_machine",
    "aggregator.breach_1": "edge_agent.agent_machine",
    "aggregator.breach_2": "export.settings",
    "export.breach_1": "aggregator.round_machine",
    "export.breach_2": "benchmarks.latency",
    "edge_agent.breach_9": "aggregator.sub_gateway.process",
    "aggregator.sub_gateway.breach_1": "benchmarks.latency",
    "edge_agent.breach_2": "tests",
    "aggregator.breach_3": "paho",
    "edge_agent.breach_3": "amqtt",
    "export.breach_3": "tensorflow",
    "benchmarks.breach_1": "keras",
    "aggregator.breach_4": "fedprune.keras.stack",
    "edge_agent.breach_4": "fedprune.keras.model",
    "edge_agent.breach_5": "rich",
    "fedprune.model.breach_5": "fedprune.data.dataset",
    "fedprune.wire.breach_6": "fedprune.codecs.rice",
    "fedprune.task.breach_7": "fedprune.wire.topics",
    "fedprune.graph.breach_8": "fedprune.task.bundle",
    "fedprune.network.breach_9": "fedprune.graph.graph",
    "edge_agent.breach_6": "fedprune.keras.layers",
    "edge_agent.breach_8": "PIL",
    "fedprune.identity.breach_10": "fedprune.task.bundle",
    "edge_agent.breach_7": "fedprune.identity.certificates",
    "aggregator.breach_5": "cryptography",
}
"""Which module imports what it may not."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What import-linter says of a copy of the project in which every rule is broken."""
    copy = tmp_path_factory.mktemp("breached")
    for package in _PACKAGES:
        shutil.copytree(_ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(_ROOT / "pyproject.toml", copy)
    for importer, imported in _BREACHES.items():
        # In a function, as TensorFlow is imported where it is allowed: being lazy is no excuse.
        source = f"def late() -> None:\n    import {imported}\n"
        copy.joinpath(*importer.split(".")).with_suffix(".py").write_text(source)
    linter = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run([linter, "--no-cache"], cwd=copy, capture_output=True, text=True, timeout=PATIENCE_S)
    assert run.returncode == 1, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize(("importer", "imported"), _BREACHES.items())
def test_a_breach_is_reported(report: str, importer: str, imported: str) -> None:
    assert re.search(rf"^-\s+{re.escape(importer)} -> {re.escape(imported)} \(l\.2\)$", report, re.MULTILINE), report


def test_no_rule_is_left_untested(report: str) -> None:
    assert re.search(r"^Contracts: 0 kept, \d+ broken\.$", report, re.MULTILINE), report
