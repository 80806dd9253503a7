"""`fedprune agent`: the device's side of a federation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge_agent.process import run_agent
from edge_agent.settings import AgentSettings, settings_table
from fedprune.config import from_table, override
from fedprune.system.process import log_to_stderr

_PATHS = ("data", "state", "personal_model")


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="An agent.toml; the options below override it.")
@click.option("--name", help="This agent's id in the federation: letters, digits, '_' and '-'.")
@click.option("--data", type=click.Path(), help="This device's examples: files of the task's form, or an .npz.")
@click.option("--federation", help="The federation to join.  [default: fedprune]")
@click.option("--broker", help="mqtt://HOST[:PORT] or mqtts://HOST[:PORT].  [default: mqtt://127.0.0.1:1883]")
@click.option("--state", type=click.Path(), help="Where the agent remembers what it owes.  [default: agent-state]")
@click.option(
    "--trainer",
    type=click.Choice(["auto", "keras", "litert"]),
    help="What trains: TensorFlow, or LiteRT in an eighth of the memory.  [default: auto]",
)
@click.option(
    "--personal-model",
    type=click.Path(),
    help="A .tflite file to which this device's own model goes after each training.",
)
@click.option("--threads", type=int, help="Threads to train with.  [default: 1]")
@click.option("--quiet", is_flag=True, help="Say only what went wrong.")
def agent(config: Path | None, broker: str | None, quiet: bool, **options: Any) -> None:
    """Train on this device's own data, for as long as a federation wants it.

    The agent connects to the broker, checks in, and waits. What trains is imported with the first assignment:
    TensorFlow, or LiteRT where TensorFlow is not installed or memory is small.
    It may be stopped and started at any time: an update that was not yet accepted is submitted again.

    \b
      fedprune agent --name pi-1 --data pi-1.npz --broker mqtt://gateway.local

    A password is read from the environment variable FEDPRUNE_BROKER_PASSWORD, or from the file that agent.toml
    names; user name and TLS stand in agent.toml:

    \b
      name = "pi-1"
      data = "pi-1.npz"
      federation = "greenhouse"
      [broker]
      url = "mqtts://gateway.local"
      username = "pi-1"
      password_file = "password"
      tls.ca = "ca.pem"
    """
    settings = _settings(config, broker, options)
    log_to_stderr(settings.name, verbose=not quiet)
    run_agent(settings, Path() if config is None else config.parent)


def _settings(config: Path | None, broker: str | None, options: dict[str, Any]) -> AgentSettings:
    """The file's settings, overridden by the options that were given; paths on the command line are from here."""
    table = {} if config is None else settings_table(config)
    for key, value in options.items():
        if value is not None:
            table[key] = str(Path(value).resolve()) if key in _PATHS else value
    if broker is not None:
        override(table, "broker", "url", broker)
    for required in ("name", "data"):
        if required not in table:
            raise click.UsageError(f"--{required} is missing: give it here or in --config FILE")
    return from_table(table, AgentSettings, "options" if config is None else str(config))
