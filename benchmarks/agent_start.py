"""`python -m benchmarks.agent_start`: how soon an agent that is started is online, and the memory in which it waits.

A process is started and ended as a service is. It is online once its own word of that comes out of the broker, to which
the benchmark listens; its memory is read from outside, once it has checked in: it waits for work then.
"""

from __future__ import annotations

import queue
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.children import Children, find_mosquitto
from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.intruders.site import Site
from fedprune.data import Dataset, save_npz
from fedprune.errors import BrokerError
from fedprune.identity.gateway import AGGREGATOR
from fedprune.identity.token import format_token
from fedprune.system.usage import high_water_mark_mb, resident_mb
from fedprune.wire.broker import Broker
from fedprune.wire.link import Delivery
from fedprune.wire.topics import Topics
from fedprune.wire.transport import MqttLink

MOST_ONLINE_S = 1.5
MOST_PLAIN_MB, MOST_TLS_MB, MOST_OF_TLS_MB = 45.0, 55.0, 10.0
"""Resident memory of an agent that waits: without TLS, with it and a client certificate, and the difference."""

_AGENT, _FEDERATION = "pi-1", "starts"
_EXAMPLES = 1_600
_PATIENCE_S = 120.0
_CHECK_S = 0.5


class Waiting(msgspec.Struct, frozen=True):
    """One way to connect, with what each start took: seconds until it was online, and MB (10^6 bytes) as the kernel
    counts them: resident memory, the share of it that is the process's own (pages that others map too count in part),
    and the high-water mark."""

    connection: str
    online_s: list[float]
    resident_mb: list[float]
    proportional_mb: list[float]
    peak_mb: list[float]


@dataclass(frozen=True)
class _Way:
    """`arguments` start the agent; `listener` and `client_id` are who may read all that it says."""

    connection: str
    arguments: tuple[str, ...]
    topics: Topics
    listener: Broker
    client_id: str


@click.command(cls=Script)
@click.option("--starts", type=click.IntRange(1), default=20, show_default=True, help="Of which medians are taken.")
@json_option("Write the figures there.")
def main(starts: int, target: Path | None) -> None:
    """Start an agent again and again, without TLS, and with it and a client certificate.

    Exits with 1 if one is online later than 1.5 s after its start, in the median, or waits in more memory than 45 MB
    without TLS and 55 MB with it. Needs Mosquitto. A machine that is busy with other things makes it late, not large.
    """
    if find_mosquitto() is None:
        raise BrokerError("Mosquitto is not installed; install it (apt install mosquitto)")
    figures = measure(starts)
    write_json(figures, target)
    Console().print(_table(figures, starts))
    settle(claims(*figures))


def measure(starts: int) -> tuple[Waiting, Waiting]:
    """Without TLS, and with it. Raises `FedpruneError`s."""
    with tempfile.TemporaryDirectory() as directory, Children(Path(directory)) as children:
        data = Path(directory) / "examples.npz"
        save_npz(data, Dataset(np.zeros((_EXAMPLES, 28, 28, 1), np.float32), np.zeros(_EXAMPLES, np.int64)))
        plain = _measure(_without_tls(Path(directory), data, children), starts, children)
        joined = _measure(_with_certificate(Path(directory), data, children), starts, children)
    return plain, joined


def claims(plain: Waiting, joined: Waiting) -> dict[str, bool | None]:
    """Each claim, and whether it holds."""
    made: dict[str, bool | None] = {}
    for figures, most_mb in ((plain, MOST_PLAIN_MB), (joined, MOST_TLS_MB)):
        online, resident = statistics.median(figures.online_s), statistics.median(figures.resident_mb)
        made[f"{figures.connection}: online after {online:.2f} s, at most {MOST_ONLINE_S:g}"] = online <= MOST_ONLINE_S
        made[f"{figures.connection}: waits in {resident:.1f} MB, at most {most_mb:g}"] = resident <= most_mb
    more = statistics.median(joined.resident_mb) - statistics.median(plain.resident_mb)
    made[f"TLS with a client certificate takes {more:.1f} MB, at most {MOST_OF_TLS_MB:g}"] = more <= MOST_OF_TLS_MB
    return made


def _without_tls(directory: Path, data: Path, children: Children) -> _Way:
    broker = children.start_broker("mosquitto")
    options = {"--name": _AGENT, "--data": data, "--federation": _FEDERATION, "--broker": broker, "--trainer": "litert"}
    options["--state"] = directory / "state"
    arguments = ("agent", *(str(word) for option in options.items() for word in option))
    return _Way("without TLS", arguments, Topics(_FEDERATION), Broker(broker), "agent-start")


def _with_certificate(directory: Path, data: Path, children: Children) -> _Way:
    """A device that has joined a gateway."""
    children.stop("broker")
    site = Site(directory, children)
    place, token = directory / _AGENT, format_token(site.token(_AGENT))
    children.run("join", "join", token, "--dir", str(place), "--data", str(data))
    arguments = ("agent", "--config", str(place / "agent.toml"), "--trainer", "litert")
    gateway = site.gateway.path
    listener = site.broker(gateway / f"{AGGREGATOR}.pem", gateway / f"{AGGREGATOR}.key")
    return _Way("TLS, client certificate", arguments, site.topics, listener, site.topics.aggregator_client)


def _measure(way: _Way, starts: int, children: Children) -> Waiting:
    figures = Waiting(way.connection, [], [], [], [])
    with _listening(way) as heard:
        for _ in range(starts):
            began = time.perf_counter()
            pid = children.start(_AGENT, *way.arguments).pid
            _await(heard, way.topics.status(_AGENT), children)
            figures.online_s.append(time.perf_counter() - began)
            _await(heard, way.topics.up(_AGENT, "check-in"), children)
            resident, proportional = resident_mb(pid)
            figures.resident_mb.append(resident)
            figures.proportional_mb.append(proportional)
            figures.peak_mb.append(high_water_mark_mb(pid))
            children.stop(_AGENT)
    return figures


@contextmanager
def _listening(way: _Way) -> Iterator[queue.SimpleQueue[Any]]:
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with MqttLink(way.listener, way.client_id, heard) as link:
        link.subscribe(way.topics.status(_AGENT))
        link.subscribe(way.topics.all_up)
        yield heard


def _await(heard: queue.SimpleQueue[Any], topic: str, children: Children) -> None:
    """Return as a message of the agent's that runs comes on a topic; that it is offline is of the one before it.

    Raises `ChildFailedError`, and `BrokerError` if none comes.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        try:
            event = heard.get(timeout=_CHECK_S)
        except queue.Empty:
            children.check()
            continue
        if isinstance(event, Delivery) and event.topic == topic and b"offline" not in event.payload:
            return
    raise BrokerError(f"nothing came on {topic} within {_PATIENCE_S:.0f} s; see {children.log(_AGENT)}")


def _table(figures: Sequence[Waiting], starts: int) -> Table:
    table = Table(
        title=f"An agent of {starts} starts, medians",
        title_justify="left",
        box=SIMPLE_HEAD,
        caption="In brackets the quickest and the slowest; the peak is the largest.",
        caption_justify="left",
    )
    for heading in ("", "online after s", "resident MB", "own share MB", "peak MB"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in figures:
        memory = (statistics.median(row.resident_mb), statistics.median(row.proportional_mb), max(row.peak_mb))
        table.add_row(row.connection, _spread(row.online_s), *(f"{megabytes:.1f}" for megabytes in memory))
    return table


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
