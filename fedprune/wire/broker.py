"""The broker's address, and who we are there: the ``[broker]`` table of a configuration file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from fedprune.config import text_of
from fedprune.errors import ConfigurationError
from fedprune.wire.messages import MAX_MESSAGE_BYTES
from fedprune.wire.transfer import CHUNK_SIZES, ENVELOPE_BYTES

PASSWORD_VARIABLE = "FEDPRUNE_BROKER_PASSWORD"  # noqa: S105 - its name

MOST_FALLBACKS = 7
"""Addresses beside the first: each is tried before the first one's turn comes again."""

MIN_MESSAGE_BYTES = CHUNK_SIZES[-1] + ENVELOPE_BYTES
"""A broker that takes less cannot be used: no chunk would pass."""


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PEM files. Without `ca` the system's certificates are trusted; `certificate` and `key` identify this client."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


class Broker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The broker's address, and who we are there: the ``[broker]`` table of a configuration file.

    `url` is ``mqtt://host[:1883]`` or ``mqtts://host[:8883]``; `fallbacks` are others of the same broker or cluster,
    tried in turn where one cannot be reached. It takes messages of `max_message_bytes`. The password is read from the
    first line of `password_file`, else from the environment variable FEDPRUNE_BROKER_PASSWORD, so that it stands on no
    command line.
    """

    url: str = "mqtt://127.0.0.1:1883"
    username: str | None = None
    password_file: str | None = None
    tls: Tls = Tls()
    fallbacks: Annotated[tuple[str, ...], msgspec.Meta(max_length=MOST_FALLBACKS)] = ()
    max_message_bytes: Annotated[int, msgspec.Meta(ge=MIN_MESSAGE_BYTES)] = MAX_MESSAGE_BYTES

    def __post_init__(self) -> None:
        for url in (self.url, *self.fallbacks):
            _check_address(url)
        if len({urlsplit(url).scheme for url in (self.url, *self.fallbacks)}) > 1:
            raise ValueError("broker.fallbacks: all addresses must be mqtt://, or all mqtts://, as broker.url is")
        if self.tls != Tls() and not self.uses_tls:
            raise ValueError("broker.tls is for mqtts:// addresses; over mqtt:// nothing would be encrypted")
        if self.tls.key is not None and self.tls.certificate is None:
            raise ValueError("broker.tls.key needs broker.tls.certificate")
        if self.password_file is not None and self.username is None:
            raise ValueError("broker.password_file needs broker.username")

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or (8883 if self.uses_tls else 1883)

    @property
    def uses_tls(self) -> bool:
        return urlsplit(self.url).scheme == "mqtts"

    @property
    def addresses(self) -> tuple[Broker, ...]:
        """The broker at each of its addresses, the first one first."""
        return tuple(msgspec.structs.replace(self, url=url, fallbacks=()) for url in (self.url, *self.fallbacks))

    @property
    def chunk_bytes(self) -> int:
        """The largest size of chunks that it takes."""
        return next(size for size in CHUNK_SIZES if size + ENVELOPE_BYTES <= self.max_message_bytes)

    def relative_to(self, base: Path) -> Broker:
        """The same with the paths of its files taken from `base`."""

        def taken(path: str | None) -> str | None:
            return None if path is None else str(base / path)

        tls = Tls(taken(self.tls.ca), taken(self.tls.certificate), taken(self.tls.key))
        return msgspec.structs.replace(self, password_file=taken(self.password_file), tls=tls)

    def password(self) -> str | None:
        """Raises `ConfigurationError` if the password file cannot be read."""
        if self.password_file is None:
            return os.environ.get(PASSWORD_VARIABLE)
        try:
            return text_of(Path(self.password_file).read_bytes()).replace("\r", "\n").partition("\n")[0]
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigurationError(
                f"broker.password_file {self.password_file}: {reason}; name a file whose first line is the password"
            ) from error


def _check_address(url: str) -> None:
    """Raise ValueError unless it is the address of a broker, and nothing else."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or port in (-1, 0) or parts.path not in ("", "/"):
        raise ValueError(f"broker address {url!r}: write mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
    if parts.username or parts.password:
        raise ValueError("broker address: put the user name in broker.username, the password in a file")
