"""Serving contents: who asked for which chunks, and when each is sent.

Requests are gathered for a moment, so that what several peers lack is broadcast once. Chunks leave in *bursts*: the
next one waits until the link has `Drained` the last, so that nothing piles up in memory, however many ask and
however slow the broker is. A peer that asks for a content over and over has used its *credit* and is slowed. A broker
that hangs up on chunk after chunk is sent smaller ones.

Everything is an immutable value over persistent maps, so that an event costs the same for ten peers and ten thousand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

import msgspec
from rpds import HashTrieMap, HashTrieSet

from fedprune.system.values import replace
from fedprune.wire.messages import Content, Need
from fedprune.wire.transfer import CHUNK_SIZES, ENVELOPE_BYTES, MAX_WINDOW, chunk_count, chunk_sizes, needed, smaller

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


ON_ITS_WAY_S = 10.0
"""Seconds after a broadcast in which whoever follows need not be sent the chunk again, unless it says so."""

FOLLOWING_S = 30.0
"""Seconds, twice that at most, for which a peer that asked for a content is taken to follow its broadcast."""

HANG_UPS = 2
"""Bursts in a row during which the connection was lost, before the chunks are taken for too large."""


@dataclass(frozen=True)
class SendChunk:
    """Publish a chunk of the content when it is cut so: to one peer, or as a broadcast where `peer` is None."""

    content: Content
    index: int
    chunk_bytes: int
    peer: str | None


class _Account(msgspec.Struct, frozen=True, gc=False):
    """The copies of a content that a peer has asked for, less those that time has forgiven, at the time `at`; and until
    when further requests of it are passed over."""

    served: float = 0.0
    at: float = -math.inf
    slowed_until: float = 0.0


_NEW_ACCOUNT = _Account()
_Key: TypeAlias = tuple[bytes, int, int]
_Requests: TypeAlias = "HashTrieMap[_Key, HashTrieSet[str]]"
_Accounts: TypeAlias = "HashTrieMap[bytes, HashTrieMap[str, _Account]]"
_NO_ACCOUNTS: HashTrieMap[str, _Account] = HashTrieMap()
_NOBODY: HashTrieSet[str] = HashTrieSet()
_NO_BROADCASTS: HashTrieMap[_Key, float] = HashTrieMap()


@dataclass(frozen=True)
class _Followers:
    """How many peers asked for a content lately: so many `newer` since `since`, and `older` ones, which have not asked
    again, between `before` and then. Who they are is in their accounts, by when each asked last."""

    since: float
    before: float
    newer: int = 0
    older: int = 0

    def __len__(self) -> int:
        return self.newer + self.older

    def at(self, now: float) -> _Followers:
        if now - self.since < FOLLOWING_S:
            return self
        if now - self.since < 2 * FOLLOWING_S:
            return _Followers(now, self.since, older=self.newer)
        return _Followers(now, now)

    def has(self, asked_at: float) -> bool:
        """A peer that asked last at that time is one of them."""
        return asked_at >= self.before

    def heard(self, asked_at: float) -> _Followers:
        """A peer asks that asked last at that time."""
        if asked_at >= self.since:
            return self
        return replace(self, newer=self.newer + 1, older=self.older - self.has(asked_at))


_NO_FOLLOWERS: HashTrieMap[bytes, _Followers] = HashTrieMap()


@dataclass(frozen=True)
class Serving:
    """The contents that are offered, by digest, and what was asked for.

    `requests`: by digest, size of chunks and index, the peers that wait for a chunk; `askers`: those peers.
    `broadcasts`: when a chunk was last sent to all that follow. `due_at`: when the next burst leaves, None while
    nothing is asked for or a burst is under way, which then is since `burst_at`. No chunk is larger than `chunk_bytes`;
    `hang_ups` counts the bursts in a row that ended with the connection.
    """

    contents: HashTrieMap[bytes, Content] = HashTrieMap()
    requests: _Requests = HashTrieMap()
    askers: HashTrieSet[str] = _NOBODY
    accounts: _Accounts = HashTrieMap()
    followers: HashTrieMap[bytes, _Followers] = _NO_FOLLOWERS
    broadcasts: HashTrieMap[_Key, float] = _NO_BROADCASTS
    chunk_bytes: int = field(default_factory=lambda: CHUNK_SIZES[0])
    hang_ups: int = 0
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
        requests, broadcasts = self.requests, self.broadcasts
        for key in self.requests:
            requests = requests.remove(key) if key[0] == digest else requests
        for key in self.broadcasts:
            broadcasts = broadcasts.remove(key) if key[0] == digest else broadcasts
        return replace(
            self,
            contents=self.contents.remove(digest),
            accounts=self.accounts.discard(digest),
            followers=self.followers.discard(digest),
            broadcasts=broadcasts,
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
        indexes = list(islice(needed(need, content), MAX_WINDOW))
        accounts = self.accounts.get(need.digest) or _NO_ACCOUNTS
        account = accounts.get(peer) or _NEW_ACCOUNT
        if not indexes or now < account.slowed_until:
            return self
        requests, followers = self.requests, (self.followers.get(need.digest) or _Followers(now, now)).at(now)
        may_be_coming = followers.has(account.at) and not need.even_if_sent
        for key in self._keys(content, indexes, need.chunk_bytes):
            if not may_be_coming or now - self.broadcasts.get(key, -math.inf) >= ON_ITS_WAY_S:
                requests = requests.insert(key, (requests.get(key) or _NOBODY).insert(peer))
        charged = _charge(account, len(indexes) / chunk_count(content.size, need.chunk_bytes), now)
        noted = replace(
            self,
            accounts=self.accounts.insert(need.digest, accounts.insert(peer, charged)),
            followers=self.followers.insert(need.digest, followers.heard(account.at)),
        )
        if requests is self.requests:
            return noted
        askers = self.askers.insert(peer)
        gathered_at = now + GATHER_S if self.gathered_at is None else self.gathered_at
        return replace(
            noted,
            requests=requests,
            askers=askers,
            gathered_at=min(gathered_at, now) if len(askers) >= expected else gathered_at,
        )

    def serve(self, now: float) -> tuple[Serving, tuple[SendChunk, ...]]:
        """The next burst, if it is time. A chunk that goes to several peers one by one counts as several."""
        if self.due_at is None or now < self.due_at:
            return self, ()
        requests, broadcasts, chunks = self.requests, self.broadcasts, list[SendChunk]()
        for key in sorted(self.requests):
            if len(chunks) >= BURST_CHUNKS:
                break
            digest, chunk_bytes, index = key
            peers: list[str | None] = [None]
            if self._is_worth_a_broadcast(key):
                requests, broadcasts = requests.remove(key), broadcasts.insert(key, now)
            else:
                served = [*islice(requests[key], BURST_CHUNKS - len(chunks))]
                waiting = requests[key]
                for peer in served:
                    waiting = waiting.discard(peer)
                requests = requests.insert(key, waiting) if waiting else requests.remove(key)
                peers = [*served]
            chunks += (SendChunk(self.contents[digest], index, chunk_bytes, peer) for peer in peers)
        is_done = not requests
        return replace(
            self,
            requests=requests,
            broadcasts=broadcasts,
            askers=_NOBODY if is_done else self.askers,
            gathered_at=None if is_done else self.gathered_at,
            burst_at=now,
        ), tuple(chunks)

    def drained(self) -> Serving:
        """The link has handed over all that it was given."""
        return self if self.burst_at is None else replace(self, burst_at=None, hang_ups=0)

    def reconnected(self) -> tuple[Serving, str]:
        """The link is up again, and nothing is left of a burst that was under way; and what there is to tell people of
        a broker that hangs up on chunk after chunk, which are smaller from then on."""
        if self.burst_at is None:
            return self, ""
        again = replace(self, burst_at=None, hang_ups=self.hang_ups + 1)
        if again.hang_ups < HANG_UPS:
            return again, ""
        said = f"the broker hung up {again.hang_ups} times in a row on chunks of {self.chunk_bytes} bytes"
        size = smaller(CHUNK_SIZES, self.chunk_bytes)
        if size is None:
            return again, f"{said}: it must take messages of {self.chunk_bytes + ENVELOPE_BYTES} bytes"
        recut = replace(again, chunk_bytes=size, hang_ups=0, requests=HashTrieMap(), askers=_NOBODY, gathered_at=None)
        return recut, f"{said}: does it limit messages? Chunks have {size} bytes from now on"

    def _keys(self, content: Content, indexes: list[int], chunk_bytes: int) -> list[_Key]:
        """The chunks that are sent for those that were asked for: smaller ones, if the broker takes none so large."""
        size = min(chunk_bytes, max(self.chunk_bytes, chunk_sizes(content)[-1]))
        factor, count = chunk_bytes // size, chunk_count(content.size, size)
        cut = (i for index in indexes for i in range(index * factor, min((index + 1) * factor, count)))
        return [(content.digest, size, index) for index in cut]

    def _is_worth_a_broadcast(self, key: _Key) -> bool:
        """Several peers wait for the chunk, and of those that follow the others lack it too; or, where it was broadcast
        before, more than half of them wait for it."""
        waiting, followers = len(self.requests[key]), self.followers.get(key[0])
        if key not in self.broadcasts:
            return waiting > 1
        return waiting > 1 and 2 * waiting > (0 if followers is None else len(followers))


def _charge(account: _Account, copies: float, now: float) -> _Account:
    """Count what a peer asks for; past its credit it is slowed, the longer the more it asks."""
    served = max(0.0, account.served - (now - account.at) / REFILL_S) + copies
    extra = served - FREE_COPIES
    if extra < 0:
        return _Account(served, now)
    return _Account(served, now, now + min(SLOW_S * 2.0 ** min(extra, 16.0), LONGEST_SLOW_S))
