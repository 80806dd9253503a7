"""Lays out one state after another that a power cut may leave, and starts in each what was there before."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.power_cuts.cuts import PowerCut, Promises
from tests.power_cuts.volume import lay_out


class Lost(Exception):
    """Something did not survive a power cut; the message says what and which."""


def survive(
    cuts: Iterable[PowerCut[Promises]], check: Callable[[Path, Promises], None], state: str, scratch: Path
) -> int:
    """Check the directory `state` after each cut, and count the cuts. Raises `Lost` at one that costs something."""
    count = 0
    for cut in cuts:
        root = scratch / "root"
        root.mkdir()
        lay_out(cut.tree, root)
        try:
            check(root / state, cut.promises)
        except Exception as error:
            raise Lost(f"{error}; cut after operation {cut.position}, {cut.fate}, which left {_listed(cut)}") from error
        shutil.rmtree(root)
        count += 1
    return count


def _listed(cut: PowerCut[Promises]) -> str:
    return ", ".join(f"{name} ({len(content)})" for name, content in cut.tree.items() if content is not None)
