"""A gateway's directory: its authority, the certificates of its own parts, Mosquitto's configuration, its devices.

Nobody but the owner may enter the directory, and keys are readable by nobody else. Whatever can be made again is made
again by `init_gateway`: the authority alone is kept, and the root key, since every device trusts them.
"""

from __future__ import annotations

import getpass
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from fedprune.config import load_toml
from fedprune.errors import ConfigurationError, StorageError
from fedprune.identity import mosquitto
from fedprune.identity.certificates import (
    Credentials,
    is_pair,
    issue_client,
    issue_server,
    new_authority,
    revocation_list,
)
from fedprune.identity.devices import FILE, Devices, Revoked
from fedprune.identity.epochs import ROOT_PUBLIC, SIGNING, load_signing, make_root, public_root
from fedprune.identity.settings import GatewaySettings
from fedprune.system.disk import Directory, storage_error
from fedprune.system.usage import device_memory_mb

SETTINGS = "gateway.toml"
AUTHORITY, BROKER, ENROLMENT, AGGREGATOR = "ca", "broker", "enrolment", "aggregator"
"""Each is a certificate (.pem) with its key (.key)."""
OWN = (BROKER, ENROLMENT, AGGREGATOR)
"""Those that are made again before they end."""
CONFIGURATION, ACCESS_LIST, REVOCATIONS, BROKER_PID = "mosquitto.conf", "access-list", "revoked.pem", "mosquitto.pid"

_HERE = ("localhost", "127.0.0.1")
"""Where the gateway's own parts reach its broker."""


class ServerFiles(NamedTuple):
    """A server's PEM files, and that of the authority whose certificates its clients may show."""

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class Gateway:
    """A directory that `init_gateway` has made."""

    directory: Directory
    settings: GatewaySettings

    @property
    def path(self) -> Path:
        return self.directory.path

    @property
    def broker_url(self) -> str:
        """The broker for who is on this machine."""
        return f"mqtts://127.0.0.1:{self.settings.broker_port}"

    @property
    def authority(self) -> Credentials:
        return self.credentials(AUTHORITY)

    @property
    def root(self) -> bytes:
        """The public half of the root key."""
        return public_root(self.path)

    def credentials(self, name: str) -> Credentials:
        """Raises `StorageError` if a file of theirs is gone or damaged."""
        found = Credentials(self._file(f"{name}.pem"), self._file(f"{name}.key"))
        if not is_pair(found):
            raise StorageError(
                f"{self.path / name}.pem and {name}.key: no certificate and its key; restore both from one backup"
            )
        return found

    def check_federations(self) -> None:
        """Raise `StorageError` if something is gone or damaged that every federation needs."""
        for name in (AUTHORITY, AGGREGATOR):
            self.credentials(name)
        load_signing(self.path)
        if not (self.path / FILE).is_file():
            raise StorageError(f"{self.path / FILE}: there is no such file; restore it, or the whole directory")

    @property
    def enrolment_files(self) -> ServerFiles:
        """Those of the enrolment endpoint."""
        return ServerFiles(*(self.path / name for name in (f"{AUTHORITY}.pem", f"{ENROLMENT}.pem", f"{ENROLMENT}.key")))

    def _file(self, name: str) -> bytes:
        blob = self.directory.read(name)
        if blob is None:
            raise StorageError(f"{self.path / name}: there is no such file; restore it, or the whole directory")
        return blob

    def write_access(self, revoked: Revoked) -> None:
        """Write by what the broker goes: revocation list and access list."""
        self.directory.write(REVOCATIONS, revocation_list(self.authority, revoked.serials, revoked.number))
        access_list = mosquitto.access_list(self.settings.federation, revoked.names)
        self.directory.write_private(ACCESS_LIST, access_list.encode())  # Mosquitto warns of one that others may read

    def denies(self, name: str) -> bool:
        """The access list takes all rights from this name."""
        return mosquitto.denial(name) in (self.directory.read(ACCESS_LIST) or b"").decode()

    @property
    def devices(self) -> Devices:
        return Devices(self.path)


def open_gateway(path: Path) -> Gateway:
    """Raises `ConfigurationError` if `path` holds no gateway."""
    if not (path / SETTINGS).is_file():
        raise ConfigurationError(f"{path}: no gateway's directory; make it with `fedprune gateway init HOST`")
    return Gateway(Directory(path), load_toml(path / SETTINGS, GatewaySettings))


def init_gateway(path: Path, settings: GatewaySettings, now: datetime) -> Gateway:
    """Make a gateway, or bring one up to date with other settings: its authority stays, and so do its devices.

    Raises `ConfigurationError` if it serves another federation.
    """
    served = open_gateway(path).settings.federation if (path / SETTINGS).exists() else settings.federation
    if served != settings.federation:
        raise ConfigurationError(
            f"{path}: this gateway serves the federation {served}, and its devices know no other; make another gateway "
            "in a directory of its own"
        )
    gateway = Gateway(Directory(path), settings)
    try:
        os.chmod(path, 0o700)
    except OSError as error:
        raise storage_error(path, error) from error
    # In a transaction, so that of two commands at once the second finds the authority of the first.
    gateway.devices.publish(lambda revoked: _make(gateway, revoked, now))
    return gateway


def _make(gateway: Gateway, revoked: Revoked, now: datetime) -> None:
    """Write all files; the settings come last: where they are, devices may trust the authority, and none is made."""
    settings, is_made = gateway.settings, (gateway.path / SETTINGS).exists()
    if not is_made and gateway.directory.read(f"{AUTHORITY}.pem") is None:
        _write(gateway, AUTHORITY, new_authority(f"fedprune gateway of {settings.federation}", now))
    if gateway.directory.read(SIGNING) is None and (not is_made or gateway.directory.read(ROOT_PUBLIC) is None):
        make_root(gateway.directory, settings.federation)
    hosts = tuple(dict.fromkeys((*settings.hosts, *_HERE)))
    for name in (BROKER, ENROLMENT):
        _write(gateway, name, issue_server(gateway.authority, name, hosts, now))
    aggregator = issue_client(gateway.authority, mosquitto.aggregator_name(settings.federation), now)
    _write(gateway, AGGREGATOR, aggregator)
    gateway.write_access(revoked)
    gateway.directory.write(CONFIGURATION, _configuration(gateway).encode())
    gateway.directory.write(SETTINGS, _toml(msgspec.to_builtins(settings)).encode())


def _write(gateway: Gateway, name: str, credentials: Credentials) -> None:
    """The certificate comes last: a key without one is made again."""
    gateway.directory.write_private(f"{name}.key", credentials.key)
    gateway.directory.write(f"{name}.pem", credentials.certificate)


def _configuration(gateway: Gateway) -> str:
    path = gateway.path.resolve()
    if any(character in str(path) for character in "\n\r"):
        raise ConfigurationError(f"{path}: Mosquitto cannot read such a name; choose another directory")
    files = mosquitto.Files(
        authority=str(path / f"{AUTHORITY}.pem"),
        certificate=str(path / f"{BROKER}.pem"),
        key=str(path / f"{BROKER}.key"),
        revocations=str(path / REVOCATIONS),
        access_list=str(path / ACCESS_LIST),
        pid=str(path / BROKER_PID),
    )
    return mosquitto.configuration(files, gateway.settings.broker_port, _user(), device_memory_mb() * 1e6)


def _user() -> str:
    """The name of this process's user, whatever the environment says: root may have become it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return getpass.getuser()


def _toml(settings: Mapping[str, object]) -> str:
    """Text, whole numbers and lists of text: JSON writes them as TOML does."""
    return "".join(f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in settings.items())
