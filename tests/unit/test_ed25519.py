"""Ed25519 as RFC 8032 has it, and as strict."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprune.wire.ed25519 import KEY_BYTES, SIGNATURE_BYTES, is_signed

VECTORS = {
    "1": (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    "2": (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "3": (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
}
"""Section 7.1: public key, message, signature."""

ORDER = 2**252 + 27742317777372353535851937790883648493
P = 2**255 - 19


def of(name: str) -> tuple[bytes, bytes, bytes]:
    key, message, signature = (bytes.fromhex(text) for text in VECTORS[name])
    return key, signature, message


@pytest.mark.parametrize("name", VECTORS)
def test_the_vectors_of_the_rfc_are_signed_and_no_other_message_is(name: str) -> None:
    key, signature, message = of(name)

    assert is_signed(key, signature, message)
    assert not is_signed(key, signature, message + b"\0")


def test_each_signature_has_one_form() -> None:
    """Section 5.1.7: S and S + L would be the same number, and some libraries take both."""
    key, signature, message = of("3")
    larger = int.from_bytes(signature[32:], "little") + ORDER

    assert not is_signed(key, signature[:32] + larger.to_bytes(32, "little"), message)


@pytest.mark.parametrize("number", [P, P + 1, 2**255 - 1, 1 | 1 << 255, (P - 1) | 1 << 255, 2])
def test_what_encodes_no_point_is_no_key(number: int) -> None:
    """Section 5.1.3: y not below p, x = 0 with a sign, and y of no point."""
    neutral = (1).to_bytes(32, "little")

    assert not is_signed(number.to_bytes(32, "little"), neutral + bytes(32), b"")


@pytest.mark.parametrize(("key_bytes", "signature_bytes"), [(31, 64), (33, 64), (32, 63), (32, 65), (0, 0)])
def test_other_lengths_are_no_key_and_no_signature(key_bytes: int, signature_bytes: int) -> None:
    key, signature, message = of("2")

    assert not is_signed((key + b"\0")[:key_bytes], (signature + b"\0")[:signature_bytes], message)


@settings(deadline=None, max_examples=60)
@given(
    st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES),
    st.binary(max_size=100),
    st.integers(0, 8 * 96 - 1),
    st.booleans(),
)
def test_the_verdict_is_that_of_the_library_whatever_bit_is_changed(
    seed: bytes, message: bytes, bit: int, is_changed: bool
) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    said = bytearray(private.public_key().public_bytes_raw() + private.sign(message))
    if is_changed:
        said[bit // 8] ^= 1 << bit % 8
    key, signature = bytes(said[:KEY_BYTES]), bytes(said[KEY_BYTES:])
    assert len(signature) == SIGNATURE_BYTES

    assert is_signed(key, signature, message) is accepted(key, signature, message)


def accepted(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
