"""A recording: the operations of one process after another on the files below a directory, read from their traces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.power_cuts.operations import ROOT, Link, Map, Move, Operation, Resize, Sent, Started, Sync, Unlink, Write
from tests.power_cuts.strace import SENDS, Call, bytes_of, path_of, read_calls, text_of

_MAPPED_AT_WILL = "-shm"
"""Files that SQLite maps and makes anew when it recovers."""

_PUBLISH = 3
_CONNECT = b"\x10"


@dataclass
class _OpenFile:
    node: int
    offset: int = 0


def read_recording(root: Path, traces: Iterable[Path]) -> list[Operation]:
    """What these processes, one after the other, did to what they made below `root`, and what they published."""
    reader = _Reader(root)
    for trace in traces:
        reader.read(read_calls(trace))
    return reader.operations


class _Reader:
    """Follows names and descriptors as the kernel did."""

    def __init__(self, root: Path) -> None:
        self.operations: list[Operation] = []
        self._root = str(root)
        self._names: dict[int, dict[str, int]] = {ROOT: {}}
        self._sizes: dict[int, int] = {}
        self._open: dict[str, _OpenFile] = {}
        self._streams: dict[str, bytearray] = {}

    def read(self, calls: Sequence[Call]) -> None:
        """Read one process's calls: its descriptors are its own."""
        self._open, self._streams = {}, {}
        self.operations.append(Started(next((call.at for call in calls), 0.0)))
        for call in calls:
            if call.name in SENDS:
                self._send(call)
            elif any(self._is_watched(path) for path in _paths(call)):
                self._handle(call)

    def _handle(self, call: Call) -> None:
        at, arguments = call.at, call.arguments
        match call.name:
            case "openat":
                self._open_file(call)
            case "lseek":
                if file := self._file(arguments[0]):
                    file.offset = int(call.result)
            case "write" | "pwrite64":
                file = self._file(arguments[0])
                assert file is not None, f"a file was written that was not seen to be made: {path_of(arguments[0])}"
                data = bytes_of(arguments[1])[: int(call.result)]
                offset = int(arguments[3]) if call.name == "pwrite64" else file.offset
                if call.name == "write":
                    file.offset += len(data)
                self._sizes[file.node] = max(self._sizes[file.node], offset + len(data))
                self.operations.append(Write(at, file.node, offset, data))
            case "ftruncate":
                file = self._file(arguments[0])
                assert file is not None
                self._resize(at, file.node, int(arguments[1]))
            case "fsync" | "fdatasync":
                node = self._node(path_of(arguments[0]))
                assert node is not None
                self.operations.append(Sync(at, node))
            case "mkdir":
                self._make(at, text_of(arguments[0]), is_directory=True)
            case "rename":
                self._rename(at, text_of(arguments[0]), text_of(arguments[1]))
            case "unlink":
                parent, name = self._place(text_of(arguments[0]))
                del self._names[parent][name]
                self.operations.append(Unlink(at, parent, name))
            case "mmap":
                self._map(call)
            case _:
                raise AssertionError(f"the model knows nothing of {call.name}: {list(_paths(call))}")

    def _open_file(self, call: Call) -> None:
        descriptor, path, flags = call.result, path_of(call.result), call.arguments[2]
        node = self._node(path)
        if node is None:
            if "O_CREAT" not in flags:
                return  # a file that was there before, to be read
            node = self._make(call.at, path, is_directory=False)
        elif "O_TRUNC" in flags:
            self._resize(call.at, node, 0)
        assert "O_APPEND" not in flags, f"the model knows nothing of O_APPEND: {path}"
        self._open[descriptor.partition("<")[0]] = _OpenFile(node)

    def _make(self, at: float, path: str, *, is_directory: bool) -> int:
        parent, name = self._place(path)
        node = 1 + len(self._sizes)
        self._names[parent][name] = node
        self._sizes[node] = 0
        if is_directory:
            self._names[node] = {}
        self.operations.append(Link(at, parent, name, node, is_directory))
        return node

    def _rename(self, at: float, old: str, new: str) -> None:
        (parent, name), (new_parent, new_name) = self._place(old), self._place(new)
        assert parent == new_parent, f"the model knows nothing of a rename to another directory: {new}"
        node = self._names[parent].pop(name)
        self._names[parent][new_name] = node
        self.operations.append(Move(at, parent, name, new_name, node))

    def _resize(self, at: float, node: int, size: int) -> None:
        if self._sizes[node] != size:
            self._sizes[node] = size
            self.operations.append(Resize(at, node, size))

    def _map(self, call: Call) -> None:
        if "PROT_WRITE" in call.arguments[2] and "MAP_SHARED" in call.arguments[3]:
            path = path_of(call.arguments[4])
            assert path.endswith(_MAPPED_AT_WILL), f"what is written to {path} through memory is not recorded"
            node = self._node(path)
            assert node is not None
            self.operations.append(Map(call.at, node))

    def _send(self, call: Call) -> None:
        """Cut a connection's bytes into MQTT packets. A message counts as sent with the call that completes it."""
        connection, sent = call.arguments[0], bytes_of(call.arguments[1])[: int(call.result)]
        if sent.startswith(_CONNECT) or connection in self._streams:
            stream = self._streams.setdefault(connection, bytearray())
            stream += sent
            while packet := _first_packet(stream):
                length, kind, body = packet
                del stream[:length]
                if kind >> 4 == _PUBLISH:
                    self.operations.append(Sent(call.at, *_publication(kind, body)))

    def _is_watched(self, path: str) -> bool:
        return path == self._root or path.startswith(self._root + "/")

    def _file(self, descriptor: str) -> _OpenFile | None:
        """The open file behind a descriptor, if it is one that these processes made."""
        file = self._open.get(descriptor.partition("<")[0])
        node = self._node(path_of(descriptor))
        return file if file is not None and file.node == node else None

    def _node(self, path: str) -> int | None:
        parts = path.removeprefix(self._root).strip("/").split("/") if path != self._root else []
        node: int | None = ROOT
        for part in parts:
            if node is None or node not in self._names:
                return None
            node = self._names[node].get(part)
        return node

    def _place(self, path: str) -> tuple[int, str]:
        head, _, name = path.rpartition("/")
        parent = self._node(head)
        assert parent is not None, f"{path} is in a directory that was not seen to be made"
        return parent, name


def _paths(call: Call) -> Iterable[str]:
    """The paths that a call is about: in quotes, or behind descriptors."""
    for argument in (*call.arguments, call.result):
        if argument.startswith('"\\x2f') and call.name not in ("write", "pwrite64"):
            yield text_of(argument)
        elif "<\\x2f" in argument and not argument.startswith("AT_FDCWD"):
            yield path_of(argument)


def _first_packet(stream: bytearray) -> tuple[int, int, bytes] | None:
    """(length, first byte, body) of the packet that a stream begins with, once it is complete."""
    size = shift = 0
    for index, byte in enumerate(stream[1:5], start=1):
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            end = index + 1 + size
            return (end, stream[0], bytes(stream[index + 1 : end])) if len(stream) >= end else None
    return None


def _publication(kind: int, body: bytes) -> tuple[str, bytes]:
    length = int.from_bytes(body[:2], "big")
    topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
    quality_of_service = kind >> 1 & 3
    return topic, rest[2:] if quality_of_service else rest
