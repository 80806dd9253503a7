"""The operations of which a recording is made: what a process did to its files, and what it said meanwhile.

A *node* is a file or a directory whatever it is called, as an inode is; names are entries of directories.
"""

from __future__ import annotations

from dataclasses import dataclass

ROOT = 0
"""The node of the directory that is watched. It was there before, and so outlives every cut."""


@dataclass(frozen=True)
class Operation:
    """`at`: when it was done, in seconds of the machine's clock."""

    at: float


@dataclass(frozen=True)
class Started(Operation):
    """Another process begins. What the one before it did is seen, and no more durable than it was."""


@dataclass(frozen=True)
class Write(Operation):
    node: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Resize(Operation):
    node: int
    size: int


@dataclass(frozen=True)
class Map(Operation):
    """A file is mapped to be written through memory, which nothing records: its content may be anything."""

    node: int


@dataclass(frozen=True)
class Link(Operation):
    """A new file or directory has a name."""

    parent: int
    name: str
    node: int
    is_directory: bool


@dataclass(frozen=True)
class Move(Operation):
    """A file has another name in the same directory; what had that name has none any more."""

    parent: int
    name: str
    new_name: str
    node: int


@dataclass(frozen=True)
class Unlink(Operation):
    parent: int
    name: str


@dataclass(frozen=True)
class Sync(Operation):
    """What was done to this node before is durable: of a file its content, of a directory its names."""

    node: int


@dataclass(frozen=True)
class Sent(Operation):
    """An MQTT message was handed to the network."""

    topic: str
    payload: bytes
