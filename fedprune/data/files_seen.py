"""What of a data path's files can be seen without reading them: who remembers it notices that there are new ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def files_seen(path: Path) -> bytes:
    """A digest of the names, sizes and times of change of the files under a path, or of the one that it is.

    Equal digests mean that nothing was added, removed or changed. A path that is not there, as that of a function, has
    one of its own, which stays.
    """
    seen = hashlib.sha256()
    for name, about in sorted(_files(path)):
        seen.update(f"{name}\0{about.st_size}\0{about.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return seen.digest()


def _files(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """What is gone before it is looked at is not there."""
    if path.is_file():
        yield path.name, path.stat()
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                yield os.path.join(directory, name), os.stat(os.path.join(directory, name))
            except OSError:
                continue
