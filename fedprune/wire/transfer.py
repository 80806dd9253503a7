"""Receiving a content: a blob cut into chunks, known by its digest, asked for until all of it is here.

A PUBACK proves nothing (brokers acknowledge what they drop), so the receiver says which chunks it lacks, as a
bitmap. It asks for a *window* of them at a time, which bounds what is under way to it, and doubles the window while
everything comes, as far as its pace allows. Chunks may come twice, late and in any order. Where none comes, though the
other side is there, they may be too large for the broker: then smaller ones are asked for. `fedprune.wire.serving` is
the other side.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from fedprune.errors import ProtocolError
from fedprune.system.values import replace
from fedprune.wire.messages import CHUNK_BYTES, Chunk, Content, Need

CHUNK_SIZES = (CHUNK_BYTES, CHUNK_BYTES // 8, CHUNK_BYTES // 64)
"""The sizes into which contents may be cut, largest first; each is a whole number of the next. A content is asked for
in the first one, and in a smaller one where that does not come: 15 kB, then 2 kB."""

ENVELOPE_BYTES = 256
"""Of a message, at most, beside a chunk's data."""

FIRST_WINDOW = 4
"""Chunks asked for at first, 0.5 MB."""

MIN_WINDOW = 2
"""Chunks asked for at least: while one comes the next is on its way."""

MAX_WINDOW = 64
"""Chunks asked for at most, 8 MB: what a broker may have to hold for one slow agent."""

UNDER_WAY_S = 2.0
"""Seconds, at the pace that was seen, of chunks asked for at once: a cut connection loses them all. An answer takes
less, so a link is never idle."""

FIRST_PATIENCE_S = 30.0
"""Seconds without a chunk after which it is asked for again, as long as no pace was seen: 15 s a chunk at 64 kbit/s,
where two contents may come at once."""

MIN_PATIENCE_S, MAX_PATIENCE_S = 2.0, 600.0
"""Bounds of the patience that follows the pace."""

PROVEN_ATTEMPTS = 3
"""Asks without a chunk after which even a size that came before is given up: somebody may have set the broker anew."""

_PATIENCE_PACES = 4.0
"""A chunk may take so many times the pace that was seen."""

_PACE_WEIGHT = 0.25
"""Weight of the newest chunk in the pace, an exponential moving average."""


def content_of(blob: bytes) -> Content:
    return Content(digest=hashlib.sha256(blob).digest(), size=len(blob))


def chunk_count(size: int, chunk_bytes: int) -> int:
    return -(-size // chunk_bytes)


def chunk_of(blob: bytes, digest: bytes, index: int, chunk_bytes: int) -> Chunk:
    data = blob[index * chunk_bytes : (index + 1) * chunk_bytes]
    return Chunk(digest=digest, index=index, data=data, chunk_bytes=chunk_bytes)


def chunk_sizes(content: Content) -> tuple[int, ...]:
    """The sizes into which a content may be cut, largest first: where a need is no larger than a chunk."""
    return tuple(size for size in CHUNK_SIZES if chunk_count(content.size, size) <= 8 * size)


def smaller(sizes: tuple[int, ...], chunk_bytes: int) -> int | None:
    """The next smaller size of chunks; None if there is none."""
    return next((size for size in sizes if size < chunk_bytes), None)


def need_of(content: Content, indexes: Iterable[int], chunk_bytes: int, *, even_if_sent: bool = False) -> Need:
    missing = pack_bitmap(indexes, chunk_count(content.size, chunk_bytes))
    return Need(digest=content.digest, missing=missing, chunk_bytes=chunk_bytes, even_if_sent=even_if_sent)


def needed(need: Need, content: Content) -> Iterator[int]:
    """The indexes that a need asks for. Raises `ProtocolError` unless it can be one of this content."""
    if need.chunk_bytes not in chunk_sizes(content):
        raise ProtocolError(f"need: {content.size} bytes are not cut into chunks of {need.chunk_bytes}")
    return unpack_bitmap(need.missing, chunk_count(content.size, need.chunk_bytes))


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
class LinkTraits:
    """The traits of a link that receiving has shown: the size of chunks to ask for, whether a chunk of that size came,
    and the seconds that one takes, None until one came."""

    chunk_bytes: int = field(default_factory=lambda: CHUNK_SIZES[0])
    is_proven: bool = False
    pace: float | None = None

    def cut(self, chunk_bytes: int) -> LinkTraits:
        """The traits where chunks are so small; the same if they are no larger anyhow."""
        if chunk_bytes >= self.chunk_bytes:
            return self
        pace = None if self.pace is None else self.pace * chunk_bytes / self.chunk_bytes
        return LinkTraits(chunk_bytes, pace=pace)

    def chunks_in_time(self) -> int:
        """The chunks that come in `UNDER_WAY_S`: a link gains nothing by more under way."""
        if self.pace is None or self.pace * MAX_WINDOW <= UNDER_WAY_S:
            return MAX_WINDOW
        return max(MIN_WINDOW, int(UNDER_WAY_S / self.pace))


@dataclass(frozen=True)
class Receiving:
    """A content on its way in: an immutable value, so that state machines can hold it.

    `parts` are the chunks that came, `asked` those that were asked for and did not, by their indexes among chunks of
    `link.chunk_bytes`. `heard_at` is when it was last asked, or a new chunk came; `attempt` counts the asks of this
    size since, `unanswered` those of any. `key` draws the jitter.
    """

    content: Content
    key: str
    heard_at: float
    link: LinkTraits
    window: int = FIRST_WINDOW
    parts: Mapping[int, bytes] = field(default_factory=dict)
    asked: frozenset[int] = frozenset()
    attempt: int = 0
    unanswered: int = 0

    @classmethod
    def begin(
        cls, content: Content, now: float, key: str = "", link: LinkTraits | None = None
    ) -> tuple[Receiving, Need]:
        """Start to receive, and what to ask for first. `link` is what an earlier content has shown."""
        return cls._nothing_of(content, now, key, link)._ask(now, even_if_sent=True)

    @classmethod
    def resume(
        cls, content: Content, now: float, key: str = "", link: LinkTraits | None = None, came: Iterable[Chunk] = ()
    ) -> tuple[Receiving, Need | None]:
        """`begin` with the chunks that came to another process, and what to ask for, if anything is missing.

        What cannot be of this content is passed over; where together they have another digest, all come again.
        """
        resumed = cls._nothing_of(content, now, key, link)._with(came)
        if not resumed.is_complete:
            return resumed._ask(now, even_if_sent=True)
        try:
            resumed.assemble()
        except ProtocolError:
            return cls.begin(content, now, key, link)
        return resumed, None

    @classmethod
    def _nothing_of(cls, content: Content, now: float, key: str, link: LinkTraits | None) -> Receiving:
        sizes, link = chunk_sizes(content), link or LinkTraits()
        if link.chunk_bytes not in sizes:
            link = LinkTraits(smaller(sizes, link.chunk_bytes) or sizes[-1])
        return cls(content, key, now, link, min(FIRST_WINDOW, link.chunks_in_time()))

    @property
    def count(self) -> int:
        """The chunks of the content."""
        return chunk_count(self.content.size, self.link.chunk_bytes)

    @property
    def is_complete(self) -> bool:
        return len(self.parts) == self.count

    @property
    def again_at(self) -> float:
        """The time at which what was asked for is asked for again. Jitter only lengthens it: impatience costs bytes."""
        pace = self.link.pace
        patience = FIRST_PATIENCE_S if pace is None else max(MIN_PATIENCE_S, _PATIENCE_PACES * pace)
        jitter = 1.0 + random.Random(repr((self.key, self.content.digest, self.attempt))).random() / 2
        return self.heard_at + min(patience * 2.0 ** min(self.attempt, 16), MAX_PATIENCE_S) * jitter

    def add(self, chunk: Chunk, now: float) -> tuple[Receiving, Need | None]:
        """With `chunk` added, and what to ask for next, if the window has room.

        A sender may cut what was asked for into smaller chunks: it knows what its broker takes. Then they are asked for
        in that size from now on. Larger ones, as they were asked for earlier, count as several.

        Raises:
          ProtocolError: it cannot be a chunk of this content. Nothing has changed.
        """
        self._check(chunk)
        cut = self._cut(chunk.chunk_bytes)
        new = {index: data for index, data in cut._pieces(chunk).items() if index not in cut.parts}
        if not new:
            return self, None
        took, pace = max(0.0, now - self.heard_at) / len(new), cut.link.pace
        pace = took if pace is None else pace + _PACE_WEIGHT * (took - pace)
        added = replace(
            cut,
            parts={**cut.parts, **new},
            asked=cut.asked - new.keys(),
            link=LinkTraits(cut.link.chunk_bytes, cut.link.is_proven or cut._proves(chunk), pace),
            heard_at=now,
            attempt=0,
            unanswered=0,
        )
        if added.is_complete or len(added.asked) > added.window // 2:
            return added, None
        grown = replace(added, window=min(2 * added.window, added.link.chunks_in_time()))
        return grown._ask(now) if grown._next() else (added, None)

    def ask_again(self, now: float, *, is_heard: bool) -> tuple[Receiving, Need]:
        """Ask again for what did not come in time, with half the window.

        `is_heard`: the other side has answered something since it was last asked. Then chunks of this size seem not to
        pass, and smaller ones are asked for.
        """
        size = self._smaller()
        again = replace(self, attempt=self.attempt + 1, unanswered=self.unanswered + 1)
        if size is not None and is_heard and (not self.link.is_proven or again.attempt >= PROVEN_ATTEMPTS):
            link = replace(self.link.cut(size), pace=None)  # it was of chunks that came
            again = replace(again._cut(size), link=link, attempt=0, window=FIRST_WINDOW)
        return again._shrunk()._ask(now, even_if_sent=True)

    def ask_anew(self, now: float) -> tuple[Receiving, Need]:
        """Ask again since the connection was cut, or the other side was started anew: what was under way is lost.

        Where a single chunk takes long they become smaller, or each cut would cost as much as comes between two.
        """
        size = self._smaller()
        is_slow = self.link.pace is not None and self.link.pace > UNDER_WAY_S
        again = self._cut(size) if size is not None and is_slow else self
        return replace(again, unanswered=self.unanswered + 1)._shrunk()._ask(now, even_if_sent=True)

    def excused(self) -> Receiving:
        """The same, where what was asked for may have been lost with a connection: that it did not come says nothing of
        the size of chunks."""
        return replace(self, attempt=0, unanswered=0) if self.unanswered else self

    def assemble(self) -> bytes:
        """The whole blob. Raises `ProtocolError` if its digest is wrong: then all of it must come again."""
        blob = b"".join(self.parts[index] for index in range(self.count))
        if hashlib.sha256(blob).digest() != self.content.digest:
            raise ProtocolError(f"content {self.content.digest.hex()[:12]} arrived with another digest")
        return blob

    def _with(self, chunks: Iterable[Chunk]) -> Receiving:
        """With chunks that tell nothing of the link: they came long ago."""
        ours = [chunk for chunk in chunks if self._is_ours(chunk)]
        cut = self._cut(min((chunk.chunk_bytes for chunk in ours), default=self.link.chunk_bytes))
        parts: dict[int, bytes] = {}
        for chunk in ours:
            parts |= cut._pieces(chunk)
        return replace(cut, parts=parts)

    def _is_ours(self, chunk: Chunk) -> bool:
        try:
            self._check(chunk)
        except ProtocolError:
            return False
        return True

    def _smaller(self) -> int | None:
        """The next smaller size of chunks, if the content does not fit into one anyhow."""
        size = smaller(chunk_sizes(self.content), self.link.chunk_bytes)
        return size if size is not None and size < self.content.size else None

    def _shrunk(self) -> Receiving:
        return replace(self, asked=frozenset(), window=max(MIN_WINDOW, self.window // 2))

    def _cut(self, chunk_bytes: int) -> Receiving:
        """The same in smaller chunks, if those are smaller."""
        if chunk_bytes >= self.link.chunk_bytes:
            return self
        factor = self.link.chunk_bytes // chunk_bytes
        parts = {}
        for index, data in self.parts.items():
            parts.update(_split(data, index * factor, chunk_bytes))
        count = chunk_count(self.content.size, chunk_bytes)
        asked = frozenset(i for index in self.asked for i in range(index * factor, min((index + 1) * factor, count)))
        window = min(MAX_WINDOW, self.window * factor)
        return replace(self, link=self.link.cut(chunk_bytes), parts=parts, asked=asked, window=window)

    def _proves(self, chunk: Chunk) -> bool:
        """A chunk is so large that others of this size will come too."""
        size = smaller(CHUNK_SIZES, self.link.chunk_bytes)
        return size is None or len(chunk.data) > size

    def _pieces(self, chunk: Chunk) -> dict[int, bytes]:
        """A chunk, no smaller than ours, as chunks of our size."""
        return _split(chunk.data, chunk.index * chunk.chunk_bytes // self.link.chunk_bytes, self.link.chunk_bytes)

    def _next(self) -> list[int]:
        """The first chunks that were neither asked for nor came, as many as the window has room for."""
        room = self.window - len(self.asked)
        wanted: list[int] = []
        for index in range(self.count):
            if len(wanted) >= room:
                break
            if index not in self.parts and index not in self.asked:
                wanted.append(index)
        return wanted

    def _ask(self, now: float, *, even_if_sent: bool = False) -> tuple[Receiving, Need]:
        wanted = self._next()
        asking = replace(self, asked=self.asked.union(wanted), heard_at=now)
        return asking, need_of(self.content, wanted, self.link.chunk_bytes, even_if_sent=even_if_sent)

    def _check(self, chunk: Chunk) -> None:
        if chunk.chunk_bytes not in chunk_sizes(self.content):
            raise ProtocolError(f"chunk {chunk.index}: {self.content.size} bytes are not cut into {chunk.chunk_bytes}")
        if chunk.digest != self.content.digest or chunk.index >= chunk_count(self.content.size, chunk.chunk_bytes):
            raise ProtocolError(f"chunk {chunk.index} is not of content {self.content.digest.hex()[:12]}")
        expected = min(chunk.chunk_bytes, self.content.size - chunk.index * chunk.chunk_bytes)
        if len(chunk.data) != expected:
            raise ProtocolError(f"chunk {chunk.index}: {len(chunk.data)} bytes, expected {expected}")


def _split(data: bytes, first: int, chunk_bytes: int) -> dict[int, bytes]:
    """Data as chunks with indexes from `first` on."""
    if len(data) <= chunk_bytes:
        return {first: data}
    starts = range(0, len(data), chunk_bytes)
    return {first + at: data[start : start + chunk_bytes] for at, start in enumerate(starts)}
