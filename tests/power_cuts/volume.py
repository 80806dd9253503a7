"""A file system as a power cut may leave it: what was synced is there, of the rest each part may be or not.

The model is stricter than ext4 (in its default mode) and SD cards that keep their word:

- A file's data survive from its own fsync on, a name from its directory's: fsync of a new file does not keep its name.
- Of what was not synced any part may survive, in whatever order it was done: names, lengths, single sectors.
  A file may have grown to a length whose sectors never came, and then holds what was there before.
- A rename happens whole or not at all. A sector outside a write stays as it was. Durable data stay durable.

FAT promises none of the last three.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.power_cuts.operations import ROOT, Link, Map, Move, Operation, Resize, Sync, Unlink, Write

Tree = dict[str, bytes | None]
"""What is below the root: contents of files by path, None for a directory. A directory comes before what is in it."""


@dataclass(frozen=True)
class Fate:
    """How much of what was not synced survives: shares of the names and of the data changes, and of the latter how many
    are torn, at the edges of sectors of `sector` bytes. 0 and 1 leave nothing to chance."""

    names: float
    data: float
    torn: float = 0.0
    sector: int = 512
    seed: int = 0


@dataclass
class _File:
    durable: bytes = b""
    unsynced: list[Write | Resize] = field(default_factory=list)
    is_mapped: bool = False


@dataclass
class _Directory:
    durable: dict[str, int] = field(default_factory=dict)
    unsynced: list[Link | Move | Unlink] = field(default_factory=list)


class Volume:
    """All nodes, with what is durable of each and what was done since."""

    def __init__(self) -> None:
        self._nodes: dict[int, _File | _Directory] = {ROOT: _Directory()}

    def apply(self, operation: Operation) -> None:
        match operation:
            case Write() | Resize():
                self._file(operation.node).unsynced.append(operation)
            case Map(_, node):
                self._file(node).is_mapped = True
            case Link(_, parent, _, node, is_directory):
                self._nodes[node] = _Directory() if is_directory else _File()
                self._directory(parent).unsynced.append(operation)
            case Move() | Unlink():
                self._directory(operation.parent).unsynced.append(operation)
            case Sync(_, node):
                self._sync(self._nodes[node])
            case _:
                pass

    def after_power_cut(self, fate: Fate) -> Tree:
        chance = Random(fate.seed)
        tree: Tree = {}
        self._grow(tree, ROOT, "", fate, chance)
        return tree

    def _grow(self, tree: Tree, node: int, path: str, fate: Fate, chance: Random) -> None:
        for name, child in sorted(_surviving_names(self._directory(node), fate, chance).items()):
            below = f"{path}/{name}" if path else name
            match self._nodes[child]:
                case _Directory():
                    tree[below] = None
                    self._grow(tree, child, below, fate, chance)
                case _File() as file:
                    tree[below] = _surviving_data(file, fate, chance)

    def _sync(self, node: _File | _Directory) -> None:
        everything = Fate(names=1.0, data=1.0)
        match node:
            case _Directory():
                node.durable = _surviving_names(node, everything, Random(0))
            case _File():
                node.durable = _surviving_data(node, everything, Random(0))
        node.unsynced.clear()

    def _file(self, node: int) -> _File:
        file = self._nodes[node]
        assert isinstance(file, _File)
        return file

    def _directory(self, node: int) -> _Directory:
        directory = self._nodes[node]
        assert isinstance(directory, _Directory)
        return directory


def lay_out(tree: Tree, root: Path) -> None:
    """Make the files of a tree in an empty directory."""
    for name, content in tree.items():
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)


def digest_of(tree: Tree) -> bytes:
    """What is equal for equal trees."""
    digest = hashlib.sha256()
    for name, content in tree.items():
        digest.update(b"%d %s %d " % (content is None, name.encode(), len(content or b"")))
        digest.update(content or b"")
    return digest.digest()


def _surviving_names(directory: _Directory, fate: Fate, chance: Random) -> dict[str, int]:
    names = dict(directory.durable)
    for change in directory.unsynced:
        if chance.random() >= fate.names:
            continue
        match change:
            case Link(_, _, name, node):
                names[name] = node
            case Move(_, _, name, new_name, node):
                names.pop(name, None)
                names[new_name] = node
            case Unlink(_, _, name):
                names.pop(name, None)
    return names


def _surviving_data(file: _File, fate: Fate, chance: Random) -> bytes:
    if not file.unsynced and not file.is_mapped:
        return file.durable
    stale = chance.choice((b"\x00", b"\xa5"))
    content = bytearray(file.durable)
    for change in file.unsynced:
        survives, is_torn = chance.random() < fate.data, chance.random() < fate.torn
        match change:
            case Resize(_, _, size):
                if survives:
                    _lengthen(content, size, b"\x00")
                    del content[size:]
            case Write(_, _, offset, data):
                if survives and not is_torn:
                    _lengthen(content, offset, b"\x00")
                    content[offset : offset + len(data)] = data
                elif is_torn:
                    _tear(content, change, fate, stale, chance, survives)
    return b"\xa5" * len(content) if file.is_mapped else bytes(content)


def _tear(content: bytearray, write: Write, fate: Fate, stale: bytes, chance: Random, survives: bool) -> None:
    """Let the file grow as the write would have it do, and put into it some of the write's sectors, or none."""
    end = write.offset + len(write.data)
    _lengthen(content, end, stale)
    start = write.offset
    while survives and start < end:
        stop = min(end, (start // fate.sector + 1) * fate.sector)
        if chance.random() < 0.5:
            content[start:stop] = write.data[start - write.offset : stop - write.offset]
        start = stop


def _lengthen(content: bytearray, size: int, filling: bytes) -> None:
    content.extend(filling * (size - len(content)))
