"""`fedprune consent`: what waits for the word of a device's owner, and that word."""

from __future__ import annotations

from pathlib import Path

import click

from edge_agent.consent_files import ConsentFiles
from edge_agent.settings import load_settings
from fedprune.errors import ConfigurationError
from fedprune.system.disk import Directory
from fedprune.system.ownership import become_owner


@click.command()
@click.argument("digest", required=False)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default="agent.toml",
    show_default=True,
    help="The device's agent.toml.",
)
@click.option("--withdraw", metavar="DIGEST", help="Take an approval back.")
def consent(digest: str | None, config: Path, withdraw: str | None) -> None:
    """List the tasks that wait for your word on this device, or approve the one with this SHA-256 DIGEST.

    Tasks wait where agent.toml says `ask = true` in its table `[consent]`. An agent that runs notices within seconds.
    Root becomes the user to whom the agent's state belongs.

    \b
      fedprune consent --config agent.toml
    """
    if digest is not None and withdraw is not None:
        raise click.UsageError("give a DIGEST to approve, or --withdraw DIGEST, and not both")
    settings = load_settings(config)
    state = config.parent / settings.state
    if not state.is_dir():
        raise ConfigurationError(f"{state}: no agent has run here yet, so that nothing waits; start it first")
    become_owner(state)
    files = ConsentFiles(Directory(state))
    if digest is not None:
        _approve(files, digest.lower())
    elif withdraw is not None:
        _withdraw(files, withdraw.lower())
    else:
        _list(files)


def _approve(files: ConsentFiles, digest: str) -> None:
    facts = {facts.digest: facts for facts in files.asked()}.get(digest)
    if facts is None:
        raise ConfigurationError(f"no task with digest {digest} asked here; `fedprune consent` lists those that did")
    files.approve(digest)
    click.echo(f"approved: {facts.description}")


def _withdraw(files: ConsentFiles, digest: str) -> None:
    if digest not in files.approved():
        raise ConfigurationError(f"no task with digest {digest} was approved here; `fedprune consent` lists those")
    files.withdraw(digest)
    click.echo(f"withdrawn: {digest}")


def _list(files: ConsentFiles) -> None:
    approved, asked = files.approved(), files.asked()
    for facts in asked:
        click.echo(f"{'approved' if facts.digest in approved else 'waits'}: {facts.description}")
    known = {facts.digest for facts in asked}
    for digest in approved:
        if digest not in known:
            click.echo(f"approved: digest {digest}")
    if not asked and not approved:
        click.echo("no task has asked for consent here")
