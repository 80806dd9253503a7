"""Serving contents: who asked for which chunks, and when each is sent.

Requests are gathered for a moment, so that what several peers lack is broadcast once. Chunks leave in *bursts*: the
next one waits until the link has `Drained` the last, so that nothing piles up in memory, however many ask and
however slow the broker is. A peer that asks for a content over and over has used its *credit* and is slowed.

Everything is an immutable value over persistent maps, so that an event costs the same for ten peers and ten thousand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeAlias

from rpds import HashTrieMap, HashTrieSet

from fedprune.wire.messages import Content, Need
from fedprune.wire.transfer import MAX_WINDOW, chunk_count, unpack_bitmap

GATHER_S = 0.1
"""Seconds for which requests are collected at most, so that what several peers lack is broadcast once."""

BURST_CHUNKS = 16
"""Chunks handed to the link at once, 2 MB: with as many again in its own buffers, all the memory that serving takes."""

FREE_COPIES = 3
"""Copies of a content that a peer may have sent without being slowed. Honest ones lose some chunks, and reconnect."""

REFILL_S = 120.0
"""Seconds in which a peer's credit grows by a copy again: a bad link costs more than one, but not for nothing."""

SLOW_S, LONGEST_SLOW_S = 15.0, 3600.0
"""Seconds that a peer waits once its credit is used; they double with each further copy, up to an hour."""

STALLED_S = 60.0
"""Seconds after which a burst that the link never reported as drained is taken for lost."""


@dataclass(frozen=True)
class SendChunk:
    """Publish a chunk: to one peer, or as a broadcast where `peer` is None."""

    content: Content
    index: int
    peer: str | None


@dataclass(frozen=True)
class _Account:
    """The chunks of a content that a peer has asked for, less those that time has forgiven, at the time `at`; and until
    when further requests of it are passed over."""

    served: float = 0.0
    at: float = 0.0
    slowed_until: float = 0.0


_Requests: TypeAlias = "HashTrieMap[tuple[bytes, int], HashTrieSet[str]]"
_Accounts: TypeAlias = "HashTrieMap[bytes, HashTrieMap[str, _Account]]"


_NO_ACCOUNTS: HashTrieMap[str, _Account] = HashTrieMap()
_NOBODY: HashTrieSet[str] = HashTrieSet()


@dataclass(frozen=True)
class Serving:
    """The contents that are offered, by digest, and what was asked for.

    `requests`: by digest and index, the peers that wait for a chunk; `askers`: those peers. `due_at`: when the next
    burst leaves, None while nothing is asked for or a burst is under way, which then is since `burst_at`.
    """

    contents: HashTrieMap[bytes, Content] = HashTrieMap()
    requests: _Requests = HashTrieMap()
    askers: HashTrieSet[str] = _NOBODY
    accounts: _Accounts = HashTrieMap()
    gathered_at: float | None = None
    burst_at: float | None = None

    @property
    def due_at(self) -> float | None:
        """The time at which `serve` has something to do; None while it has nothing."""
        if not self.requests:
            return None
        return self.gathered_at if self.burst_at is None else self.burst_at + STALLED_S

    def offer(self, content: Content) -> Serving:
        return replace(self, contents=self.contents.insert(content.digest, content))

    def withdraw(self, digest: bytes) -> Serving:
        """Offer a content no longer; what is asked of it is forgotten."""
        requests = self.requests
        for index in range(chunk_count(self.contents[digest].size)):
            requests = requests.discard((digest, index))
        return replace(
            self,
            contents=self.contents.remove(digest),
            accounts=self.accounts.discard(digest),
            requests=requests,
            askers=self.askers if requests else _NOBODY,
            gathered_at=self.gathered_at if requests else None,
        )

    def ask(self, peer: str, need: Need, now: float, *, expected: int) -> Serving:
        """`peer` lacks chunks. Once `expected` peers have asked nobody else is waited for.

        At most `MAX_WINDOW` of them count, the first ones, and none while the peer is slowed.

        Raises:
          ProtocolError: the bitmap is not one of the content's chunks.
          KeyError: no content of that digest is offered.
        """
        content = self.contents[need.digest]
        indexes = list(islice(unpack_bitmap(need.missing, chunk_count(content.size)), MAX_WINDOW))
        accounts = self.accounts.get(need.digest) or _NO_ACCOUNTS
        account = accounts.get(peer) or _Account()
        if not indexes or now < account.slowed_until:
            return self
        requests = self.requests
        for index in indexes:
            waiting = requests.get((need.digest, index)) or _NOBODY
            requests = requests.insert((need.digest, index), waiting.insert(peer))
        charged = _charge(account, len(indexes), content, now)
        askers = self.askers.insert(peer)
        gathered_at = now + GATHER_S if self.gathered_at is None else self.gathered_at
        return replace(
            self,
            requests=requests,
            askers=askers,
            accounts=self.accounts.insert(need.digest, accounts.insert(peer, charged)),
            gathered_at=min(gathered_at, now) if len(askers) >= expected else gathered_at,
        )

    def serve(self, now: float) -> tuple[Serving, tuple[SendChunk, ...]]:
        """The next burst, if it is time."""
        if self.due_at is None or now < self.due_at:
            return self, ()
        burst = sorted(self.requests)[:BURST_CHUNKS]
        chunks = tuple(self._chunk(*key) for key in burst)
        requests = self.requests
        for key in burst:
            requests = requests.remove(key)
        is_done = not requests
        return replace(
            self,
            requests=requests,
            askers=_NOBODY if is_done else self.askers,
            gathered_at=None if is_done else self.gathered_at,
            burst_at=now,
        ), chunks

    def drained(self) -> Serving:
        """The link has handed over all that it was given."""
        return replace(self, burst_at=None)

    def _chunk(self, digest: bytes, index: int) -> SendChunk:
        waiting = self.requests[digest, index]
        return SendChunk(self.contents[digest], index, next(iter(waiting)) if len(waiting) == 1 else None)


def _charge(account: _Account, chunks: int, content: Content, now: float) -> _Account:
    """Count what a peer asks for; past its credit it is slowed, the longer the more it asks."""
    copy = chunk_count(content.size)
    served = max(0.0, account.served - copy * (now - account.at) / REFILL_S) + chunks
    extra = served / copy - FREE_COPIES
    if extra < 0:
        return _Account(served, now)
    return _Account(served, now, now + min(SLOW_S * 2.0 ** min(extra, 16.0), LONGEST_SLOW_S))
