"""A certificate authority of one's own, made with the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MISSING = "" if shutil.which("openssl") else "the openssl command is not installed"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

_SETTINGS = """
[ca]
default_ca = tests
[tests]
database = {directory}/index
new_certs_dir = {directory}
certificate = {directory}/ca.pem
private_key = {directory}/ca.key
rand_serial = yes
default_md = sha256
policy = names
x509_extensions = extensions
[names]
commonName = supplied
[extensions]
subjectAltName = {host}
"""
"""Of the openssl command's certificate authority, which alone takes dates."""


@dataclass(frozen=True)
class Authority:
    """`ca` is its certificate; `issue` makes more."""

    directory: Path

    def __post_init__(self) -> None:
        self.directory.mkdir()
        _openssl("req", "-x509", *_KEY, "-subj", "/CN=tests", "-keyout", self._key, "-out", self.ca)

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def _key(self) -> Path:
        return self.directory / "ca.key"

    def issue(self, name: str, *, host: str, years: tuple[int, int] = (2000, 2099)) -> tuple[Path, Path]:
        """(certificate, key) of a server or client `name`, for an address `host`, valid from the first of `years` on
        until the last begins."""
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        request, settings = self.directory / f"{name}.csr", self.directory / f"{name}.cnf"
        (self.directory / "index").write_text("")
        settings.write_text(_SETTINGS.format(directory=self.directory, host=host))
        _openssl("req", "-new", *_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        valid = ("-startdate", f"{years[0]}0101000000Z", "-enddate", f"{years[1]}0101000000Z")
        _openssl("ca", "-batch", "-notext", "-config", settings, *valid, "-in", request, "-out", certificate)
        return certificate, key


def encrypt(key: Path, password: str) -> None:
    """Let the key in this file need a password."""
    _openssl("ec", "-aes128", "-in", key, "-out", key, "-passout", f"pass:{password}")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
