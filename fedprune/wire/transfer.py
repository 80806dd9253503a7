"""Receiving a content: a blob cut into chunks, known by its digest, asked for until all of it is here.

A PUBACK proves nothing (brokers acknowledge what they drop), so the receiver says which chunks it lacks, as a
bitmap. It asks for a *window* of them at a time, which bounds what is under way to it, and doubles the window while
everything comes, as far as its pace allows. Chunks may come twice, late and in any order. `fedprune.wire.serving` is
the other side.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from fedprune.errors import ProtocolError
from fedprune.wire.messages import MAX_MESSAGE_BYTES, Chunk, Content, Need

CHUNK_BYTES = MAX_MESSAGE_BYTES - 256
"""Payload of every chunk but the last; what is left of a message holds the envelope."""

FIRST_WINDOW = 8
"""Chunks asked for at first, 1 MB."""

MAX_WINDOW = 64
"""Chunks asked for at most, 8 MB: what a broker may have to hold for one slow agent."""

UNDER_WAY_S = 10.0
"""Seconds, at the pace that was seen, of chunks asked for beyond the first window: a cut connection loses them all."""

FIRST_PATIENCE_S = 30.0
"""Seconds without a chunk after which it is asked for again, as long as no pace was seen: 15 s a chunk at 64 kbit/s,
where two contents may come at once."""

MIN_PATIENCE_S, MAX_PATIENCE_S = 2.0, 600.0
"""Bounds of the patience that follows the pace."""

_PATIENCE_PACES = 4.0
"""A chunk may take so many times the pace that was seen."""

_PACE_WEIGHT = 0.25
"""Weight of the newest chunk in the pace, an exponential moving average."""


def content_of(blob: bytes) -> Content:
    return Content(digest=hashlib.sha256(blob).digest(), size=len(blob))


def chunk_count(size: int) -> int:
    return -(-size // CHUNK_BYTES)


def chunk_of(blob: bytes, digest: bytes, index: int) -> Chunk:
    return Chunk(digest=digest, index=index, data=blob[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])


def pack_bitmap(indexes: Iterable[int], count: int) -> bytes:
    """Bit i of byte i // 8, least significant first.

    >>> pack_bitmap({0, 9}, 12).hex()
    '0102'
    """
    return sum(1 << index for index in indexes).to_bytes(-(-count // 8), "little")


def unpack_bitmap(bitmap: bytes, count: int) -> Iterator[int]:
    """The indexes below `count` whose bit is set. Raises `ProtocolError` unless the bitmap has `count` bits."""
    if len(bitmap) != -(-count // 8):
        raise ProtocolError(f"need: a bitmap of {len(bitmap)} bytes for {count} chunks")
    return (index for index in range(count) if bitmap[index // 8] >> (index % 8) & 1)


@dataclass(frozen=True)
class Receiving:
    """A content on its way in: an immutable value, so that state machines can hold it.

    `parts` are the chunks that came, `asked` those that were asked for and did not. `pace` is the seconds that a
    chunk takes, None until one came. `heard_at` is when it was last asked, or a new chunk came; `attempt` counts
    the asks since. `key` draws the jitter.
    """

    content: Content
    key: str
    heard_at: float
    parts: Mapping[int, bytes] = field(default_factory=dict)
    asked: frozenset[int] = frozenset()
    window: int = FIRST_WINDOW
    pace: float | None = None
    attempt: int = 0

    @classmethod
    def begin(cls, content: Content, now: float, key: str = "", pace: float | None = None) -> tuple[Receiving, Need]:
        """Start to receive, and what to ask for first. `pace` is that of an earlier content."""
        return cls(content, key, now, pace=pace)._ask(now)

    @property
    def is_complete(self) -> bool:
        return len(self.parts) == chunk_count(self.content.size)

    @property
    def again_at(self) -> float:
        """The time at which what was asked for is asked for again. Jitter only lengthens it: impatience costs bytes."""
        patience = FIRST_PATIENCE_S if self.pace is None else max(MIN_PATIENCE_S, _PATIENCE_PACES * self.pace)
        jitter = 1.0 + random.Random(repr((self.key, self.content.digest, self.attempt))).random() / 2
        return self.heard_at + min(patience * 2.0 ** min(self.attempt, 16), MAX_PATIENCE_S) * jitter

    def add(self, chunk: Chunk, now: float) -> tuple[Receiving, Need | None]:
        """With `chunk` added, and what to ask for next, if the window has room.

        Raises:
          ProtocolError: it cannot be a chunk of this content. Nothing has changed.
        """
        self._check(chunk)
        if chunk.index in self.parts:
            return self, None
        took = max(0.0, now - self.heard_at)
        added = replace(
            self,
            parts={**self.parts, chunk.index: chunk.data},
            asked=self.asked - {chunk.index},
            pace=took if self.pace is None else self.pace + _PACE_WEIGHT * (took - self.pace),
            heard_at=now,
            attempt=0,
        )
        if added.is_complete or len(added.asked) > added.window // 2:
            return added, None
        grown = replace(added, window=added._grown_window())
        return grown._ask(now) if grown._next() else (added, None)

    def ask_again(self, now: float) -> tuple[Receiving, Need]:
        """Ask again for what may be lost, with half the window."""
        shrunk = replace(self, asked=frozenset(), window=max(FIRST_WINDOW, self.window // 2), attempt=self.attempt + 1)
        return shrunk._ask(now)

    def assemble(self) -> bytes:
        """The whole blob. Raises `ProtocolError` if its digest is wrong: then all of it must come again."""
        blob = b"".join(self.parts[index] for index in range(chunk_count(self.content.size)))
        if hashlib.sha256(blob).digest() != self.content.digest:
            raise ProtocolError(f"content {self.content.digest.hex()[:12]} arrived with another digest")
        return blob

    def _grown_window(self) -> int:
        """Twice the window, but no more chunks than come in `UNDER_WAY_S`: a slow link gains nothing by more."""
        assert self.pace is not None
        in_time = MAX_WINDOW if self.pace * MAX_WINDOW <= UNDER_WAY_S else int(UNDER_WAY_S / self.pace)
        return min(2 * self.window, max(FIRST_WINDOW, in_time))

    def _next(self) -> list[int]:
        """The first chunks that were neither asked for nor came, as many as the window has room for."""
        room = self.window - len(self.asked)
        wanted: list[int] = []
        for index in range(chunk_count(self.content.size)):
            if len(wanted) >= room:
                break
            if index not in self.parts and index not in self.asked:
                wanted.append(index)
        return wanted

    def _ask(self, now: float) -> tuple[Receiving, Need]:
        wanted = self._next()
        need = Need(digest=self.content.digest, missing=pack_bitmap(wanted, chunk_count(self.content.size)))
        return replace(self, asked=self.asked.union(wanted), heard_at=now), need

    def _check(self, chunk: Chunk) -> None:
        if chunk.digest != self.content.digest or chunk.index >= chunk_count(self.content.size):
            raise ProtocolError(f"chunk {chunk.index} is not of content {self.content.digest.hex()[:12]}")
        expected = min(CHUNK_BYTES, self.content.size - chunk.index * CHUNK_BYTES)
        if len(chunk.data) != expected:
            raise ProtocolError(f"chunk {chunk.index}: {len(chunk.data)} bytes, expected {expected}")
