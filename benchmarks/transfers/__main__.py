"""The command `python -m benchmarks.transfers`."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from pathlib import Path

import click
import msgspec

from benchmarks.children import Children
from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.transfers.ends import Served, receive, serve
from benchmarks.transfers.slow_links import SlowLinks

MOST_MB = 40.0
"""Memory that serving may take beside the content, whatever its size and however many ask."""

MOST_COPIES = 1.5
"""Copies of the content that may be published to agents that ask together, on links that hold."""


class Figures(msgspec.Struct, frozen=True):
    """`published` and `received` are bytes of chunks over the content's size; `received` is the mean of the agents."""

    seconds: float
    cuts: int
    gateway_mb: float
    published: float
    received: float


@click.command(cls=Script)
@click.option("--agents", default=20, show_default=True)
@click.option("--megabytes", default=50.0, show_default=True, help="The model's size.")
@click.option("--rate", default=500.0, show_default=True, help="kB/s of each agent's link.")
@click.option("--cut-every", default=0.0, show_default=True, help="Seconds that a link lasts, about; 0: for ever.")
@click.option("--broker", type=click.Choice(["mosquitto"]), default="mosquitto", hidden=True)
@json_option("Write the figures there.")
def main(agents: int, megabytes: float, rate: float, cut_every: float, broker: str, target: Path | None) -> None:
    """Let slow agents fetch a large model from a gateway, through Mosquitto, and measure what that takes.

    The gateway is a process of its own with the real state machine and link; so are the agents, each behind a link of
    its own that passes so many bytes a second and may be cut now and then. Exits with 1 if serving takes the gateway
    more memory than it may, or, on links that hold, if much more is published than one copy.
    """
    with tempfile.TemporaryDirectory() as directory, Children(Path(directory)) as children:
        port = int(children.start_broker(broker).rpartition(":")[2])
        with SlowLinks(port, rate * 1000, cut_every) as links:
            figures = measure(port, links, agents, int(megabytes * 1e6))
    click.echo(
        f"{figures.seconds:.0f} s, {figures.cuts} cuts: gateway +{figures.gateway_mb:.1f} MB, "
        f"published {figures.published:.2f} copies, each agent received {figures.received:.2f}"
    )
    write_json(figures, target)
    settle(
        {
            f"serving takes at most {MOST_MB:g} MB beside the content": figures.gateway_mb <= MOST_MB,
            f"at most {MOST_COPIES:g} copies are published": None if cut_every else figures.published <= MOST_COPIES,
        }
    )


def measure(port: int, links: SlowLinks, agents: int, size: int) -> Figures:
    spawn = multiprocessing.get_context("spawn")
    gateway, gateways = spawn.Pipe()
    fleet, fleets = spawn.Pipe()
    serving = spawn.Process(target=serve, args=(f"mqtt://127.0.0.1:{port}", size, agents, gateways), daemon=True)
    fetching = spawn.Process(target=receive, args=(f"mqtt://127.0.0.1:{links.port}", agents, fleets), daemon=True)
    serving.start()
    gateway.recv()
    began = time.monotonic()
    fetching.start()
    received: list[int] = fleet.recv()
    seconds = time.monotonic() - began
    gateway.send("end")
    served: Served = gateway.recv()
    return Figures(
        round(seconds, 1),
        links.cuts,
        served.grown_mb,
        round(served.published_bytes / size, 3),
        round(sum(received) / agents / size, 3),
    )


if __name__ == "__main__":
    main()
