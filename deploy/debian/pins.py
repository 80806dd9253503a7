"""The pins of a lock file that hold for a target, as a file that pip checks by their hashes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.debian.targets import Target

_CONTINUED = "\\\n"


def pins(lock_files: Iterable[Path], target: Target) -> dict[str, str]:
    """Each pinned distribution's name, and the text that pins it with its hashes, where its markers hold there."""
    found = {}
    for path in lock_files:
        for text in re.split(r"(?<!\\)\n", path.read_text()):
            if not text or text.startswith("#"):
                continue
            requirement = Requirement(text.split(_CONTINUED)[0].strip())
            if requirement.marker is None or requirement.marker.evaluate(dict(target.markers)):
                pinned = f"{requirement.name}{requirement.specifier}"
                hashes = re.findall(r"--hash=\S+", text)
                found[str(canonicalize_name(requirement.name))] = f" {_CONTINUED}    ".join((pinned, *hashes))
    return found
