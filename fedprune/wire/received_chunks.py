"""Chunks of large contents on the disk, so that who is killed in the middle of one needs only what is left of it.

Each content has a file, named by its digest, to which each chunk is appended with a checksum. Nothing is synced, and a
file is deleted once its content is whole or not wanted any more: what comes in less time than the kernel holds back
writes, some 30 s, never reaches the card. What a power cut tears or loses is fetched again.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping

from fedprune.errors import StorageError
from fedprune.system.disk import Disk
from fedprune.wire.messages import Chunk, Content

RESUMABLE_BYTES = 2**20
"""Contents of fewer bytes are fetched again instead, which costs a link less than a card."""

_log = logging.getLogger(__name__)

SUFFIX = ".chunks"
"""Of the files' names."""

_DISK_SHARE = 0.5
"""Of the disk that is free without them: the rest is for what the contents become, and for everybody else."""

_HEAD = struct.Struct("<IIII")
"""Index, chunk_bytes, bytes of the data, CRC-32 of these three and the data."""


class ReceivedChunks:
    """The chunks on a `Disk`, of `most_bytes` together, and of half of its room at most; what comes beyond that is kept
    in memory alone.

    A disk that refuses ends nothing: it is said once, and nothing more is kept.
    """

    def __init__(self, disk: Disk, most_bytes: int) -> None:
        self._disk = disk
        self._most_bytes = most_bytes
        self._sizes: dict[bytes, int] = {}

    def read(self) -> Mapping[bytes, tuple[Chunk, ...]]:
        """All that an earlier process received, by the contents' digests. Raises `StorageError`."""
        found = {}
        for name in self._disk.names():
            if (digest := _digest_in(name)) is None:
                continue
            blob = self._disk.read(name) or b""
            chunks = tuple(_chunks_in(blob, digest))
            whole = sum(_HEAD.size + len(chunk.data) for chunk in chunks)
            if whole < len(blob):  # what is appended from now on must not stand behind a torn chunk
                self._disk.write(name, blob[:whole])
            self._sizes[digest] = whole
            found[digest] = chunks
        return found

    def keep(self, content: Content, chunk: Chunk) -> None:
        """Keep a chunk of a content that is not whole yet, if it is large and there is room."""
        record_bytes = _HEAD.size + len(chunk.data)
        before = sum(self._sizes.values())
        if content.size < RESUMABLE_BYTES or before + record_bytes > self._most_bytes:
            return
        crc = zlib.crc32(chunk.data, zlib.crc32(_said(chunk)))
        try:
            if before + record_bytes > _DISK_SHARE * (self._disk.free() + before):
                return
            self._disk.append(_name(content.digest), _said(chunk) + crc.to_bytes(4, "little") + chunk.data)
        except StorageError as error:
            _log.warning("what comes of contents is not kept for a restart: %s", error)
            self._most_bytes = 0
        else:
            self._sizes[content.digest] = self._sizes.get(content.digest, 0) + record_bytes

    def forget_all_but(self, wanted: Collection[bytes]) -> None:
        """Delete the chunks of contents that are whole, or are wanted no more. Raises `StorageError`."""
        for digest in [digest for digest in self._sizes if digest not in wanted]:
            self._disk.delete(_name(digest))
            del self._sizes[digest]

    @property
    def is_empty(self) -> bool:
        return not self._sizes


def _chunks_in(blob: bytes, digest: bytes) -> Iterator[Chunk]:
    """The chunks up to the first that is torn."""
    at = 0
    while at + _HEAD.size <= len(blob):
        index, chunk_bytes, length, crc = _HEAD.unpack_from(blob, at)
        data = blob[at + _HEAD.size : at + _HEAD.size + length]
        if len(data) != length or zlib.crc32(data, zlib.crc32(blob[at : at + _HEAD.size - 4])) != crc:
            return
        yield Chunk(digest=digest, index=index, data=data, chunk_bytes=chunk_bytes)
        at += _HEAD.size + length


def _said(chunk: Chunk) -> bytes:
    """The head of a chunk's record without the checksum."""
    return _HEAD.pack(chunk.index, chunk.chunk_bytes, len(chunk.data), 0)[:-4]


def _name(digest: bytes) -> str:
    return digest.hex() + SUFFIX


def _digest_in(name: str) -> bytes | None:
    try:
        return bytes.fromhex(name.removesuffix(SUFFIX)) if name.endswith(SUFFIX) else None
    except ValueError:
        return None
