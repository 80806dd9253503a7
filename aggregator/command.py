"""`fedprune aggregator`: the gateway's side of a federation."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from aggregator.book import RoundRecord
from aggregator.process import run_aggregator
from aggregator.round_places import named
from aggregator.settings import FederationSettings
from fedprune.config import from_table, override, read_table
from fedprune.model.metrics import metrics_shown
from fedprune.system.output import say
from fedprune.system.process import as_service, log_to_stderr
from fedprune.system.service import SERVICE


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--broker", help="mqtt://HOST[:PORT] or mqtts://HOST[:PORT], instead of the file's.")
@click.option("--state", type=click.Path(), help="The run's directory, instead of the file's.")
@click.option("--workers", type=click.IntRange(0, 256), help="Processes that check updates, instead of the file's.")
@click.option("--json", "as_json", is_flag=True, help="Print each round as a line of JSON.")
@click.option("--quiet", is_flag=True, help="Say only what went wrong.")
def aggregator(
    config: Path, broker: str | None, state: str | None, workers: int | None, as_json: bool, quiet: bool
) -> None:
    """Run the rounds of the federation that CONFIG (a federation.toml) describes, then exit.

    Stopped or killed, it goes on with the round it was in when it is started again with the same state directory.
    Afterwards `fedprune export STATE` makes the .tflite files.

    \b
      name = "greenhouse"
      task = "greenhouse.fedtask"      # from `fedprune task build`
      held_out = "held-out.npz"        # examples to evaluate each round with; without, agents hold some of theirs out
      state = "run-1"                  # checkpoints and the book
      [broker]
      url = "mqtt://127.0.0.1:1883"
      [rounds]
      count = 20
      cohort = 4
      quorum = 0.5
    """
    table = read_table(config)
    if broker is not None:
        override(table, "broker", "url", broker)
    if state is not None:
        table["state"] = str(Path(state).resolve())
    if workers is not None:
        table["workers"] = workers
    settings = from_table(table, FederationSettings, str(config))
    log_to_stderr("aggregator", verbose=not quiet)

    def report(record: RoundRecord) -> None:
        if as_json:
            say(msgspec.json.encode(record).decode())
        elif not quiet:
            say(round_line(record, settings.rounds.count))

    with as_service():
        SERVICE.ready()
        run_aggregator(settings, config.parent, report)


def round_line(record: RoundRecord, rounds: int) -> str:
    """A round for people to read, of so many rounds."""
    return (
        f"round {record.round + 1:>{len(str(rounds))}}/{rounds}: {record.agents} agents, "
        f"{_scores(record)}, sparsity {record.sparsity:.2f}, "
        f"up {record.bytes_up / 1000:.1f} kB, down {record.bytes_down / 1000:.1f} kB "
        f"(an agent: {record.messages:.1f} messages, {record.control_bytes:.0f} bytes of control), "
        f"{record.seconds:.1f} s"
        f"{_remarks(record)}"
    )


def _scores(record: RoundRecord) -> str:
    """The figures of the new model or, where agents evaluate, of the one that the round began with."""
    by_agents = record.evaluated_version == record.round
    if by_agents and record.loss is None:
        return "no agent told a loss"
    loss = "nan" if record.loss is None else f"{record.loss:.4g}"
    return ", ".join((*metrics_shown(record.metrics), f"loss {loss}")) + (" as it began" if by_agents else "")


def _spread(record: RoundRecord) -> str:
    """The first figure's spread over the agents that evaluated the model as the round began."""
    name = next((name for name in record.metrics if name in record.spreads), "loss")
    spread = record.spreads[name]
    worst, median, best = (f"{each:.3g}" for each in (spread.worst, spread.quartiles[1], spread.best))
    return f"{name} of {spread.agents} agents {worst} ({spread.worst_agent}) to {best}, median {median}"


def _remarks(record: RoundRecord) -> str:
    """What a person should look at; mostly nothing."""
    remarks = [] if record.kept else ["; NOT KEPT: the loss exploded"]
    if record.spreads:
        remarks.append(f"; {_spread(record)}")
    if record.left_out:
        remarks.append(f"; left out {named(record.outliers, record.left_out)}")
    if record.suspects:
        remarks.append(f"; standing apart: {named(record.suspects)}")
    return "".join(remarks)
