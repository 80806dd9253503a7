"""Content transfer: a blob cut into chunks, known by its digest, sent again on demand.

A PUBACK proves nothing (brokers acknowledge what they drop), so the receiver says which chunks it lacks, as a
bitmap, until the whole blob's digest is right. Chunks may come twice, late and in any order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from fedprune.errors import ProtocolError
from fedprune.wire.messages import MAX_MESSAGE_BYTES, Chunk, Content

CHUNK_BYTES = MAX_MESSAGE_BYTES - 256
"""Payload of every chunk but the last; what is left of a message holds the envelope."""


def content_of(blob: bytes) -> Content:
    return Content(digest=hashlib.sha256(blob).digest(), size=len(blob))


def chunk_count(size: int) -> int:
    return -(-size // CHUNK_BYTES)


def chunk_of(blob: bytes, digest: bytes, index: int) -> Chunk:
    return Chunk(digest=digest, index=index, data=blob[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])


def all_missing(size: int) -> bytes:
    """The bitmap that asks for every chunk of a content of `size` bytes."""
    return pack_bitmap(frozenset(range(chunk_count(size))), chunk_count(size))


def pack_bitmap(indexes: frozenset[int], count: int) -> bytes:
    """Bit i of byte i // 8, least significant first."""
    return sum(1 << index for index in indexes).to_bytes(-(-count // 8), "little")


def unpack_bitmap(bitmap: bytes, count: int) -> Iterator[int]:
    """The indexes below `count` whose bit is set. Raises `ProtocolError` unless the bitmap has `count` bits."""
    if len(bitmap) != -(-count // 8):
        raise ProtocolError(f"need: a bitmap of {len(bitmap)} bytes for {count} chunks")
    return (index for index in range(count) if bitmap[index // 8] >> (index % 8) & 1)


@dataclass(frozen=True)
class Incoming:
    """A content on its way in: an immutable value, so that state machines can hold it."""

    content: Content
    parts: Mapping[int, bytes] = field(default_factory=dict)

    def add(self, chunk: Chunk) -> Incoming:
        """With `chunk` added. Raises `ProtocolError` if it cannot be a chunk of this content."""
        count = chunk_count(self.content.size)
        if chunk.digest != self.content.digest or chunk.index >= count:
            raise ProtocolError(f"chunk {chunk.index} is not of content {self.content.digest.hex()[:12]}")
        expected = min(CHUNK_BYTES, self.content.size - chunk.index * CHUNK_BYTES)
        if len(chunk.data) != expected:
            raise ProtocolError(f"chunk {chunk.index}: {len(chunk.data)} bytes, expected {expected}")
        if chunk.index in self.parts:
            return self
        return replace(self, parts={**self.parts, chunk.index: chunk.data})

    @property
    def is_complete(self) -> bool:
        return len(self.parts) == chunk_count(self.content.size)

    @property
    def missing(self) -> bytes:
        """The bitmap of chunks still to come."""
        count = chunk_count(self.content.size)
        return pack_bitmap(frozenset(range(count)) - self.parts.keys(), count)

    def assemble(self) -> bytes:
        """The whole blob. Raises `ProtocolError` if its digest is wrong: then all of it must come again."""
        blob = b"".join(self.parts[index] for index in range(chunk_count(self.content.size)))
        if hashlib.sha256(blob).digest() != self.content.digest:
            raise ProtocolError(f"content {self.content.digest.hex()[:12]} arrived with another digest")
        return blob
