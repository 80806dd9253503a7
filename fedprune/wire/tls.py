"""TLS to a broker, with the files that the settings name."""

from __future__ import annotations

import ssl
from pathlib import Path

from fedprune.errors import ConfigurationError
from fedprune.system.disk import why_unreadable
from fedprune.wire.broker import Tls


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Raises `ConfigurationError` for files that cannot be used."""
    for path in (tls.ca, tls.certificate, tls.key):
        if path is not None and (why := why_unreadable(Path(path))):
            raise ConfigurationError(f"broker.tls: {path}: {why}; name a PEM file")
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key, password="")  # else OpenSSL asks whom it takes for a user
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"broker.tls: {error.strerror or error}; are these PEM files, and is the key without a password?"
        ) from error
    return context
