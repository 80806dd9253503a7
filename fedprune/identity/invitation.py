"""An invitation: the token by which one device may join a gateway, once and for a while."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fedprune.errors import ConfigurationError
from fedprune.identity.certificates import fingerprint
from fedprune.identity.gateway import Gateway
from fedprune.identity.mosquitto import PROBES
from fedprune.identity.token import FINGERPRINT_BYTES, JoinToken, format_token, new_secret
from fedprune.system.clock import check_clock
from fedprune.wire.topics import check_id

MINUTES = 60
"""How long a token can be used, unless said otherwise."""


def invite(gateway: Gateway, name: str, minutes: int = MINUTES, *, of_gateway: bool = False) -> str:
    """The line to type on the device, or on the gateway, that is to be `name`. An earlier invitation of that name ends.

    Raises `ConfigurationError` for a name that no device can have, or one has, and for a clock in the past.
    """
    if check_id(name, "device") in PROBES:
        raise ConfigurationError(f"device {name!r}: `fedprune gateway check` plays it; choose another name")
    now = datetime.now(UTC)
    check_clock(now)  # by which the token ends
    token = JoinToken(
        name,
        gateway.settings.hosts,
        gateway.settings.enrolment_port,
        fingerprint(gateway.authority.certificate)[:FINGERPRINT_BYTES],
        new_secret(),
    )
    gateway.devices.invite(name, token.secret, int((now + timedelta(minutes=minutes)).timestamp()))
    command = "fedprune gateway join" if of_gateway else "fedprune join"
    return f"{command} {format_token(token)}"
