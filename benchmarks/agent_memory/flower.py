"""Measures a Flower client app: `flower-app/` on a SuperLink and a SuperNode of their own, all on loopback.

A SuperNode starts a process for every round's work. That process says what it took: from its start to the end of its
first optimizer step, its high-water mark after training, and the time of training. Idle is the SuperNode alone, before
the run; the helper process it keeps beside itself, and which ends when it misses the SuperNode, is not counted.
Nor is the SuperNode, which stays while the client app trains, counted at the peak.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from benchmarks.agent_memory.environments import Environment
from benchmarks.agent_memory.figures import BATCH_SIZE, LEARNING_RATE, MOMENTUM, STARTS, Figures, samples_per_second
from benchmarks.agent_memory.site import Site
from benchmarks.children import Children, free_port
from fedprune.errors import BrokerError, TrainingError
from fedprune.system.usage import high_water_mark_mb

_APP = Path(__file__).parent / "flower-app"
CONNECTED = "SuperNode ID"
"""A SuperNode says so once it is known to the SuperLink."""

_PATIENCE_S = 60.0
_CHECK_S = 0.1


class _Round(msgspec.Struct, frozen=True):
    """The client app's words about a round."""

    peak_rss_mb: float
    first_step_s: float
    train_seconds: float


def measure_flower(site: Site, environment: Environment) -> Figures:
    """Raises `FedpruneError`s."""
    home = site.path / "flower"
    with Children(home) as children:
        node, link = free_port(), free_port()
        result = home / "result.json"
        (home / "config.toml").write_text(connection(link))
        env = variables(home, environment)
        children.start_command("superlink", superlink(environment, link), env)
        children.await_port("superlink", link)
        command = supernode(environment, link, node, {"data": str(site.data)})
        child = children.start_command("supernode", command, env)
        await_line(children, "supernode", CONNECTED)
        idle_rss_mb = high_water_mark_mb(child.pid)
        children.run_command("run", _run(environment, result), env)
        rounds = msgspec.json.decode(result.read_bytes(), type=list[_Round])
        if len(rounds) != STARTS:
            raise TrainingError(f"Flower's client app failed; see {children.log('supernode')}")
    return Figures(
        peak_rss_mb=max(round_.peak_rss_mb for round_ in rounds),
        idle_rss_mb=idle_rss_mb,
        installed_mb=environment.installed_mb,
        first_step_s=statistics.median(round_.first_step_s for round_ in rounds),
        samples_per_s=samples_per_second([round_.train_seconds for round_ in rounds]),
    )


def variables(home: Path, environment: Environment) -> dict[str, str]:
    """Flower's, whose files are in `home`. Loopback only: no telemetry, no look for newer versions."""
    env = {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    return env | {"CUDA_VISIBLE_DEVICES": "", "PATH": f"{environment.path / 'bin'}:/usr/bin:/bin"}


def connection(port: int) -> str:
    """The file config.toml of `flwr run`, for a SuperLink on loopback."""
    return f"""\
[superlink]
default = "local"

[superlink.local]
address = "127.0.0.1:{port}"
insecure = true
"""


def superlink(environment: Environment, port: int) -> list[str | Path]:
    """Its command. It installs nothing of what an app asks for."""
    command: list[str | Path] = [environment.script("flower-superlink"), "--insecure"]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--disable-runtime-dependency-installation"]


def supernode(environment: Environment, link: int, port: int, config: Mapping[str, str]) -> list[str | Path]:
    """Its command; the client app is told `config`."""
    command: list[str | Path] = [environment.script("flower-supernode"), "--insecure"]
    command += ["--superlink", f"127.0.0.1:{link}", "--host", "127.0.0.1", "--port", str(port)]
    return [*command, "--node-config", " ".join(f"{name}={json.dumps(value)}" for name, value in config.items())]


def _run(environment: Environment, result: Path) -> list[str | Path]:
    """`--stream` returns when the run has ended."""
    settings = {"rounds": STARTS, "batch-size": BATCH_SIZE, "learning-rate": LEARNING_RATE, "momentum": MOMENTUM}
    words = [f"{name}={value}" for name, value in settings.items()] + [f"result={json.dumps(str(result))}"]
    return [environment.script("flwr"), "run", _APP, "local", "--stream", "--run-config", " ".join(words)]


def await_line(children: Children, name: str, text: str) -> None:
    """Wait until a child has said something."""
    deadline = time.monotonic() + _PATIENCE_S
    while text not in children.log(name).read_text(errors="replace"):
        children.check()
        if time.monotonic() > deadline:
            raise BrokerError(f"Flower's {name} does not connect; see {children.log(name)}")
        time.sleep(_CHECK_S)
