"""The states that a power cut may leave, at every point of a recording."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tests.power_cuts.operations import Operation, Sent
from tests.power_cuts.volume import Fate, Tree, Volume, digest_of

Promises = TypeVar("Promises")

_EXTREMES = (
    Fate(names=0.0, data=0.0),
    Fate(names=1.0, data=0.0),
    Fate(names=1.0, data=1.0),
    Fate(names=1.0, data=0.0, torn=1.0),
    Fate(names=1.0, data=1.0, torn=1.0, sector=512),
    Fate(names=1.0, data=1.0, torn=1.0, sector=4096),
    Fate(names=0.0, data=1.0),
)
"""All that was not synced is lost, or only the data are, or nothing, and so on."""

_MOST_PASSES = 200


@dataclass(frozen=True)
class PowerCut(Generic[Promises]):
    """After the first `position` operations. `promises` is what had been said by then."""

    position: int
    fate: Fate
    tree: Tree
    promises: Promises


def power_cuts(
    recording: Sequence[Operation], at_least: int, nothing: Promises, say: Callable[[Promises, Sent], Promises]
) -> Iterator[PowerCut[Promises]]:
    """`at_least` different cuts or some more: at every point first with each extreme fate, then by chance.

    `say` adds what a message promises to the promises before it; `nothing` was promised at first.
    """
    seen: set[tuple[bytes, Promises]] = set()
    for fates in itertools.islice(_fates(), _MOST_PASSES):
        if len(seen) >= at_least:
            return
        volume, promises = Volume(), nothing
        for position, operation in enumerate(recording, start=1):
            volume.apply(operation)
            if isinstance(operation, Sent):
                promises = say(promises, operation)
            fate = fates(position)
            tree = volume.after_power_cut(fate)
            key = digest_of(tree), promises
            if key not in seen:
                seen.add(key)
                yield PowerCut(position, fate, tree, promises)


def _fates() -> Iterator[Callable[[int], Fate]]:
    for extreme in _EXTREMES:
        yield lambda _, extreme=extreme: extreme
    for number in itertools.count(1):
        sector = (512, 4096)[number % 2]
        yield lambda position, number=number, sector=sector: Fate(0.5, 0.7, 0.5, sector, seed=number << 20 | position)
