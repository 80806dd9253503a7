"""gateway.toml: where a gateway is, and the federation that it serves."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

import msgspec

from fedprune.wire.topics import check_id

MOST_HOSTS = 8
"""Names and addresses of a gateway: they are in each token, which a person copies."""

LONGEST_HOST = 253
"""Of a name in DNS."""

LONGEST_FEDERATION = 44
"""Letters: a certificate's name has room for 64, and the authority's has 20 before the federation's."""

_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class GatewaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. `hosts` are the names and addresses by which devices may reach the gateway."""

    hosts: tuple[str, ...]
    federation: str = "fedprune"
    broker_port: Port = 8883
    enrolment_port: Port = 8884

    def __post_init__(self) -> None:
        check_id(self.federation, "federation")
        if len(self.federation) > LONGEST_FEDERATION:
            raise ValueError(
                f"federation of {len(self.federation)} letters; a gateway's may have {LONGEST_FEDERATION}: choose a "
                "shorter name"
            )
        if not 1 <= len(self.hosts) <= MOST_HOSTS:
            raise ValueError(f"{len(self.hosts)} names and addresses; give 1 to {MOST_HOSTS}")
        for host in self.hosts:
            check_host(host)
        if self.broker_port == self.enrolment_port:
            raise ValueError("broker_port and enrolment_port are the same; choose two")


def check_host(host: str) -> str:
    """`host`, if it is the name or the address of a host. Raises `ValueError` otherwise.

    Example:
        >>> check_host("gateway.local"), check_host("::1")
        ('gateway.local', '::1')
    """
    try:
        ipaddress.ip_address(host)
        if "%" in host:  # an address that means something on one machine alone
            raise ValueError
    except ValueError as error:
        if len(host) > LONGEST_HOST or not _HOST.fullmatch(host):
            raise ValueError(
                f"{host[:100]!r} is no host; write a name such as gateway.local, or an address such as 192.168.1.10"
            ) from error
    return host
