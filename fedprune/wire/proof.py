"""The proof of what a gateway's devices obey: a manifest's signature, and a root key's statement on who may sign.

Devices that have joined a gateway know its root key's public half, and nothing else of keys. The root key, which lies
elsewhere, states whose signatures count in an epoch; the aggregator signs each manifest. Both are Ed25519 (RFC 8032)
over a text that begins with what it is, so that no signature counts for something else, and says the federation.

Pure. Public keys are the raw bytes of RFC 8032; numbers count as `fedprune.wire.messages` has them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import msgspec

from fedprune.errors import ConfigurationError, ProtocolError
from fedprune.wire.ed25519 import KEY_BYTES, SIGNATURE_BYTES, is_signed
from fedprune.wire.messages import Manifest, Terms
from fedprune.wire.positional import fields_said

_MANIFEST = b"fedprune manifest 1\0"
_STATEMENT = b"fedprune statement 1\0"


class Statement(msgspec.Struct, frozen=True, array_like=True):
    """The root key's word: in `epoch` the gateway signs by the private half of `key`, until there is a later epoch."""

    epoch: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    key: Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
    signature: Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


def manifest_text(federation: str, manifest: Manifest, terms: Terms) -> bytes:
    """The text of which a manifest's signature is one.

    The run's terms are in it by their SHA-256, and by them the task's digest; those who verify it know them, but for
    fields that a later version adds and that say nothing in this run. So is the model, by the beginning of the digest
    of all its weights. Pruned ones are zeros there, and so it tells the mask too. And so are the versions that the
    gateway speaks: nobody has a device speak an older one.
    """
    said = (
        federation,
        manifest.v,
        manifest.newest,
        manifest.epoch,
        manifest.run,
        manifest.incarnation,
        manifest.round,
        manifest.done,
        manifest.weights_digest,
        hashlib.sha256(msgspec.msgpack.encode(fields_said(terms))).digest(),
    )
    return _MANIFEST + msgspec.msgpack.encode(said)


def statement_text(federation: str, epoch: int, key: bytes) -> bytes:
    """The text of which a statement's signature is one."""
    return _STATEMENT + msgspec.msgpack.encode((federation, epoch, key))


def is_proven(federation: str, manifest: Manifest, terms: Terms, key: bytes) -> bool:
    """Whether the owner of `key` has signed a manifest of a run with these terms."""
    return is_signed(key, manifest.signature, manifest_text(federation, manifest, terms))


def proven_statement(federation: str, root: bytes, blob: bytes) -> Statement:
    """A statement's bytes, decoded. Raises `ProtocolError` unless the root key with the public half `root` made it."""
    try:
        statement = msgspec.msgpack.decode(blob, type=Statement)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"the gateway does not say who signs for it ({error})") from error
    if not is_signed(root, statement.signature, statement_text(federation, statement.epoch, statement.key)):
        raise ProtocolError(
            "another root key than the one that this device trusts (`root_key` in agent.toml) says who signs"
        )
    return statement


def read_root_key(path: Path) -> bytes:
    """A root key's public half, of a file that holds it in hexadecimal digits. Raises `ConfigurationError`."""
    try:
        key = bytes.fromhex(path.read_text("ascii"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no key in hexadecimal digits"
        raise ConfigurationError(f"root_key {path}: {reason}; `fedprune join` writes it") from error
    if len(key) != KEY_BYTES:
        raise ConfigurationError(f"root_key {path}: {len(key)} bytes instead of {KEY_BYTES}; join again")
    return key
