"""A gateway's root key, and the epochs that it opens.

The root key signs once in an epoch: who signs the manifests then. Devices know its public half, go by the latest epoch
that they have heard of, and by the latest manifest in it. A gateway that was restored from a backup is behind what they
have seen, and they wait, until the root key opens the next epoch. Between two of these it is needed by nobody, and so
lies in one file that a person moves away; that file also counts the epochs, which a backup may have forgotten.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from fedprune.config import load_toml
from fedprune.errors import ConfigurationError, StorageError
from fedprune.identity.signatures import new_signing_key, public_half, signature
from fedprune.system.disk import Directory
from fedprune.system.ownership import keeping_owner
from fedprune.wire.ed25519 import KEY_BYTES
from fedprune.wire.proof import Statement, statement_text

ROOT_KEY, ROOT_PUBLIC, SIGNING = "root.key", "root.pub", "signing.json"
"""The root key, until a person moves it away; its public half; the aggregator's key, and the root key's word on it."""

_Hexadecimal = Annotated[str, msgspec.Meta(pattern=rf"^[0-9a-f]{{{2 * KEY_BYTES}}}\Z")]


class RootKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of a root key: its private half. `epoch` is the last that it has opened."""

    federation: str
    epoch: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 2)]
    key: _Hexadecimal

    def __repr__(self) -> str:
        return f"RootKey(federation={self.federation!r}, epoch={self.epoch})"

    @property
    def public(self) -> bytes:
        return public_half(bytes.fromhex(self.key))


class Signing(msgspec.Struct, frozen=True):
    """What an aggregator signs by: a private key, and the statement (`fedprune.wire.proof`) that it counts."""

    key: bytes
    statement: bytes

    def __repr__(self) -> str:
        return "Signing()"

    @property
    def epoch(self) -> int:
        return msgspec.msgpack.decode(self.statement, type=Statement).epoch


def make_root(directory: Directory, federation: str) -> None:
    """Make the root key of a new gateway, and open its first epoch. One that was interrupted begins again."""
    root = RootKey(federation, 1, new_signing_key().hex())
    directory.write_private(ROOT_KEY, _toml(root))
    directory.write(ROOT_PUBLIC, root.public.hex().encode())
    open_epoch(directory, root)


def count_epoch(directory: Path, federation: str, file: Path) -> RootKey:
    """The root key of the gateway in `directory`, once its file has counted the next epoch.

    Raises `ConfigurationError` if the file is not that of this gateway's root key, `StorageError` if it cannot be
    written: what it does not count may be opened twice, and devices would refuse the second.
    """
    root = load_toml(file, RootKey)
    if (root.federation, root.public) != (federation, public_root(directory)):
        raise ConfigurationError(
            f"{file}: the root key of another gateway (federation {root.federation}); name the file that "
            f"`fedprune gateway init` wrote for {directory}"
        )
    try:
        present = load_signing(directory).epoch
    except StorageError:  # the new epoch mends that
        present = 0
    root = msgspec.structs.replace(root, epoch=max(root.epoch, present) + 1)
    with keeping_owner(file):
        Directory(file.absolute().parent).write_private(file.name, _toml(root))
    return root


def open_epoch(directory: Directory, root: RootKey) -> None:
    """Give a gateway a new key to sign manifests with, in the epoch that its root key has counted last."""
    key = new_signing_key()
    public = public_half(key)
    text = statement_text(root.federation, root.epoch, public)
    statement = Statement(root.epoch, public, signature(bytes.fromhex(root.key), text))
    directory.write_private(SIGNING, msgspec.json.encode(Signing(key, msgspec.msgpack.encode(statement))))


def public_root(directory: Path) -> bytes:
    """The public half of a gateway's root key. Raises `StorageError` if its file is gone or damaged."""
    try:
        key = bytes.fromhex((Directory(directory).read(ROOT_PUBLIC) or b"").decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise StorageError(f"{directory / ROOT_PUBLIC}: gone, or damaged; restore it, or the whole directory")
    return key


def load_signing(directory: Path) -> Signing:
    """What the gateway in `directory` signs by. Raises `StorageError` if its file is gone or damaged."""
    path = directory / SIGNING
    blob = Directory(directory).read(SIGNING)
    if blob is None:
        is_older = not (directory / ROOT_PUBLIC).exists()
        mending = (
            "an older fedprune made this gateway: `fedprune gateway init` makes its keys" if is_older else _MENDING
        )
        raise StorageError(f"{path}: there is no such file; {mending}")
    try:
        signing = msgspec.json.decode(blob, type=Signing)
        statement = msgspec.msgpack.decode(signing.statement, type=Statement)
        is_whole = public_half(signing.key) == statement.key
    except (msgspec.DecodeError, ValueError):
        is_whole = False
    if not is_whole:
        raise StorageError(f"{path}: damaged; {_MENDING}")
    return signing


_MENDING = "restore it from a backup, or open a new epoch: `fedprune gateway epoch ROOTKEY`"


def _toml(root: RootKey) -> bytes:
    return f"""\
# The root key of a fedprune gateway. Keep this file where the gateway is not: after a restore from a backup
# `fedprune gateway epoch FILE` opens a new epoch with it, and counts that here.
federation = "{root.federation}"
epoch = {root.epoch}
key = "{root.key}"
""".encode()
