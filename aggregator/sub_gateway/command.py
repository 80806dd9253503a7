"""`fedprune sub-gateway`: a gateway to its agents, and an agent to the gateway above."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from aggregator.book import RoundRecord
from aggregator.sub_gateway.process import keep_certificate_renewed, run_sub_gateway
from aggregator.sub_gateway.settings import SubGatewaySettings
from fedprune.config import load_toml
from fedprune.system.output import say
from fedprune.system.process import as_service, log_to_stderr
from fedprune.system.service import SERVICE


@click.command("sub-gateway")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print each round as a line of JSON.")
@click.option("--quiet", is_flag=True, help="Say only what went wrong.")
def sub_gateway(config: Path, as_json: bool, quiet: bool) -> None:
    """Run the rounds that a parent gives, with the agents of CONFIG (a sub-gateway.toml), until the parent is done.

    The parent is an aggregator whose federation.toml names this gateway in rounds.sub_gateways. It gets one update a
    round, the sum of those of the agents, and learns what it would of them all. Stopped or killed, the sub-gateway goes
    on with the round it was in when it is started again with the same state directory.

    A gateway that `fedprune gateway init` made needs none of this: `fedprune gateway join` writes such a file, and
    `fedprune gateway run` goes by it.

    \b
      name = "greenhouse-north"        # the federation that its agents name
      state = "north"
      [broker]
      url = "mqtt://127.0.0.1:1883"    # its agents' broker
      [rounds]
      cohort = 100
      [parent]
      name = "north"                   # what the parent knows it as
      federation = "greenhouse"
      [parent.broker]
      url = "mqtt://headquarters:1883"
    """
    settings = load_toml(config, SubGatewaySettings)
    log_to_stderr(settings.parent.name, verbose=not quiet)

    def report(record: RoundRecord) -> None:
        if as_json:
            say(msgspec.json.encode(record).decode())
        elif not quiet:
            say(round_line(record))

    with as_service():
        keep_certificate_renewed(settings, config.parent)
        SERVICE.ready()
        run_sub_gateway(settings, config.parent, report)


def round_line(record: RoundRecord) -> str:
    """A round for people to read."""
    without = f"; left out {', '.join(record.outliers)}" if record.left_out else ""
    return (
        f"round {record.round + 1}: {record.agents} agents, training loss {record.train_loss:.4g}, "
        f"up {record.bytes_up / 1000:.1f} kB, down {record.bytes_down / 1000:.1f} kB, {record.seconds:.1f} s{without}"
    )
