"""`fedprune gateway`: the machine that a fleet belongs to, from its making on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from aggregator.command import round_line
from aggregator.gateway.federations import Federations, Unreadable
from aggregator.gateway.serving import serve_federations
from aggregator.sub_gateway.joining import join
from aggregator.sub_gateway.settings import FILE as SUB_GATEWAY
from fedprune.config import read_table
from fedprune.errors import ConfigurationError
from fedprune.identity.gateway import Gateway, open_gateway
from fedprune.identity.gateway_command import DIRECTORY, check, epoch, letting_in, make_gateway, summary
from fedprune.identity.invitation import invite
from fedprune.system.commands import Commands
from fedprune.system.output import say
from fedprune.system.ownership import become_owner
from fedprune.system.paths import path_text
from fedprune.system.process import as_service, log_to_stderr
from fedprune.system.service import SERVICE
from fedprune.system.table import table_lines
from fedprune.task.bundle import Bundle, load_bundle

_FIRST_DEVICE = "pi-1"

_IS_PAUSED = "paused; `fedprune gateway queue resume` goes on"

_TASK = click.option("--task", type=click.Path(path_type=Path), help="What is learned, from `fedprune task build`.")
_CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="FEDPRUNE_FEDERATION",
    help="A federation.toml: how it is learned. Name, broker, keys and state in it are not read.  [default: as usual]",
)


@click.group(cls=Commands)
def gateway() -> None:
    """The machine that a fleet belongs to: its own authority, a broker that lets in nobody else, federations."""


gateway.add_command(check)
gateway.add_command(epoch)
gateway.add_command(join)


@gateway.command()
@click.argument("hosts", nargs=-1)
@DIRECTORY
@click.option("--federation", help="The federation's name.  [default: fedprune]")
@click.option("--broker-port", type=int, help="Where the broker will listen, with TLS.  [default: 8883]")
@click.option("--enrolment-port", type=int, help="Where new devices will be let in, with TLS.  [default: 8884]")
@_TASK
@_CONFIG
def init(
    hosts: tuple[str, ...], directory: Path, task: Path | None, config: Path | None, **settings: str | int | None
) -> None:
    """Make a gateway: a certificate authority, and a configuration of Mosquitto that lets in only whom it certifies.

    HOSTS are the names and addresses by which devices reach this machine; those that it calls itself by, if none is
    named. Called once more, with other names or ports, it makes the gateway's own certificates and the configuration
    anew; the authority stays, and so do all devices, and whatever no option changes.

    With --task the first federation is in the queue, and the first device, pi-1, is invited.

    \b
      fedprune gateway init gateway.local 192.168.1.10
      mosquitto -c gateway/mosquitto.conf
      fedprune gateway run
    """
    wanted = None if task is None else _wanted(task, config)
    made = make_gateway(directory, hosts, settings)
    click.echo(summary(made))
    if wanted is not None:
        added = Federations(made.path).add(*wanted)
        click.echo(f"\nfederation {added.number} waits: {added.task}. Within the hour, on the first device:\n")
        click.echo(invite(made, _FIRST_DEVICE))


@gateway.command()
@DIRECTORY
@click.option("--quiet", is_flag=True, help="Say only what went wrong, and was refused.")
def run(directory: Path, quiet: bool) -> None:
    """Serve the federations of the queue, one after the other, and let invited devices in, until Ctrl-C.

    Devices stay connected to the broker from federation to federation. Killed and started again, it goes on where it
    was. The broker is a process of its own. A gateway that has joined another (`fedprune gateway join`) serves that
    one's federations, and its queue rests.

    \b
      fedprune gateway run
    """
    become_owner(directory)
    log_to_stderr("gateway", verbose=not quiet)
    opened = open_gateway(directory)

    def tell(line: str) -> None:
        SERVICE.status(line)
        if not quiet:
            say(line)

    with as_service(), letting_in(opened):
        SERVICE.ready()
        if (directory / SUB_GATEWAY).is_file():
            _serve_parent(opened, tell)
        else:
            serve_federations(
                opened,
                lambda federation, record: tell(
                    f"federation {federation.number}, {round_line(record, federation.settings.rounds.count)}"
                ),
            )


def _serve_parent(opened: Gateway, tell: Callable[[str], None]) -> None:
    # A gateway without a parent loads no agent.
    from aggregator.sub_gateway.command import round_line as part_line
    from aggregator.sub_gateway.serving import serve_parent

    serve_parent(opened, lambda record: tell(part_line(record)))


@gateway.group(cls=Commands)
def queue() -> None:
    """The federations that `fedprune gateway run` serves one after the other."""


@queue.command()
@DIRECTORY
@_TASK
@_CONFIG
def add(directory: Path, task: Path | None, config: Path | None) -> None:
    """Put a federation at the end of the queue.

    The task, and held-out examples that the federation.toml names, are copied, if they can be served so.

    \b
      fedprune gateway queue add --task greenhouse.fedtask
      fedprune gateway queue add --config federation.toml
    """
    wanted = _wanted(task, config)
    added = _federations(directory).add(*wanted)
    click.echo(f"federation {added.number} waits: {added.task}")
    if (directory / SUB_GATEWAY).is_file():
        click.echo(
            path_text(f"the queue rests, since this gateway has joined a parent: {directory / SUB_GATEWAY} says so")
        )


@queue.command("list")
@DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def list_(directory: Path, as_json: bool) -> None:
    """Show all federations, and where their runs are: `fedprune export RUN` takes the model.

    \b
      fedprune gateway queue list
    """
    federations = _federations(directory)
    following = federations.following()
    rows = []
    for each in federations.entries():
        if isinstance(each, Unreadable):
            rows.append(_row(each.number, "", "unreadable", each.why, each.directory))
            continue
        outcome = each.outcome
        if outcome is None:
            state, why = "current" if each == following else "waiting", ""
        else:
            state, why = outcome.end, outcome.why
        rows.append(_row(each.number, each.task, state, why, each.directory / each.settings.state))
    if as_json:
        click.echo(msgspec.json.encode(rows).decode())
        return
    names = ("number", "task", "state", "run", "why")
    lines = [[str(row[name]) for name in names] for row in rows]
    click.echo("\n".join(table_lines(names, lines, left=(1, 2, 3, 4))))
    if federations.is_paused:
        click.echo(_IS_PAUSED)


def _row(number: int, task: str, state: str, why: str, run: Path) -> dict[str, int | str]:
    return {"number": number, "task": task, "state": state, "why": why, "run": str(run)}


@queue.command()
@DIRECTORY
def pause(directory: Path) -> None:
    """Let the one that is served rest, and serve none until `resume`. Devices stay.

    \b
      fedprune gateway queue pause
    """
    _federations(directory).pause(True)
    say(_IS_PAUSED)


@queue.command()
@DIRECTORY
def resume(directory: Path) -> None:
    """Go on with what was paused, where it was.

    \b
      fedprune gateway queue resume
    """
    federations = _federations(directory)
    federations.pause(False)
    following = federations.following()
    say("resumed; no federation waits" if following is None else f"resumed, with federation {following.number}")


@queue.command()
@click.argument("number", type=int)
@DIRECTORY
def stop(number: int, directory: Path) -> None:
    """End a federation where it is; its models so far stay. The next one begins.

    NUMBER is the federation's, as `fedprune gateway queue list` shows it.

    \b
      fedprune gateway queue stop 1
    """
    _federations(directory).stop(number)
    say(f"federation {number} is to stop; a gateway that runs ends it within seconds")


@queue.command()
@click.argument("number", type=int)
@DIRECTORY
def remove(number: int, directory: Path) -> None:
    """Delete a federation that has ended, with its models.

    NUMBER is the federation's, as `fedprune gateway queue list` shows it.

    \b
      fedprune gateway queue remove 1
    """
    _federations(directory).remove(number)
    say(f"federation {number} is deleted")


def _wanted(task: Path | None, config: Path | None) -> tuple[Bundle, dict[str, Any], Path]:
    """What is learned, how, and from where: read before root becomes the gateway's user, who may not read it."""
    table = {} if config is None else read_table(config)
    base = Path() if config is None else config.parent
    source = base / str(table["task"]) if task is None and "task" in table else task
    if source is None:
        raise ConfigurationError("no task: name a bundle with --task, as `fedprune task build` makes them")
    return load_bundle(source), table, base.resolve()


def _federations(directory: Path) -> Federations:
    """The queue of the gateway in `directory`."""
    become_owner(directory)
    return Federations(open_gateway(directory).path)
