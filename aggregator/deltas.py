"""The deltas between the last versions of a run's model, on the disk beside its checkpoints.

An agent that is some versions behind is sent a *replay*: the deltas that it missed, in order. A delta that is gone
costs bytes and nothing else, since who cannot be sent a replay is sent the whole model.
"""

from __future__ import annotations

from fedprune.codecs import encode_replay
from fedprune.system.disk import Disk

MOST_DELTAS = 32
"""Deltas that are kept: an agent that is more versions behind fetches the whole model."""

MOST_REPLAYS_BYTES = 64 * 2**20
"""Replays of one version, together: they are held in memory while it is the newest. None is as large as the model."""

_SUFFIX = ".delta"


def keep_delta(disk: Disk, version: int, delta: bytes | None, whole_bytes: int) -> None:
    """Keep what leads to `version` from the one before, or that nothing does. Raises `StorageError`.

    Where a replay of it alone has `whole_bytes` or more nothing does: nobody is sent it, nor any that it is part of.
    """
    if delta is not None and len(encode_replay([delta])) < whole_bytes:
        disk.write(_name(version), delta)
    else:
        disk.delete(_name(version))
    for older in _versions(disk):
        if older <= version - MOST_DELTAS:
            disk.delete(_name(older))


def forget_newer_deltas(disk: Disk, version: int) -> None:
    """Delete the deltas that lead beyond `version`. Raises `StorageError`."""
    for newer in reversed(_versions(disk)):
        if newer > version:
            disk.delete(_name(newer))


def replays(disk: Disk, version: int, whole_bytes: int) -> dict[int, bytes]:
    """What leads to `version` from each version before that it pays to go on from, by that one's number.

    A replay of `whole_bytes` or more does not pay: the whole model is as large. Raises `StorageError`.
    """
    found, deltas, total = dict[int, bytes](), list[bytes](), 0
    for base in range(version - 1, max(0, version - MOST_DELTAS) - 1, -1):
        delta = disk.read(_name(base + 1))
        if delta is None:
            break
        deltas.insert(0, delta)
        replay = encode_replay(deltas)
        total += len(replay)
        if len(replay) >= whole_bytes or total > MOST_REPLAYS_BYTES:
            break
        found[base] = replay
    return found


def _versions(disk: Disk) -> list[int]:
    """The versions that deltas lead to, rising."""
    stems = (name.removesuffix(_SUFFIX) for name in disk.names() if name.endswith(_SUFFIX))
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def _name(version: int) -> str:
    return f"{version:06d}{_SUFFIX}"
