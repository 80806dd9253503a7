"""Measures `fedprune agent` as a device runs it: a process of an environment of its own.

The benchmark listens to what agent and gateway say to each other. Memory is read from outside, when the agent has
checked in and when its last round is merged. The time to the first step is that from starting the process until its
update of a round of one step is announced: importing, connecting, checking in, the transfer of task and model, loading
the data, the step, and encoding what came of it. So it is an upper bound.
"""

from __future__ import annotations

import queue
import signal
import statistics
import subprocess
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from benchmarks.agent_memory.cgroup import evict, small_cgroup
from benchmarks.agent_memory.environments import Environment
from benchmarks.agent_memory.figures import ROUNDS, SMALL_MEMORY, STARTS, Figures, samples_per_second
from benchmarks.agent_memory.site import AGENT, ONE_STEP, WHOLE_ROUND, Site
from benchmarks.children import ChildFailedError, Children
from fedprune.errors import BrokerError, TrainingError
from fedprune.system.usage import high_water_mark_mb
from fedprune.wire.broker import Broker
from fedprune.wire.link import Delivery
from fedprune.wire.messages import UPLINK, Failed, Submit, decode
from fedprune.wire.topics import Topics
from fedprune.wire.transport import MqttLink

_PATIENCE_S = 300.0
_CHECK_S = 0.5


def measure_agent(site: Site, environment: Environment, trainer: str) -> Figures:
    """All figures but the one of a small cgroup. Raises `FedpruneError`s."""
    first_step_s = statistics.median(_first_step(site, environment, trainer, start) for start in range(STARTS))
    idle_rss_mb, peak_rss_mb, train_seconds = _rounds(site, environment, trainer)
    return Figures(
        peak_rss_mb=peak_rss_mb,
        idle_rss_mb=idle_rss_mb,
        installed_mb=environment.installed_mb,
        first_step_s=first_step_s,
        samples_per_s=samples_per_second(train_seconds),
    )


def trains_in_small_cgroup(site: Site, environment: Environment, trainer: str) -> bool:
    """True if an agent does a whole round with 64 MB, the pages of its libraries and its data included.

    Those of Python itself are not: this process has them mapped. Raises `CgroupUnavailableError`, `FedpruneError`s.
    """
    evict((environment.path, site.data))
    with small_cgroup(SMALL_MEMORY) as prefix, _Federation(site, f"{trainer}-small") as federation:
        federation.start_gateway(WHOLE_ROUND, rounds=1)
        federation.start_agent(environment, trainer, prefix)
        try:
            federation.hear("accepted")
        except ChildFailedError:
            if federation.agent_was_killed:
                return False
            raise
        federation.end()
        return True


def _first_step(site: Site, environment: Environment, trainer: str, start: int) -> float:
    """Seconds from starting an agent until its update of one step is announced."""
    with _Federation(site, f"{trainer}-start-{start}") as federation:
        federation.start_gateway(ONE_STEP, rounds=1)
        federation.hear("round")
        began = time.perf_counter()
        federation.start_agent(environment, trainer)
        federation.hear("submit")
        seconds = time.perf_counter() - began
        federation.end()
        return seconds


def _rounds(site: Site, environment: Environment, trainer: str) -> tuple[float, float, list[float]]:
    """The agent's high-water marks, idle and in the end, in MB; the seconds that each round's steps took."""
    with _Federation(site, f"{trainer}-rounds") as federation:
        pid = federation.start_agent(environment, trainer)
        federation.hear("check-in")
        idle = high_water_mark_mb(pid)
        federation.start_gateway(WHOLE_ROUND, rounds=ROUNDS)
        train_seconds: dict[int, float] = {}
        while len(train_seconds) < ROUNDS:
            submit = decode(Submit, federation.hear("submit"))
            train_seconds[submit.round] = submit.train_hundredths / 100
        federation.end()
        return idle, high_water_mark_mb(pid), list(train_seconds.values())


class _Federation:
    """One gateway, one agent, and a listener; leaving the context ends all three."""

    def __init__(self, site: Site, name: str) -> None:
        self._site = site
        self._name = name
        self._children = Children(site.path / name)
        self._heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._link = MqttLink(Broker(site.broker), f"agent-memory-{name}", self._heard)
        topics = Topics(name)
        self._kinds = {topics.up(AGENT, kind): kind for kind in UPLINK}
        self._kinds |= {topics.round: "round", topics.down(AGENT, "accepted"): "accepted"}
        self._stack = ExitStack()
        self._agent: subprocess.Popen[str] | None = None

    def __enter__(self) -> _Federation:
        with ExitStack() as stack:
            stack.enter_context(self._link)
            stack.enter_context(self._children)
            for topic in self._kinds:
                self._link.subscribe(topic)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stack.close()

    def start_gateway(self, task: str, *, rounds: int) -> None:
        path = self._site.write_federation(self._name, task, rounds)
        self._children.start("gateway", "aggregator", str(path))

    def start_agent(self, environment: Environment, trainer: str, prefix: tuple[str, ...] = ()) -> int:
        """The agent's process id; what `prefix` says executes the agent in the end."""
        options = {"--name": AGENT, "--data": self._site.data, "--federation": self._name, "--trainer": trainer}
        options |= {"--broker": self._site.broker, "--state": self._site.path / self._name / "agent"}
        words = [str(word) for option in options.items() for word in option]
        command = (*prefix, str(environment.script("fedprune")), "agent", *words)
        self._agent = self._children.start_command("agent", command, {"CUDA_VISIBLE_DEVICES": ""})
        return self._agent.pid

    @property
    def agent_was_killed(self) -> bool:
        """As the kernel does for want of memory."""
        return self._agent is not None and self._agent.returncode == -signal.SIGKILL

    def hear(self, kind: str) -> bytes:
        """The next message of a kind. Raises `ChildFailedError`, `TrainingError`, and `BrokerError` if none comes."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            try:
                event = self._heard.get(timeout=_CHECK_S)
            except queue.Empty:
                self._children.check()
                continue
            if not isinstance(event, Delivery):
                continue
            said = self._kinds[event.topic]
            if said == "failed":
                raise TrainingError(f"the agent cannot train: {decode(Failed, event.payload).why}")
            if said == kind:
                return event.payload
        raise BrokerError(f"{self._name}: nobody said {kind!r} within {_PATIENCE_S:.0f} s")

    def end(self) -> None:
        """Wait until the gateway has merged the last round."""
        self._children.wait("gateway")
