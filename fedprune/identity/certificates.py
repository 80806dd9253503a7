"""Certificates of a gateway's own authority: X.509, keys on P-256, signatures by ECDSA with SHA-256.

Pure, and the only module that needs the library cryptography, which devices load only to join. Certificates, keys and
requests are PEM. Whatever a function is given from outside is checked; a key is in no message and in no `repr`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from fedprune.errors import ProtocolError

BACKDATED = timedelta(days=730)
"""How long before it is made the authority begins: a Pi has no clock, and starts with the time of its last shutdown,
or with the day on which its system was built. All that it certifies begins with it, so that what was renewed while a
gateway's clock was ahead is valid still once the clock is right."""

AUTHORITY_LIFETIME = timedelta(days=20 * 365)
LIFETIME = timedelta(days=10 * 365)
"""Of all other certificates: what a device must not do any more is revoked, and does not wait for an end."""

RENEWED_BEFORE = timedelta(days=3 * 365)
"""How long before its end a certificate can be renewed: a device that was in a drawer for years can still do it."""

MAX_REQUEST_BYTES = 4096
"""Of a signing request: one with a key on P-256 takes 400 to 600."""


@dataclass(frozen=True)
class Credentials:
    """A certificate and its private key."""

    certificate: bytes
    key: bytes = field(repr=False)


def new_key() -> bytes:
    """A private key that needs no password."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def new_authority(name: str, now: datetime) -> Credentials:
    """A certificate authority, which may sign certificates and revocation lists, and no other authorities."""
    key = new_key()
    private = _private(key)
    begins, ends = now - BACKDATED, now + AUTHORITY_LIFETIME
    builder = _builder(_name(name), _name(name), private.public_key(), begins, ends)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
    return Credentials(_pem(builder.sign(private, hashes.SHA256())), key)


def issue_server(authority: Credentials, name: str, hosts: Sequence[str], now: datetime) -> Credentials:
    """A certificate of a server at `hosts`, names and addresses. As a client's it is worth nothing."""
    key = new_key()
    names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
    purpose = ExtendedKeyUsageOID.SERVER_AUTH
    return Credentials(_issue(authority, name, _private(key).public_key(), now, purpose, [names]), key)


def issue_client(authority: Credentials, name: str, now: datetime, lifetime: timedelta = LIFETIME) -> Credentials:
    """A certificate by which a client is `name`. As a server's it is worth nothing."""
    key = new_key()
    public = _private(key).public_key()
    return Credentials(_issue(authority, name, public, now, ExtendedKeyUsageOID.CLIENT_AUTH, [], lifetime), key)


def signing_request(key: bytes, name: str) -> bytes:
    """A request for a certificate of this key, which proves that who asks has it."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(name))
    return builder.sign(_private(key), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def requested_key(request: bytes) -> bytes:
    """The SHA-256 of the public key in a signing request.

    Raises `ProtocolError` for a request that is malformed, whose signature is wrong, or whose key is not on P-256.
    """
    return hashlib.sha256(_public_bytes(_requested(request))).digest()


def issue_requested(authority: Credentials, name: str, request: bytes, now: datetime) -> bytes:
    """The certificate by which whoever has the key of a signing request is the client `name`.

    Of the request the key alone is taken: what else it asks for, its name among it, is not the asker's to say.
    Raises `ProtocolError` as `requested_key` does.
    """
    return _issue(authority, name, _requested(request), now, ExtendedKeyUsageOID.CLIENT_AUTH, [])


def issue_again(authority: Credentials, certificate: bytes, now: datetime) -> bytes:
    """A client's certificate that this gateway has issued, once more: for the same name and key, with new dates."""
    former = x509.load_pem_x509_certificate(certificate)
    public = former.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    (name,) = former.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return _issue(authority, str(name.value), public, now, ExtendedKeyUsageOID.CLIENT_AUTH, [])


def revocation_list(authority: Credentials, serials: Collection[int], number: int) -> bytes:
    """The certificates of these serial numbers are void. `number` counts the lists of this authority, from 1.

    A list begins one second after the one before: of those that it has read OpenSSL goes by the one that begins last.
    It ends with the authority, since a list that ended would shut everybody out.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    begins = issuer.not_valid_before_utc + timedelta(seconds=number)
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
    builder = builder.last_update(begins).next_update(issuer.not_valid_after_utc)
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for serial in sorted(serials):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begins).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(_private(authority.key), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def is_pair(credentials: Credentials) -> bool:
    """The key is the certificate's: whoever restores files by hand may mix them up, or lose a part."""
    try:
        certified = x509.load_pem_x509_certificate(credentials.certificate).public_key()
        private = serialization.load_pem_private_key(credentials.key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return isinstance(private, ec.EllipticCurvePrivateKey) and private.public_key() == certified


def serial_number(certificate: bytes) -> int:
    """Of a certificate that this gateway has issued."""
    return x509.load_pem_x509_certificate(certificate).serial_number


def renewable_from(certificate: bytes) -> datetime:
    """From then on a certificate that this gateway has issued can be renewed."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc - RENEWED_BEFORE


def fingerprint(certificate: bytes) -> bytes:
    """The SHA-256 of a certificate's DER. Raises `ProtocolError` as `plain_certificate` does."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(plain_certificate(certificate).decode("ascii"))).digest()


def plain_certificate(text: bytes) -> bytes:
    """The certificate that a stranger's PEM begins with, in PEM that says nothing else.

    Whoever trusts what has the right fingerprint must take this: behind a certificate another may stand, which the
    fingerprint does not cover and OpenSSL would read. Raises `ProtocolError` if the text is no certificate in PEM.
    """
    try:
        return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(text.decode("ascii"))).encode("ascii")
    except ValueError as error:
        raise ProtocolError("not a certificate in PEM") from error


def _issue(
    authority: Credentials,
    name: str,
    public: ec.EllipticCurvePublicKey,
    now: datetime,
    purpose: ObjectIdentifier,
    more: Sequence[x509.ExtensionType],
    lifetime: timedelta = LIFETIME,
) -> bytes:
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    private = _private(authority.key)
    builder = _builder(_name(name), issuer.subject, public, issuer.not_valid_before_utc, now + lifetime)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key()), critical=False
    )
    for extension in more:
        builder = builder.add_extension(extension, critical=False)
    return _pem(builder.sign(private, hashes.SHA256()))


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(begins.astimezone(UTC)).not_valid_after(ends.astimezone(UTC))


def _requested(request: bytes) -> ec.EllipticCurvePublicKey:
    if len(request) > MAX_REQUEST_BYTES:
        raise ProtocolError(f"a signing request of {len(request)} bytes; at most {MAX_REQUEST_BYTES} are read")
    try:
        read = x509.load_pem_x509_csr(request)
        public = read.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
            raise ProtocolError("a signing request whose key is not on P-256")
        if not isinstance(read.signature_hash_algorithm, hashes.SHA256) or not read.is_signature_valid:
            raise ProtocolError("a signing request whose signature is wrong")
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise ProtocolError("not a signing request in PEM") from error
    return public


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private(key: bytes) -> ec.EllipticCurvePrivateKey:
    private = serialization.load_pem_private_key(key, password=None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return private


def _public_bytes(public: ec.EllipticCurvePublicKey) -> bytes:
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
