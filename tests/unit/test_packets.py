"""A stream of packets in which none is larger than the bound: what is small passes unchanged, what is large is cut."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.wire import packets
from fedprune.wire.packets import BoundedPackets

LIMIT = 300


def digits(length: int) -> bytes:
    first, rest = length & 0x7F, length >> 7
    return bytes([first | 0x80]) + digits(rest) if rest else bytes([first])


def packet(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + digits(len(body)) + body


def publish(topic: bytes, payload: bytes, flags: int = 0b0010) -> bytes:
    identifier = b"\x12\x34" if flags & 0b110 else b""
    return packet(0x30 | flags, len(topic).to_bytes(2, "big") + topic + identifier + payload)


@dataclass
class Socket:
    """Gives a stream in pieces, and has nothing between them."""

    pieces: list[bytes]
    largest_read: int = 0
    held: bool = field(default=False)

    def read(self, size: int) -> bytes:
        self.largest_read = max(self.largest_read, size)
        if not self.pieces:
            return b""
        piece = self.pieces[0]
        if not piece:
            self.pieces.pop(0)
            raise BlockingIOError
        self.pieces[0] = piece[size:]
        return piece[:size]


def read_all(stream: BoundedPackets) -> list[tuple[bytes, bool]]:
    """Every packet as it comes, and whether it was cut, read byte by byte as far as its length, as paho does."""
    packets = []
    while True:
        one = bytearray()
        length = None
        while length is None or len(one) < length:
            try:
                data = stream.recv(1 if length is None else length - len(one))
            except BlockingIOError:
                continue
            if not data:
                assert not one
                return packets
            one += data
            if length is None and len(one) > 1 and not one[-1] & 0x80:
                length = len(one) + sum((digit & 0x7F) << (7 * index) for index, digit in enumerate(one[1:]))
        packets.append((bytes(one), stream.is_cut))


def through(whole: bytes, *cuts: int) -> list[tuple[bytes, bool]]:
    edges = [0, *sorted(cuts), len(whole)]
    pieces = [whole[start:end] for start, end in itertools.pairwise(edges)]
    return read_all(BoundedPackets(Socket(pieces).read, lambda: False, LIMIT))


_packets = st.one_of(
    st.builds(publish, st.binary(max_size=40), st.binary(max_size=3 * LIMIT), st.sampled_from([0, 1, 2, 3, 0b1010])),
    st.builds(packet, st.sampled_from([0x20, 0x40, 0x90, 0xD0]), st.binary(max_size=LIMIT)),
)


@given(st.lists(_packets, max_size=8), st.data())
def test_small_packets_pass_and_large_ones_lose_their_payload_however_the_stream_comes(
    packets: list[bytes], data: st.DataObject
) -> None:
    whole = b"".join(packets)
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=6))

    came = through(whole, *cuts)

    assert len(came) == len(packets)
    for (got, is_cut), sent in zip(came, packets, strict=True):
        start = 1 + next(index for index, digit in enumerate(sent[1:], 1) if not digit & 0x80)
        if len(sent) - start <= LIMIT:
            assert (got, is_cut) == (sent, False)
        else:
            topic = sent[start + 2 : start + 2 + int.from_bytes(sent[start : start + 2], "big")]
            assert (got, is_cut) == (publish(topic, b"", sent[0] & 0x0F), True)


def test_a_huge_payload_is_never_asked_for_at_once() -> None:
    socket = Socket([publish(b"a", bytes(10_000_000))])

    read_all(BoundedPackets(socket.read, lambda: False, LIMIT))

    assert socket.largest_read <= 64 * 1024


def test_a_long_topic_is_not_looked_at_for_each_of_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may publish can choose one of 65,535, and would keep the link from all else."""
    looks, look = list[int](), packets._length_in

    def count(head: bytearray) -> tuple[int, int]:
        looks.append(len(head))
        return look(head)

    monkeypatch.setattr(packets, "_length_in", count)
    long = publish(b"t" * 65_535, bytes(LIMIT))

    assert through(long, 3, 40_000) == [(publish(b"t" * 65_535, b""), True)]
    assert len(looks) < 10


def test_nothing_is_read_while_it_is_held_but_a_packet_that_has_begun() -> None:
    socket = Socket([publish(b"a", b"first") + publish(b"a", b"second")])
    stream = BoundedPackets(socket.read, lambda: socket.held, LIMIT)
    begun = stream.recv(1)
    socket.held = True
    while len(begun) < len(publish(b"a", b"first")):
        begun += stream.recv(100)

    assert begun == publish(b"a", b"first")
    with pytest.raises(BlockingIOError):
        stream.recv(1)
    socket.held = False
    assert stream.recv(1) == b"\x32"


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (b"\x30\xff\xff\xff\xff\x01", "length of more than four bytes"),
        (packet(0x90, bytes(LIMIT + 1)), "301 bytes that is no message"),
        (publish(b"a", bytes(LIMIT))[:3] + b"\xff\xff" + bytes(LIMIT), "topic is longer than the whole"),
    ],
)
def test_what_cannot_be_mqtt_ends_the_connection(stream: bytes, said: str) -> None:
    with pytest.raises(ConnectionError, match=said):
        through(stream)


def test_it_reads_ahead_and_says_what_the_socket_will_not_tell_again() -> None:
    packets = [publish(b"a", bytes([number]) * number) for number in range(100)]
    reads = list[int]()
    socket = Socket([b"".join(packets), b""])

    def read(size: int) -> bytes:
        reads.append(size)
        return socket.read(size)

    stream = BoundedPackets(read, lambda: False, LIMIT)
    assert not stream.has_more
    came = stream.recv(1)
    while stream.has_more or len(came) < len(b"".join(packets)):
        came += stream.recv(LIMIT)

    assert came == b"".join(packets)
    assert len(reads) == 1, "one call of the system for all"


def test_what_was_read_ahead_is_held_too() -> None:
    socket = Socket([publish(b"a", b"first") + publish(b"a", b"second")])
    stream = BoundedPackets(socket.read, lambda: socket.held, LIMIT)
    while len(stream.recv(100)) < len(b"first"):
        pass
    socket.held = True

    assert stream.has_more
    with pytest.raises(BlockingIOError):
        stream.recv(1)
    socket.held = False
    assert stream.recv(1) == publish(b"a", b"second")[:1]
