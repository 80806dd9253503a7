"""`fedprune gateway join`: a gateway joins another, its parent, as a device does, and is a sub-gateway from then on."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from aggregator.sub_gateway.settings import FILE
from fedprune.config import read_table
from fedprune.errors import ConfigurationError
from fedprune.identity.certificates import fingerprint
from fedprune.identity.gateway import AGGREGATOR, Gateway, open_gateway
from fedprune.identity.gateway import AUTHORITY as OWN_AUTHORITY
from fedprune.identity.gateway_command import DIRECTORY
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
from fedprune.identity.token import FINGERPRINT_BYTES, JoinToken, parse_token
from fedprune.system.ownership import become_owner, owned
from fedprune.system.paths import path_text

_PARENT = "parent"
"""The directory, in the gateway's, of what the parent has certified."""


@click.command()
@click.argument("token")
@DIRECTORY
def join(token: str, directory: Path) -> None:
    """Join another gateway, the parent: from now on this one serves the parent's federations, with its own devices.

    TOKEN is what `fedprune enroll NAME --gateway` printed at the parent, whose federation.toml names NAME in
    rounds.sub_gateways. The key never leaves this machine. Who the parent is goes into sub-gateway.toml, in the
    gateway's directory; one that has a [parent] already is left as it is. Start `fedprune gateway run` again
    afterwards: as long as there is that file, its own queue rests.

    \b
      fedprune gateway join fpj1.bqW0zj...
      fedprune gateway run
    """
    become_owner(directory)
    gateway, asked = open_gateway(directory), parse_token(token)
    _check_parent(gateway, asked)
    path = gateway.path / FILE
    found = read_table(path) if path.exists() else None
    with owned(gateway.path / _PARENT) as disk:  # two at once would mix their keys
        member = join_gateway(asked, disk)
    wanted = _parent_toml(member)
    if found is None or "parent" not in found:
        before = _own_toml(gateway).encode() if found is None else path.read_bytes()
        gateway.directory.write(FILE, before + b"\n" + wanted.encode())
    click.echo(
        path_text(
            f"{member.name} has joined the federation {member.federation} at {member.broker_url}; see to the cohort of "
            f"its own devices in {path}, and start it again: fedprune gateway run --dir {directory}"
        )
    )
    if found is not None and "parent" in found:
        click.echo(path_text(f"{path} had a [parent] already and is as it was; see that it says this:\n\n{wanted}"))


def _check_parent(gateway: Gateway, token: JoinToken) -> None:
    if token.fingerprint == fingerprint(gateway.authority.certificate)[:FINGERPRINT_BYTES]:
        raise ConfigurationError(
            f"this token is of the gateway in {gateway.path} itself; "
            "`fedprune enroll NAME --gateway` prints one at the parent"
        )


def _own_toml(gateway: Gateway) -> str:
    """What this gateway is to its devices."""
    return f"""\
# This gateway below another. Every setting: docs/SETTINGS.md
name = {_quoted(gateway.settings.federation)}
state = "sub-gateway"
gateway = "."

[broker]
url = {_quoted(gateway.broker_url)}
tls.ca = "{OWN_AUTHORITY}.pem"
tls.certificate = "{AGGREGATOR}.pem"
tls.key = "{AGGREGATOR}.key"

[rounds]
cohort = 2        # devices of this gateway that train in a round: make it as many as you have
quorum = 0.5
"""


def _parent_toml(member: Membership) -> str:
    return f"""\
[parent]
name = {_quoted(member.name)}
federation = {_quoted(member.federation)}
authentication_key = "{_PARENT}/{AUTHENTICATION_KEY}"
root_key = "{_PARENT}/{TRUSTED_ROOT}"
gateway = "{_PARENT}/{HOME}"

[parent.broker]
url = {_quoted(member.broker_url)}
tls.ca = "{_PARENT}/{AUTHORITY}"
tls.certificate = "{_PARENT}/{CERTIFICATE}"
tls.key = "{_PARENT}/{KEY}"
"""


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()
