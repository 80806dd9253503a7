"""A gateway's signatures, without the gateway: its root key, its epochs, and the manifests that it signs."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from fedprune.identity.signatures import new_signing_key, public_half, signature
from fedprune.wire.messages import PROVEN_DIGEST_BYTES, Assignment, Manifest, Terms, greeting
from fedprune.wire.proof import Statement, manifest_text, statement_text
from fedprune.wire.versions import SPOKEN
from tests.samples import TERMS, assignment, digest, manifest

FEDERATION = "tests"
WEIGHTS = digest("weights")


@dataclass(frozen=True)
class SigningGateway:
    """Signs in one epoch. `root` is the private root key."""

    epoch: int = 1
    root: bytes = field(default_factory=new_signing_key)
    key: bytes = field(default_factory=new_signing_key)
    federation: str = FEDERATION
    plain: Terms = TERMS

    @property
    def public_root(self) -> bytes:
        return public_half(self.root)

    @property
    def terms(self) -> Terms:
        """The terms of its runs, with its statement."""
        public = public_half(self.key)
        said = signature(self.root, statement_text(self.federation, self.epoch, public))
        statement = msgspec.msgpack.encode(Statement(self.epoch, public, said))
        return msgspec.structs.replace(self.plain, statement=statement)

    def in_epoch(self, epoch: int) -> SigningGateway:
        """The same gateway in another epoch."""
        return SigningGateway(epoch, self.root, federation=self.federation)

    def manifest(
        self, round_: int = 0, *, incarnation: int = 1, run: str = "abcd", weights: bytes = WEIGHTS, done: bool = False
    ) -> Manifest:
        plain = greeting(manifest(round_, run=run, incarnation=incarnation, done=done), SPOKEN)
        said = msgspec.structs.replace(plain, epoch=self.epoch, weights_digest=weights[:PROVEN_DIGEST_BYTES])
        text = manifest_text(self.federation, said, self.terms)
        return msgspec.structs.replace(said, signature=signature(self.key, text))

    def assignment(
        self, round_: int = 0, *, incarnation: int = 1, run: str = "abcd", with_terms: bool = True
    ) -> Assignment:
        return assignment(round_, run=run, incarnation=incarnation, terms=self.terms if with_terms else None)
