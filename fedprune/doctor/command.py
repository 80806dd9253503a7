"""`fedprune doctor`: what is wrong with this device or gateway, and how it is mended.

The processor and the runtime are tried before anything is imported that may need them: numpy, too, ends the process on
one that it was not compiled for. Examinations are named as text, since agents and aggregators use this room.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from fedprune.config import read_table
from fedprune.doctor.finding import Finding, Verdict
from fedprune.doctor.machine import examine_cpu
from fedprune.doctor.runtime import examine_runtime
from fedprune.doctor.versions import examine_versions
from fedprune.errors import ConfigurationError, FedpruneError

_GATEWAY_SETTINGS = "gateway.toml"
_EXAMINATIONS = {
    "agent": "edge_agent.doctor:examine",
    "aggregator": "aggregator.doctor:examine",
    "gateway": "aggregator.gateway_doctor:examine",
    "sub-gateway": "aggregator.sub_gateway.doctor:examine",
}

_OF_FEDERATIONS = frozenset({"task", "rounds", "codec", "aggregation", "held_out"})
"""Keys that a federation.toml has, and no agent.toml."""

Examination = Callable[[Path, datetime], Iterator[Finding]]


class Unwell(FedpruneError):
    """Some check failed."""


@click.command()
@click.argument("path", type=click.Path(path_type=Path), envvar="FEDPRUNE_DOCTOR")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(path: Path, as_json: bool) -> None:
    """Examine this device or this gateway: one line for each check, with what mends it.

    PATH is a device's agent.toml, an aggregator's federation.toml, a sub-gateway.toml, or the directory of `fedprune
    gateway init`; where a Debian package is installed it need not be named. Root becomes the user to whom the state
    belongs.

    Nothing is changed, and an agent or aggregator that runs keeps its connection: a running agent is asked to speak
    itself. What is published for a check is what agents and aggregators ignore, or answer and forget. Exit code 0 if
    nothing failed, else 1.

    \b
      fedprune doctor agent.toml
      fedprune doctor /var/lib/fedprune-gateway --json
    """
    examination = _EXAMINATIONS[_kind_of(path)]
    findings = []
    for finding in _examine(examination, path):
        findings.append(finding)
        if not as_json:
            click.echo(finding.line)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(findings), indent=2))
    wrong = [finding for finding in findings if finding.verdict is Verdict.FAILED]
    if wrong:
        raise Unwell(f"{len(wrong)} of {len(findings)} checks failed, the first: {wrong[0].check}; mend that first")


def _kind_of(path: Path) -> str:
    """Which side the path is of. Raises `ConfigurationError` if it is of none."""
    if (path / _GATEWAY_SETTINGS).is_file():
        return "gateway"
    if path.is_dir() or path.name == _GATEWAY_SETTINGS:
        raise ConfigurationError(
            f"{path}: no gateway's directory; name one, with {_GATEWAY_SETTINGS} in it, an agent.toml, a "
            "federation.toml or a sub-gateway.toml"
        )
    table = read_table(path)
    if "parent" in table:
        return "sub-gateway"
    if _OF_FEDERATIONS.isdisjoint(table):
        return "agent"
    if "task" not in table:
        raise ConfigurationError(f"{path}: it names no task, as a gateway's own: name that gateway's directory instead")
    return "aggregator"


def _examine(examination: str, path: Path) -> Iterator[Finding]:
    yield examine_versions()
    yield examine_cpu()
    yield (runtime := examine_runtime())
    if runtime.verdict is Verdict.FAILED and "instructions" in runtime.told:
        return  # nothing else could be imported
    module, _, name = examination.partition(":")
    examine: Examination = getattr(importlib.import_module(module), name)
    yield from examine(path, datetime.now(UTC))
