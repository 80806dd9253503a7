"""The aggregator's side of signed manifests: the key of the epoch, and the count of starts that manifests go by."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fedprune.errors import ConfigurationError
from fedprune.identity.devices import Devices
from fedprune.identity.epochs import load_signing
from fedprune.identity.gateway import open_gateway
from fedprune.identity.signatures import signature
from fedprune.wire.messages import PROVEN_DIGEST_BYTES, Manifest, Terms
from fedprune.wire.proof import manifest_text


class ManifestSigner:
    """Signs the manifests of one federation, as the gateway in a directory.

    Raises `ConfigurationError` if the directory is no gateway's, or of another federation; `StorageError` if what it
    signs by is gone or damaged.
    """

    def __init__(self, directory: Path, federation: str) -> None:
        served = open_gateway(directory).settings.federation
        if served != federation:
            raise ConfigurationError(f'{directory}: the gateway of federation {served}; set name = "{served}"')
        self._federation, self._signing = federation, load_signing(directory)
        self._devices = Devices(directory)

    @property
    def epoch(self) -> int:
        return self._signing.epoch

    @property
    def statement(self) -> bytes:
        """The root key's word on who signs."""
        return self._signing.statement

    def count_start(self) -> int:
        """The number of one more start of an aggregator on this gateway, of whatever run: later manifests are known by
        larger ones."""
        return self._devices.count_start()

    def signed(self, manifest: Manifest, terms: Terms, weights_digest: bytes) -> Manifest:
        """A manifest with its signature, in a run with these terms; `weights_digest` is that of the round's model."""
        said = msgspec.structs.replace(
            manifest, epoch=self.epoch, weights_digest=weights_digest[:PROVEN_DIGEST_BYTES], signature=b""
        )
        text = manifest_text(self._federation, said, terms)
        return msgspec.structs.replace(said, signature=signature(self._signing.key, text))
