"""Examples that are set aside for evaluation: at random, or so that none of them is like one that is trained on."""

from __future__ import annotations

import logging
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedprune.data.dataset import Examples, Provenance
from fedprune.errors import DataError
from fedprune.model.randomness import Keyed

_log = logging.getLogger(__name__)

HoldOutBy = Literal["time", "group"]
"""What is held out: what came last, or all examples of some groups."""

_Places = NDArray[np.int64]


def set_aside(examples: Examples, share: float, by: HoldOutBy | None, keyed: Keyed) -> tuple[_Places, _Places]:
    """The ascending places of the examples to train on, and of those to evaluate on, which are `share` or fewer.

    By time the last part of each stretch is held out, and those before it that overlap it are left out altogether; of
    stretches that are too short for that some are held out whole. Without stretches it is the last part of all. By
    group the groups are drawn from `keyed`; one of them at least is trained on. Without `by` it is by time where
    examples overlap; else they are drawn one by one.

    Raises `DataError` where there are no groups, and it is to be by them.
    """
    provenance, count = examples.provenance, len(examples)
    if by == "group":
        if provenance is None:
            raise DataError(
                f"{examples.origin}: the task holds out by group, and nothing tells groups apart here; name their "
                "column in data.group, or save an array group"
            )
        return _by_group(provenance, share, keyed)
    if provenance is not None and provenance.stretches is not None and (by == "time" or provenance.overlap):
        return _by_time(provenance.stretches, provenance.overlap, share, keyed)
    aside = math.floor(share * count)
    if by == "time":
        return np.arange(count - aside), np.arange(count - aside, count)
    order = keyed.permutation(count)
    return np.sort(order[aside:]), np.sort(order[:aside])


def _by_time(stretches: NDArray[np.int32], overlap: int, share: float, keyed: Keyed) -> tuple[_Places, _Places]:
    order = np.argsort(stretches, kind="stable")
    begins = np.unique(stretches[order], return_index=True)[1]
    ends = np.append(begins[1:], len(order))
    aside, left = np.zeros(len(order), np.bool_), np.zeros(len(order), np.bool_)
    owed = 0.0
    for stretch in keyed.permutation(len(begins)):
        begin, end = int(begins[stretch]), int(ends[stretch])
        length = end - begin
        owed += share * length
        held = _part_of(length, overlap, owed)
        owed -= held
        aside[order[end - held : end]] = True
        left[order[max(begin, end - held - overlap if held else end) : end]] = True
    return np.flatnonzero(~left), np.flatnonzero(aside)


def _part_of(length: int, overlap: int, owed: float) -> int:
    """How many of a stretch's last examples to hold out, if so many are owed: all or none where leaving out those that
    overlap them would cost more than half of it."""
    if owed >= length:
        return length
    held = math.floor(owed)
    return held if held + overlap <= length // 2 else 0


def _by_group(provenance: Provenance, share: float, keyed: Keyed) -> tuple[_Places, _Places]:
    names = np.unique(provenance.groups)
    if len(names) == 1 and share:
        _log.warning("all examples are of one group: none of them is held out, and no model is evaluated here")
    wanted = max(1, round(share * len(names))) if share else 0
    chosen = names[keyed.permutation(len(names))[: min(wanted, len(names) - 1)]]
    apart = np.isin(provenance.groups, chosen)
    return np.flatnonzero(~apart), np.flatnonzero(apart)
