"""Mosquitto's configuration for a federation: client certificates, least rights for each, limits. Pure.

A client's name is its certificate's, whatever it calls itself (`use_identity_as_username`), and so is its client id
(`use_username_as_clientid`): without the second any device could take another's place at the broker. The names of the
gateway's own clients have a dot in them, and so no device can have them.

Mosquitto grants every subscription, and keeps from a client what it may not read as that is delivered.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_PACKET_BYTES = 131_072
"""fedprune's largest packet takes 123,904; Mosquitto ends the connection of whoever sends a larger one."""

_MAX_QUEUED_MESSAGES = 1000
_MAX_QUEUED_BYTES = 32 * 2**20
"""What the broker holds for one client that is slow: four times as much as a client asks for before it has some."""

_MAX_CONNECTIONS = 20_000
"""Twice as many agents as the aggregator was measured with."""

_CONNECTION_BYTES = 45_000
"""That one takes of the broker's memory, also before it has shown a certificate."""

_MEMORY_SHARE = 0.15
"""Of the machine's memory that connections may take: strangers who opened more would end the broker, and everybody's
connection with it. Its service may take twice as much."""

PROBES = ("fedprune-check-1", "fedprune-check-2")
"""The names of two devices that `fedprune gateway check` plays, and that no other device may have."""

NO_CONTENT = bytes(32)
"""The digest of a content that there is not."""


@dataclass(frozen=True)
class Files:
    """Where Mosquitto finds what its configuration names: absolute paths."""

    authority: str
    certificate: str
    key: str
    revocations: str
    access_list: str
    pid: str


def aggregator_name(federation: str) -> str:
    """The name in the aggregator's certificate."""
    return f"aggregator.{federation}"


def auditor_name(federation: str) -> str:
    """The name of the client of `fedprune gateway check` that reads everything, and writes to the probes alone."""
    return f"auditor.{federation}"


def most_connections(memory_bytes: float) -> int:
    """As many as a machine with so much memory has room for.

    Example:
        >>> most_connections(1e9), most_connections(8e9)
        (3333, 20000)
    """
    return min(_MAX_CONNECTIONS, int(memory_bytes * _MEMORY_SHARE / _CONNECTION_BYTES))


def configuration(files: Files, port: int, user: str, memory_bytes: float) -> str:
    """The text of mosquitto.conf. `user` is whom Mosquitto becomes where root starts it: who owns the keys. The machine
    has `memory_bytes`."""
    return f"""\
# Written by `fedprune gateway init`, which writes it anew. `fedprune gateway check` proves it.
user {user}
pid_file {files.pid}
persistence false
log_dest stderr
log_type error
log_type warning
log_type notice
log_type information
connection_messages true

allow_anonymous false
acl_file {files.access_list}

max_packet_size {MAX_PACKET_BYTES}
max_queued_messages {_MAX_QUEUED_MESSAGES}
max_queued_bytes {_MAX_QUEUED_BYTES}

listener {port}
max_connections {most_connections(memory_bytes)}
cafile {files.authority}
certfile {files.certificate}
keyfile {files.key}
crlfile {files.revocations}
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
use_username_as_clientid true
"""


def denial(name: str) -> str:
    """The lines of an access list that take all rights from a name."""
    return f"user {name}\ntopic deny #"


def access_list(federation: str, revoked: tuple[str, ...]) -> str:
    """The text of Mosquitto's access list: who may publish (write) and be delivered (read) which topics.

    The rights are those of docs/PROTOCOL.md. A name in `revoked` has none, should the broker let it in.
    """
    root = f"fp/{federation}"
    lines = [
        "# Written by `fedprune gateway init` and `fedprune revoke`.",
        *map(denial, revoked),
        f"user {aggregator_name(federation)}",
        f"topic readwrite {root}/r",
        f"topic write {root}/c/+",
        f"topic write {root}/d/+/+",
        f"topic read {root}/u/+/+/+",
        f"topic read {root}/s/+",
        f"user {auditor_name(federation)}",
        f"topic read {root}/#",
        *(f"topic write {root}/d/{probe}/+" for probe in PROBES),
        f"topic write {root}/c/{NO_CONTENT.hex()}",
        f"pattern write {root}/u/+/%u/+",
        f"pattern write {root}/s/%u",
        f"pattern read {root}/d/%u/+",
        f"pattern read {root}/r",
        f"pattern read {root}/c/+",
    ]
    return "\n".join(lines) + "\n"
