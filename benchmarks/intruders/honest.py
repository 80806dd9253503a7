"""The gateway's own messages, as its aggregator says them: what an intruder overhears, and can send once more."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from benchmarks.intruders.site import Site
from fedprune.identity.device_keys import DeviceKeys
from fedprune.identity.manifest_signer import ManifestSigner
from fedprune.wire.authentication import add_mac
from fedprune.wire.messages import (
    WEIGHTS_DIGEST_BYTES,
    Assignment,
    Content,
    Manifest,
    Message,
    Reason,
    Rejected,
    Terms,
    encode,
    greeting,
    kind_of,
)
from fedprune.wire.versions import SPOKEN

RUN = "run"
START = 3
_WEIGHTS = hashlib.sha256(b"weights").digest()


@dataclass(frozen=True)
class HonestGateway:
    """Speaks in the gateway's present epoch, with its keys."""

    site: Site
    signer: ManifestSigner
    keys: DeviceKeys

    @classmethod
    def of(cls, site: Site) -> HonestGateway:
        return cls(site, ManifestSigner(site.gateway.path, site.topics.federation), DeviceKeys(site.gateway.path))

    @property
    def terms(self) -> Terms:
        """Of a task that nobody sends."""
        task = Content(digest=bytes(32), size=1)
        return Terms(task=task, seed=0, clock_steps=1, codec="mask | int8", statement=self.signer.statement)

    def manifest(self, round_: int, start: int = START) -> bytes:
        said = greeting(Manifest(run=RUN, incarnation=start, round=round_), SPOKEN)
        return encode(self.signer.signed(said, self.terms, _WEIGHTS))

    def assignment(self, round_: int, start: int = START) -> Assignment:
        return Assignment(
            run=RUN,
            incarnation=start,
            round=round_,
            weights_digest=_WEIGHTS[:WEIGHTS_DIGEST_BYTES],
            seconds_left=3600,
            model=Content(digest=bytes(32), size=1),
            terms=self.terms,
        )

    def rejection(self, round_: int, start: int = START) -> Rejected:
        """A recall."""
        return Rejected(reason=Reason.NOT_SELECTED, epoch=self.signer.epoch, incarnation=start, round=round_)

    def to(self, agent: str, message: Message) -> tuple[str, bytes]:
        """Topic and payload of a message to an agent, with its code."""
        topic = self.site.topics.down(agent, kind_of(message))
        return topic, add_mac(self.keys.get(agent), topic, encode(message))
