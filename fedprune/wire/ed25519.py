"""Verification of Ed25519 signatures (RFC 8032, section 5.1), in Python alone.

Devices verify one signature a round. The library cryptography would do it faster, and takes 8 MB of the 45 that an idle
agent has; who makes signatures, the gateway, uses it. Nothing here is secret, so nothing has to take constant time. As
strict as the RFC: numbers must be below their modulus, and so each signature has one form only.
"""

from __future__ import annotations

import hashlib

KEY_BYTES = 32
SIGNATURE_BYTES = 64

_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT_OF_MINUS_ONE = pow(2, (_P - 1) // 4, _P)

_Point = tuple[int, int, int, int]
"""Extended coordinates (X, Y, Z, T) of section 5.1.4: x = X/Z, y = Y/Z, xy = T/Z."""

_NEUTRAL: _Point = (0, 1, 1, 0)

_BASE_X = 15112221349535400772501151409588531511454012693041857206046113283949847762202
_BASE_Y = 4 * pow(5, -1, _P) % _P
_BASE: _Point = (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % _P)


def is_signed(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the owner of a public key has signed a message; False also for what is no key or no signature.

    Args:
        key: the public key, `KEY_BYTES`.
        signature: `SIGNATURE_BYTES`.
        message: what was signed.

    Example:
        >>> key = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
        >>> is_signed(key, bytes(64), b"message")
        False
    """
    public = _decoded(key) if len(key) == KEY_BYTES else None
    if public is None or len(signature) != SIGNATURE_BYTES:
        return False
    commitment, s = signature[:32], int.from_bytes(signature[32:], "little")
    if s >= _ORDER:
        return False
    k = int.from_bytes(hashlib.sha512(commitment + key + message).digest(), "little") % _ORDER
    x, y, z, t = public
    return _encoded(_combined(s, _BASE, k, (-x % _P, y, z, -t % _P))) == commitment


def _combined(first: int, point: _Point, second: int, other: _Point) -> _Point:
    """`first` times `point` plus `second` times `other`, bit by bit of both."""
    summands = (None, point, other, _sum(point, other))
    total = _NEUTRAL
    for bit in reversed(range(max(first.bit_length(), second.bit_length()))):
        total = _double(total)
        summand = summands[(first >> bit & 1) | (second >> bit & 1) << 1]
        if summand is not None:
            total = _sum(total, summand)
    return total


def _sum(p: _Point, q: _Point) -> _Point:
    """Section 5.1.4."""
    a = (p[1] - p[0]) * (q[1] - q[0]) % _P
    b = (p[1] + p[0]) * (q[1] + q[0]) % _P
    c = 2 * _D * p[3] * q[3] % _P
    d = 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _double(p: _Point) -> _Point:
    """Section 5.1.4."""
    a, b, c = p[0] * p[0] % _P, p[1] * p[1] % _P, 2 * p[2] * p[2] % _P
    h = a + b
    e = h - (p[0] + p[1]) * (p[0] + p[1]) % _P
    g = a - b
    f = c + g
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _encoded(point: _Point) -> bytes:
    """Section 5.1.2."""
    inverse = pow(point[2], -1, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _decoded(blob: bytes) -> _Point | None:
    """Section 5.1.3; None for what is no point, or not in its one form."""
    value = int.from_bytes(blob, "little")
    sign, y = value >> 255, value & (2**255 - 1)
    if y >= _P:
        return None
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if v * x * x % _P != u:
        x = x * _ROOT_OF_MINUS_ONE % _P
        if v * x * x % _P != u:
            return None
    if x == 0 and sign:
        return None
    if x & 1 != sign:
        x = _P - x
    return x, y, 1, x * y % _P
