"""A certificate authority of one's own, made with the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MISSING = "" if shutil.which("openssl") else "the openssl command is not installed"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


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

    def issue(self, name: str, *, host: str) -> tuple[Path, Path]:
        """(certificate, key) of a server or client `name`, for an address `host`."""
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        request, extensions = self.directory / f"{name}.csr", self.directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName = {host}\n")
        _openssl("req", "-new", *_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        signing = ("-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions)
        _openssl("x509", "-req", "-in", request, *signing, "-out", certificate)
        return certificate, key


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
