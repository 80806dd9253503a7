"""`fedprune enroll`, `fedprune revoke` at the gateway, and `fedprune join`, `fedprune renew` on a device."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from fedprune.identity.gateway import open_gateway
from fedprune.identity.gateway_command import DIRECTORY
from fedprune.identity.invitation import MINUTES, invite
from fedprune.identity.joining import (
    AUTHENTICATION_KEY,
    AUTHORITY,
    CERTIFICATE,
    HOME,
    KEY,
    TRUSTED_ROOT,
    Membership,
    join_gateway,
)
from fedprune.identity.renewal import renew_device
from fedprune.identity.revocation import revoke as revoke_device
from fedprune.identity.token import parse_token
from fedprune.system.ownership import become_owner, owned
from fedprune.system.paths import path_text, shell_text
from fedprune.wire.topics import check_id

_AGENT, _DATA = "agent.toml", "data.npz"


@click.command()
@click.argument("name")
@DIRECTORY
@click.option(
    "--minutes",
    type=click.IntRange(1, 60 * 24 * 7),
    default=MINUTES,
    show_default=True,
    help="How long the token can be used.",
)
@click.option("--gateway", "of_gateway", is_flag=True, help="It is no device but a gateway, to be below this one.")
def enroll(name: str, directory: Path, minutes: int, of_gateway: bool) -> None:
    """Invite a device: print what is to be typed on it, once, within an hour.

    NAME is what the device will be called in the federation: letters, digits, '_' and '-'. `fedprune gateway run` has
    to run while the device joins. Whoever has the token can join with it: a second one is refused, and both are told.
    With --gateway it is for a gateway, which is below this one once it has joined.

    \b
      fedprune enroll pi-1
      fedprune enroll north --gateway
    """
    become_owner(directory)
    click.echo(invite(open_gateway(directory), name, minutes, of_gateway=of_gateway))


@click.command()
@click.argument("name")
@DIRECTORY
def revoke(name: str, directory: Path) -> None:
    """Shut a device out: its certificate and its token are void, and its connection is ended.

    NAME is the device's. An aggregator whose federation.toml names the gateway's directory (`gateway`) ignores it from
    now on. A device that is to come back is enrolled again.

    \b
      fedprune revoke pi-1
    """
    become_owner(directory)
    state = revoke_device(open_gateway(directory), check_id(name, "device"), datetime.now(UTC))
    click.echo(f"{name} is revoked; {state.value}")


@click.command()
@click.argument("token")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    default=Path("agent"),
    show_default=True,
    envvar="FEDPRUNE_AGENT_DIR",
    help="Where the device's key, its certificate and agent.toml are put.",
)
@click.option(
    "--data",
    metavar="PATH",
    envvar="FEDPRUNE_DATA",
    help="The device's examples: a file, a directory, or file.py:function.  [default: data.npz, beside agent.toml]",
)
def join(token: str, directory: Path, data: str | None) -> None:
    """Join a gateway's federation: make a key, have it certified, write agent.toml.

    TOKEN is what `fedprune enroll` printed at the gateway. The key never leaves this device, and nothing secret is sent
    before the gateway has proven that it made the token. An agent.toml that is there already is left as it is.

    \b
      fedprune join fpj1.bqW0zj...
      fedprune agent --config agent/agent.toml
    """
    examples = _DATA if data is None else _from_anywhere(data)
    become_owner(directory)
    with owned(directory) as disk:  # two at once would mix their keys
        member = join_gateway(parse_token(token), disk)
        wanted = _agent_toml(member, examples)
        found = disk.read(_AGENT)
        if found is None:
            disk.write(_AGENT, wanted.encode())
    click.echo(
        path_text(
            f"{member.name} has joined the federation {member.federation} at {member.broker_url}; start it: "
            f"fedprune agent --config {shell_text(directory / _AGENT)}"
        )
    )
    if found not in (None, wanted.encode()):
        click.echo(
            path_text(f"{directory / _AGENT} was there already and is as it was; see that it says this:\n\n{wanted}")
        )


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("agent"),
    show_default=True,
    help="Where `fedprune join` has put the device's files.",
)
def renew(directory: Path) -> None:
    """Renew this device's certificate at its gateway, if that is due: three years before it ends.

    The agent does this by itself, and uses the new certificate from its next connection on. At the gateway
    `fedprune gateway run` has to run.

    \b
      fedprune renew --dir agent
    """
    with owned(directory) as disk:
        is_renewed = renew_device(disk, datetime.now(UTC))
    click.echo("the certificate is renewed" if is_renewed else "the certificate is not due to be renewed")


def _from_anywhere(data: str) -> str:
    """What a person named in a shell, as agent.toml names it, which may lie in another directory. A function of a
    module that is installed is found by its name alone."""
    place, colon, _ = data.rpartition(":")
    if colon and not place.endswith(".py") and os.sep not in place:
        return data
    return os.path.abspath(data)


def _agent_toml(member: Membership, data: str) -> str:
    name, federation, url, examples = (
        msgspec.json.encode(text).decode() for text in (member.name, member.federation, member.broker_url, data)
    )
    return f"""\
name = {name}
federation = {federation}
data = {examples}
authentication_key = "{AUTHENTICATION_KEY}"
root_key = "{TRUSTED_ROOT}"
gateway = "{HOME}"

[broker]
url = {url}
tls.ca = "{AUTHORITY}"
tls.certificate = "{CERTIFICATE}"
tls.key = "{KEY}"
"""
