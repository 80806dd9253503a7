"""`systemctl stop` of each unit, whatever it is doing: it ends in two seconds, and goes on when it is started again.

What a unit starts is as its file says; the moments are chosen by what it is heard and seen to do. Seconds are a
machine's as well as a program's: beside each unit a plain process is told to end, which takes its 1.5 s, and what the
machine withholds from that one it withholds from the unit too. With `-s` a table of all stops is printed.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from fedprune.data.npz import save_npz
from fedprune.model.randomness import Keyed
from fedprune.system.process import LAST_S
from tests.brokers import EXECUTABLE, MISSING
from tests.federations import examples
from tests.managers import Manager
from tests.patience import PATIENCE_S
from tests.processes import FEDPRUNE, Child, run, toml
from tests.secured import SecuredGateway
from tests.shared import made_once
from tests.writes import Writes

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

_UNITS = ("broker", "gateway", "agent")
_MOMENTS = 50
_MOST_S = 2.0
_MOST_WRITES = 12
"""Of those since the first, the last at which a unit is stopped as it writes."""

_DOES = {"training": "training", "fetching": "transfer", "submitting": "transfer", "waiting": "between rounds"}
"""By a word of its status, what an agent does, and the others with it."""

_PLAIN = """
import os, signal, sys, time

def end(*_):
    time.sleep(float(sys.argv[1]))
    os._exit(0)

signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
while True:
    signal.pause()
"""


@dataclass(frozen=True)
class _Stop:
    """`plain_s` is what a process took beside it that needs `LAST_S`. A unit that is cut short needed that too."""

    phase: str
    seconds: float
    plain_s: float
    code: int
    is_cut_short: bool


@dataclass(frozen=True)
class _Scene:
    """A gateway, its broker and a device that has joined, with a federation that goes on for long; each unit's manager
    and, where it writes, its directory."""

    commands: dict[str, tuple[tuple[str, ...], tuple[str | Path, ...]]]
    managers: dict[str, Manager]
    written: dict[str, Path]

    def start(self, unit: str) -> Child:
        by, arguments = self.commands[unit]
        self.managers[unit].forget()
        return Child(*arguments, by=by, env=self.managers[unit].environment)

    @property
    def does(self) -> str:
        status = self.managers["agent"].status
        return next((does for word, does in _DOES.items() if word in status), "starting")

    def round_is_made(self) -> None:
        """Wait until another one is: all of them are at work with each other."""
        self.managers["gateway"].forget()
        self.managers["gateway"].hears(", round")


@pytest.fixture(scope="session")
def task_of_seconds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task whose rounds take some tenths of a second, of training and of transfer."""

    def build(directory: Path) -> Path:
        schedule = {"kind": "constant", "target_sparsity": 0.5, "begin_step": 0, "frequency": 100}
        settings = {
            "name": "stopped",
            "model": {"builtin": "cnn-108k", "input_shape": (28, 28, 1), "outputs": 3},
            "training": {"steps_per_round": 100, "batch_size": 8},
            "pruning": {"schedule": schedule},
        }
        (directory / "stopped.toml").write_text(toml(settings))
        path = directory / "stopped.fedtask"
        code, said = run("task", "build", directory / "stopped.toml", "--out", path)
        assert code == 0, said
        return path

    return made_once(tmp_path_factory, "stopped", build)


@pytest.fixture
def scene(tmp_path: Path, task_of_seconds: Path) -> _Scene:
    gateway = SecuredGateway.made(tmp_path / "gateway")
    for name, seed in (("held-out", 1), ("pi-1", 2)):
        save_npz(tmp_path / f"{name}.npz", examples(60, seed, (28, 28, 1)))
    rounds = {"count": 100_000, "cohort": 1, "deadline_s": 600.0, "gather_s": 600.0}
    settings = {"task": str(task_of_seconds), "held_out": "held-out.npz", "rounds": rounds}
    (tmp_path / "federation.toml").write_text(toml(settings))
    added = run("gateway", "queue", "add", "--dir", gateway.path, "--config", tmp_path / "federation.toml")
    assert added[0] == 0, added[1]
    with gateway.broker(), gateway.endpoint():
        code, said = run("join", gateway.enrol("pi-1"), "--dir", tmp_path / "pi-1", "--data", tmp_path / "pi-1.npz")
        assert code == 0, said
    config = tmp_path / "pi-1" / "agent.toml"
    config.write_text(f'trainer = "litert"\n{config.read_text()}')
    return _Scene(
        {
            "agent": (FEDPRUNE, ("agent", "--config", config)),
            "gateway": (FEDPRUNE, ("gateway", "run", "--dir", gateway.path)),
            "broker": ((str(EXECUTABLE),), ("-c", gateway.path / "mosquitto.conf")),
        },
        {unit: Manager(tmp_path / f"{unit}.socket") for unit in _UNITS},
        {"agent": tmp_path / "pi-1", "gateway": gateway.path / "queue"},
    )


@pytest.mark.parametrize(
    ("unit", "moments"),
    [("gateway", 1), *(pytest.param(unit, _MOMENTS, marks=pytest.mark.slow) for unit in _UNITS)],
)
def test_a_unit_that_is_told_to_end_does_in_two_seconds_whatever_it_is_doing(
    scene: _Scene, unit: str, moments: int
) -> None:
    phases = ("writing", "transfer", "training", "starting")
    phases = tuple(phase for phase in phases if phase != "writing" or unit in scene.written)
    with _others(scene, unit):
        lasting = _undisturbed(scene, unit)
        draws = Keyed(1, "moments").uniform(moments, 0.0, 1.0)
        wanted = [(phases[number % len(phases)], float(draw)) for number, draw in enumerate(draws)]
        stops = [_stop_at(scene, unit, phase, draw, lasting) for phase, draw in wanted]
        print(_table(unit, stops))
        with scene.start(unit) as again:
            scene.round_is_made()  # nothing was lost that counts
            _ends_well(again)
    assert moments == 1 or {stop.phase for stop in stops} >= set(phases)
    slow = [stop for stop in stops if stop.seconds > max(_MOST_S, stop.plain_s + _MOST_S - LAST_S)]
    assert not slow


@contextmanager
def _others(scene: _Scene, unit: str) -> Iterator[None]:
    with ExitStack() as stack:
        for other in _UNITS:
            if other != unit:
                stack.enter_context(scene.start(other))
        yield


def _undisturbed(scene: _Scene, unit: str) -> dict[str, float]:
    """Seconds that each phase lasts."""
    agent, began = scene.managers["agent"], time.monotonic()
    with scene.start(unit) as process:
        scene.managers[unit].hears("READY=1")
        started = time.monotonic()
        for _ in range(3):  # the first round fetches the task, and loads what trains
            scene.round_is_made()
        agent.forget()
        agent.hears("training")
        trains = time.monotonic()
        agent.hears("submitting")
        submits = time.monotonic()
        scene.round_is_made()
        merged = time.monotonic()
        _ends_well(process)
    return {"starting": started - began, "training": submits - trains, "transfer": merged - submits}


def _stop_at(scene: _Scene, unit: str, phase: str, draw: float, lasting: dict[str, float]) -> _Stop:
    """Start a unit, and stop it in a phase, of which `draw` says how much is to be over."""
    agent = scene.managers["agent"]
    with Child("-c", _PLAIN, str(LAST_S), by=(sys.executable,)) as plain, scene.start(unit) as process:
        plain.says("ready", "stdout")
        if phase != "starting" and unit != "agent":
            scene.round_is_made()
            agent.forget()
        if phase == "writing":
            with Writes(scene.written[unit]) as writes:
                writes.wait_for(1 + int(draw * _MOST_WRITES))
                return _stopped(process, plain, phase)
        if phase == "training":
            agent.hears("training")
        elif phase == "transfer":
            agent.hears("fetching", "submitting")
        time.sleep(draw * lasting[phase])  # the moment is what is tried: no event marks it
        return _stopped(process, plain, phase if phase == "starting" else scene.does)


def _stopped(process: Child, plain: Child, phase: str) -> _Stop:
    fine = {0} if _catches_sigterm(process.pid) else {0, -signal.SIGTERM}
    seconds, plain_s = _told_to_end(process, plain)
    code = process.ends()
    assert code in fine, f"{phase}: {process.stderr[-2000:]}"
    assert "Traceback" not in process.stderr
    return _Stop(phase, seconds, plain_s, code, "the rest is left undone" in process.stderr)


def _ends_well(process: Child) -> None:
    _told_to_end(process)
    assert process.ends() == 0, process.stderr[-2000:]


def _told_to_end(*processes: Child) -> list[float]:
    """Seconds that each takes to end."""
    descriptors = [os.pidfd_open(process.pid) for process in processes]
    poller, took = select.poll(), dict.fromkeys(descriptors, PATIENCE_S)
    began = time.monotonic()
    for process, descriptor in zip(processes, descriptors, strict=True):
        os.kill(process.pid, signal.SIGTERM)
        poller.register(descriptor, select.POLLIN)
    left = len(descriptors)
    while left and (ended := poller.poll(PATIENCE_S * 1000)):
        for descriptor, _ in ended:
            took[descriptor] = time.monotonic() - began
            poller.unregister(descriptor)
            os.close(descriptor)
        left -= len(ended)
    return list(took.values())


def _catches_sigterm(pid: int) -> bool:
    """False while a program starts: then the signal ends the process, which systemd takes for a clean end."""
    (caught,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def _table(unit: str, stops: Sequence[_Stop]) -> str:
    headings = f"{'stops':>5} {'median s':>8} {'slowest s':>9} {'plain s':>7} {'cut short':>9}  exit codes"
    lines = [f"\n{unit:8} {'stopped in':14} {headings}"]
    for phase in (*sorted({stop.phase for stop in stops}), ""):
        those = [stop for stop in stops if phase in ("", stop.phase)]
        seconds, codes = [stop.seconds for stop in those], sorted({stop.code for stop in those})
        counted = ", ".join(f"{sum(stop.code == code for stop in those)} x {code}" for code in codes)
        plain, cut = max(stop.plain_s for stop in those), sum(stop.is_cut_short for stop in those)
        figures = f"{len(those):5} {median(seconds):8.2f} {max(seconds):9.2f} {plain:7.2f} {cut:9}"
        lines.append(f"{'':8} {phase or 'all':14} {figures}  {counted}")
    return "\n".join(lines)
