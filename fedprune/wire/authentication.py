"""Message authentication between the aggregator and one device, who share a key: the broker between them has none.

A message on a device's `up` and `down` topics is followed by `MAC_BYTES`, the beginning of HMAC-SHA-256 (RFC 2104) over
its topic, a zero byte, and itself. The topic is in it, so that no message counts as another device's, in the other
direction, or as another kind. A *context* that both sides know may stand behind it and is not sent: it is what the
message leaves unsaid (`fedprune.wire.unsaid`). What is broadcast is known by its digest, which came in an authenticated
message.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path

from fedprune.errors import ConfigurationError, ProtocolError

KEY_BYTES = 32
MAC_BYTES = 16


def add_mac(key: bytes | None, topic: str, message: bytes, context: bytes = b"") -> bytes:
    """The payload for a message in a context; without a key that is the message.

    Example:
        >>> payload = add_mac(bytes(32), "fp/x/u/1/pi-1/c", b"message")
        >>> len(payload), verified(bytes(32), "fp/x/u/1/pi-1/c", payload)
        (23, b'message')
    """
    return message if key is None else message + _mac(key, topic, message + context)


def verified(key: bytes | None, topic: str, payload: bytes) -> bytes:
    """The message in a payload. Raises `ProtocolError` if whoever sent it does not have the key."""
    return verified_in(key, topic, payload, ())[0]


def verified_in(key: bytes | None, topic: str, payload: bytes, contexts: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The message in a payload, and which of the `contexts` it was said in, b"" for none.

    Raises `ProtocolError` if whoever sent it does not have the key, or said it in another context.
    """
    if key is None:
        return payload, b""
    message, mac = payload[:-MAC_BYTES], payload[-MAC_BYTES:]
    for context in (b"", *contexts):
        if hmac.compare_digest(mac, _mac(key, topic, message + context)):
            return message, context
    raise ProtocolError(
        "it is not authentic: who sent it lacks the device's key (`authentication_key` in agent.toml, `gateway` in "
        "federation.toml)" + (", or it is of another round or run" if contexts else "")
    )


def read_key(path: Path) -> bytes:
    """The key in a file, in hexadecimal digits. Raises `ConfigurationError` if there is none."""
    try:
        key = bytes.fromhex(path.read_text("ascii"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no key in hexadecimal digits"
        raise ConfigurationError(f"authentication_key {path}: {reason}; `fedprune join` writes it") from error
    if len(key) != KEY_BYTES:
        raise ConfigurationError(f"authentication_key {path}: {len(key)} bytes instead of {KEY_BYTES}; join again")
    return key


def _mac(key: bytes, topic: str, message: bytes) -> bytes:
    return hmac.digest(key, topic.encode() + b"\0" + message, "sha256")[:MAC_BYTES]
