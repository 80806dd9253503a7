"""The dates between which a certificate is valid, read without a library: devices have none that does it.

X.509 (RFC 5280, section 4.1) in DER, as far as the validity: a few nested lengths. Nothing else is read or believed.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

from fedprune.errors import ProtocolError

_SEQUENCE, _INTEGER, _VERSION = 0x30, 0x02, 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def validity(pem: bytes) -> tuple[datetime, datetime]:
    """The first and the last moment of the first certificate in PEM. Raises `ProtocolError` if there is none."""
    try:
        _, begin, rest = pem.decode("ascii", "replace").partition(_BEGIN)
        body, end, _ = rest.partition(_END)
        if not begin or not end:
            raise ValueError
        return _validity(ssl.PEM_cert_to_DER_cert(f"{_BEGIN}{body}{_END}\n"))
    except (ValueError, IndexError) as error:
        raise ProtocolError("no certificate in PEM is in it") from error


def _validity(der: bytes) -> tuple[datetime, datetime]:
    certificate, _ = _element(der, _SEQUENCE)
    fields, _ = _element(certificate, _SEQUENCE)
    if fields[0] == _VERSION:
        _, fields = _element(fields, _VERSION)
    for tag in (_INTEGER, _SEQUENCE, _SEQUENCE):  # serial number, signature algorithm, issuer
        _, fields = _element(fields, tag)
    dates, _ = _element(fields, _SEQUENCE)
    begins, rest = _time(dates)
    ends, _ = _time(rest)
    return begins, ends


def _element(der: bytes, tag: int) -> tuple[bytes, bytes]:
    """The content of the first element, which must have this tag, and what follows it. Raises `ValueError`."""
    if der[0] != tag:
        raise ValueError
    length, start = der[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start], "big")
    if start + length > len(der):
        raise ValueError
    return der[start : start + length], der[start + length :]


def _time(der: bytes) -> tuple[datetime, bytes]:
    """Years of two digits are 1950 to 2049 (RFC 5280, section 4.1.2.5.1)."""
    text, rest = _element(der, der[0])
    written = text.decode("ascii")
    if der[0] == _UTC_TIME:
        written = f"{19 if int(written[:2]) >= 50 else 20}{written}"
    elif der[0] != _GENERALIZED_TIME:
        raise ValueError
    return datetime.strptime(written, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC), rest
