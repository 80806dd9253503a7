"""`python -m benchmarks.load [--agents 10,100,1000,10000] [--json FILE]`"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from aggregator.book import RoundRecord
from benchmarks.children import Children, free_port
from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.load.fleet import HALF, FleetReport
from benchmarks.load.picture import draw
from benchmarks.load.row import Row
from benchmarks.pruned_cnn import build_pruned_cnn
from fedprune.codecs.history import MOST_UPDATES
from fedprune.errors import BrokerError, ConfigurationError
from fedprune.system.output import say
from fedprune.system.usage import high_water_mark_mb
from fedprune.wire.reconnecting import SPREAD_S

_LOADS = {
    "int8": 'update = "mask | feedback(2) | int8"',
    "frugal": 'preset = "frugal"',
}
"""The table ``[codec]`` of each."""
_ROUNDS = 3
"""Those that are counted."""
_WARM = {"int8": 1, "frugal": MOST_UPDATES}
"""Rounds before them: agents come, are told what stays the same, and get as long a history as there is."""
_HELD_OUT = 200
_SPARE_FILES = 200
_PATIENCE_S = 1800.0
_MOST_SECONDS = {1000: 8.0, 10_000: 90.0}
_MOST_CPU_MS, _MOST_PEAK = 2.0, 1.5
_MOST_BACK_S = 60.0
_MOST_AT_ONCE = 2.0 / SPREAD_S
"""Of a fleet, that comes back within a second: twice what would if it came evenly."""
_MOST_OVERHEAD = {"int8": 1.05, "frugal": 1.15}


@click.command(cls=Script)
@click.option("--agents", default="10,100,1000,10000", show_default=True, metavar="N,…", help="Sizes of the fleet.")
@click.option("--loads", default="int8,frugal", show_default=True, metavar="NAME,…", help="Kinds of updates.")
@click.option("--restart-broker", is_flag=True, help="Kill the broker in the middle of a round, and start it again.")
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Draw the rows, as a PNG."
)
@json_option("Write the rows there.")
def main(agents: str, loads: str, restart_broker: bool, picture: Path | None, target: Path | None) -> None:
    """Run rounds of CNN-108k, 80 % pruned, with fleets of any size over a real Mosquitto, on this machine.

    One process holds all agents' connections and trains nothing: it sends a hundred different updates, really encoded.
    Exits with 1 if a target is missed: of 1,000 agents 8 s a round with int8 and of 10,000 90 s, 2 ms of the
    aggregator's processor for an update, and half as much memory again with the largest fleet as with the smallest.
    Where the broker is restarted, if it takes more than 60 s until all agents are back, if of 1,000 or more over a
    fifth come within a second, or if an update is lost.
    """
    sizes = [int(size) for size in agents.split(",")]
    _allow_files(max(sizes))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared")
        with Children(prepared) as children:
            build_pruned_cnn(prepared, children, agents=1, examples=100, held_out=_HELD_OUT)
        for load in loads.split(","):
            for size in sizes:
                say(f"{load}: {size:,} agents")
                out = Path(folder, f"{load}-{size}")
                rows.append(_measure(load, size, prepared, out, restarts_broker=restart_broker))
                write_json(rows, target)
    Console(width=120).print(_table(rows))
    if picture is not None:
        draw(rows, picture)
    settle(_restart_claims(rows) if restart_broker else _claims(rows))


def _allow_files(agents: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < agents + _SPARE_FILES:
        raise ConfigurationError(f"{agents} connections need as many files; this system allows {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, agents + _SPARE_FILES), hard))  # children have it too


def _measure(load: str, size: int, prepared: Path, out: Path, *, restarts_broker: bool) -> Row:
    shutil.copytree(prepared, out)
    port = free_port()
    (out / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
        "max_queued_messages 0\nmax_inflight_messages 0\n"
    )
    (out / "federation.toml").write_text(_federation(load, size, port))
    with Children(out) as children:
        start_broker = partial(children.start_command, "broker", ("mosquitto", "-c", str(out / "mosquitto.conf")))
        start_broker()
        children.await_port("broker", port)
        counted = out / "fsyncs"
        traced = ("strace", "-f", "--seccomp-bpf", "-c", "-e", "trace=fsync,fdatasync", "-o", str(counted))
        fedprune = (
            sys.executable,
            "-P",
            "-m",
            "fedprune.command",
            "aggregator",
            str(out / "federation.toml"),
            "--json",
        )
        aggregator = children.start_command("aggregator", (*traced, *fedprune), piped=True)
        arguments = (str(size), str(port), "load", str(out / "task.fedtask"), str(out / "held"))
        fleet = children.start_command(
            "fleet", (sys.executable, "-P", "-m", "benchmarks.load.fleet", *arguments), piped=True
        )
        if restarts_broker:
            threading.Thread(target=_restart, args=(fleet, children, start_broker), daemon=True).start()
        seen = _Watched.of(aggregator, children, rounds=_rounds_of(load))
        children.wait("aggregator")
        fleet.terminate()
        said, _ = fleet.communicate(timeout=_PATIENCE_S)
    report = msgspec.json.decode(said.splitlines()[-1], type=FleetReport)
    counted_rounds = seen.records[_WARM[load] :]
    return Row(
        load,
        size,
        round(sum(record.seconds for record in counted_rounds) / len(counted_rounds), 3),
        round((seen.cpu_s[-1] - seen.cpu_s[_WARM[load] - 1]) / len(counted_rounds), 3),
        seen.peak_mb,
        report.socket_bytes,
        report.payload_bytes,
        round(_fsyncs(counted) / len(seen.records), 1),
        min(record.agents for record in seen.records),
        report.lost,
        round(report.back_seconds, 1),
        report.most_in_a_second,
    )


def _restart(fleet: subprocess.Popen[str], children: Children, start_broker: Callable[[], object]) -> None:
    """Kill the broker once the fleet has sent half of a round's updates, and start it again; it has forgotten all."""
    assert fleet.stdout is not None
    if fleet.stdout.readline().strip() == HALF:
        children.kill("broker")
        start_broker()


@dataclass(frozen=True)
class _Watched:
    """The rounds of a run, the aggregator's processor time at the end of each, and its memory's high-water mark."""

    records: list[RoundRecord]
    cpu_s: list[float]
    peak_mb: float

    @classmethod
    def of(cls, traced: subprocess.Popen[str], children: Children, rounds: int) -> _Watched:
        records, cpu, peak_mb = list[RoundRecord](), list[float](), 0.0
        for line in traced.stdout or ():
            pid = _traced_process(traced.pid)
            records.append(msgspec.json.decode(line, type=RoundRecord))
            cpu.append(_cpu_s(pid))
            peak_mb = high_water_mark_mb(pid)
            if len(records) == rounds:
                break
            children.check(except_for="aggregator")
        if len(records) < rounds:
            raise BrokerError(f"the aggregator ended after {len(records)} rounds; see {children.log('aggregator')}")
        return cls(records, cpu, round(peak_mb, 1))


def _traced_process(tracer: int) -> int:
    return int(Path(f"/proc/{tracer}/task/{tracer}/children").read_text().split()[0])


def _cpu_s(pid: int) -> float:
    """Of user and system, as proc(5) has them behind the command's name."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100.0


def _fsyncs(summary: Path) -> int:
    """All calls in strace's summary."""
    rows = [line.split() for line in summary.read_text().splitlines()]
    return sum(int(row[3]) for row in rows if row and row[-1] in ("fsync", "fdatasync"))


def _rounds_of(load: str) -> int:
    return _WARM[load] + _ROUNDS


def _federation(load: str, size: int, port: int) -> str:
    return f"""\
name = "load"
task = "task.fedtask"
held_out = "data/held-out.npz"
state = "run"
seed = 1

[broker]
url = "mqtt://127.0.0.1:{port}"

[rounds]
count = {_rounds_of(load)}
cohort = {size}
quorum = 1.0
deadline_s = {_PATIENCE_S}

[codec]
{_LOADS[load]}
"""


def _claims(rows: list[Row]) -> dict[str, bool]:
    claims: dict[str, bool] = {}
    for row in rows:
        what = f"{row.load}, {row.agents:,} agents"
        if row.load == "int8" and row.agents in _MOST_SECONDS:
            most = _MOST_SECONDS[row.agents]
            claims[f"{what}: {row.round_seconds:.1f} s a round, at most {most:.0f}"] = row.round_seconds <= most
        milliseconds = 1000 * row.aggregator_cpu_s / row.agents
        if row.agents >= min(_MOST_SECONDS):
            claims[f"{what}: {milliseconds:.1f} ms of processor for an update, at most {_MOST_CPU_MS:.0f}"] = (
                milliseconds <= _MOST_CPU_MS
            )
            most = _MOST_OVERHEAD[row.load]
            claims[f"{what}: {row.overhead:.3f} bytes on sockets for one of payload, at most {most}"] = (
                row.overhead <= most
            )
        of_load = [other for other in rows if other.load == row.load]
        least = min(of_load, key=lambda other: other.agents)
        if row.agents == max(other.agents for other in of_load) and row is not least:
            ratio = row.aggregator_peak_mb / least.aggregator_peak_mb
            claims[f"{what}: {ratio:.2f} times the memory of {least.agents}, at most {_MOST_PEAK}"] = (
                ratio <= _MOST_PEAK
            )
    return claims


def _restart_claims(rows: list[Row]) -> dict[str, bool]:
    claims: dict[str, bool] = {}
    for row in rows:
        what = f"{row.load}, {row.agents:,} agents"
        ended = f"{what}: {row.lost:,} connections ended (up to {row.most_in_a_second:,} came back within a second)"
        back = f"{ended}, all are back after {row.back_seconds:.1f} s, at most"
        claims[f"{back} {_MOST_BACK_S:.0f}"] = row.lost >= row.agents and row.back_seconds <= _MOST_BACK_S
        if row.agents >= min(_MOST_SECONDS):
            share = row.most_in_a_second / row.agents
            claims[f"{what}: {share:.0%} came back within a second, at most {_MOST_AT_ONCE:.0%}"] = (
                share <= _MOST_AT_ONCE
            )
        claims[f"{what}: no update was lost: {row.counted:,} in each round"] = row.counted == row.agents
    return claims


def _table(rows: list[Row]) -> Table:
    table = Table(box=SIMPLE_HEAD, caption="Of one round on average; MB are of the whole run.", caption_justify="left")
    headings = ("load", "agents", "seconds", "CPU s", "ms an update", "peak MB", "payload MB", "socket MB", "fsyncs")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "load" else "right")
    for row in rows:
        table.add_row(
            row.load,
            f"{row.agents:,}",
            f"{row.round_seconds:.2f}",
            f"{row.aggregator_cpu_s:.2f}",
            f"{1000 * row.aggregator_cpu_s / row.agents:.2f}",
            f"{row.aggregator_peak_mb:.0f}",
            f"{row.payload_bytes / 1e6:.1f}",
            f"{row.socket_bytes / 1e6:.1f}",
            f"{row.fsyncs:.0f}",
        )
    return table


if __name__ == "__main__":
    main()
