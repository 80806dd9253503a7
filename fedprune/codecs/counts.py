"""How many there are, in front of positions: of bytes, and of the positions of a tensor."""

from __future__ import annotations

from fedprune.codecs.range_coder import Chance, RangeDecoder, RangeEncoder
from fedprune.codecs.reader import Reader
from fedprune.errors import ProtocolError

_MOST_LENGTH_BYTES = 5

_MOST_COUNT_BITS = 40
"""Of a tensor's number of positions."""


def with_length(body: bytes) -> bytes:
    """Bytes behind how many they are: 7 bits in each, lowest first, with the top bit where another follows.

    Example:
        >>> with_length(bytes(200))[:2].hex()
        'c801'
    """
    length, written = len(body), bytearray()
    while length >= 128:
        written.append(length & 127 | 128)
        length >>= 7
    return bytes([*written, length]) + body


def read_with_length(reader: Reader) -> bytes:
    """Read what `with_length` wrote. Raises `ProtocolError` for anything else."""
    length = 0
    for place in range(_MOST_LENGTH_BYTES):
        byte = reader.take(1)[0]
        length |= (byte & 127) << 7 * place
        if byte < 128:
            if place and not byte:
                break
            return bytes(reader.take(length))
    raise ProtocolError("the length of the positions is not written as a writer writes it")


def count_chances() -> list[Chance]:
    """The counters of a message's numbers of positions."""
    return [Chance() for _ in range(_MOST_COUNT_BITS)]


def write_count(encoder: RangeEncoder, lengths: list[Chance], count: int) -> None:
    """Elias' gamma code of count + 1, with counters for its length."""
    length = (count + 1).bit_length() - 1
    for step in range(length):
        encoder.bit(lengths[step], 1)
    encoder.bit(lengths[length], 0)
    encoder.plain((count + 1) - (1 << length), length)


def read_count(decoder: RangeDecoder, lengths: list[Chance], most: int) -> int:
    """Read what `write_count` wrote. Raises `ProtocolError` for more than `most`."""
    length = 0
    while decoder.bit(lengths[length]):
        length += 1
        if length >= _MOST_COUNT_BITS:
            raise ProtocolError("a tensor has too many positions")
    count = (1 << length | decoder.plain(length)) - 1
    if count > most:
        raise ProtocolError(f"{count} positions of a tensor are sent, at most {most} may be")
    return count
