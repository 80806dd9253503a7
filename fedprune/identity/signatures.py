"""Ed25519 keys, and signatures by them (RFC 8032), for a gateway. Devices verify by `fedprune.wire.ed25519`.

Keys are the raw 32 bytes of the RFC. A private one is in no message and in no `repr`.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def new_signing_key() -> bytes:
    """A private key."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_half(key: bytes) -> bytes:
    """The public key that goes with a private one."""
    return Ed25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()


def signature(key: bytes, text: bytes) -> bytes:
    """The signature of a text by a private key: the same one whenever it is made."""
    return Ed25519PrivateKey.from_private_bytes(key).sign(text)
