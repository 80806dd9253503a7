"""Labels that are found to belong together, or that must stay: a union-find."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


class Partition:
    """Classes of labels. A class is *pinned* by a reason why nothing of it can be removed."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._reasons: dict[int, str] = {}

    def new(self, count: int) -> Labels:
        """So many labels `[count]`, each a class of its own."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def join(self, first: Labels, second: Labels) -> None:
        """Put the labels at each place of two arrays `[n]` into one class. A class that was pinned stays so."""
        for pair in zip(first.tolist(), second.tolist(), strict=True):
            one, other = sorted(map(self._root, pair))
            if one != other:
                self._parents[other] = one
                reason = self._reasons.pop(other, None)
                if reason is not None:
                    self._reasons.setdefault(one, reason)

    def pin(self, labels: Labels, reason: str) -> None:
        """Pin the classes of `labels`; of several reasons the first one stays."""
        for label in set(labels.tolist()):
            self._reasons.setdefault(self._root(label), reason)

    def classes(self, labels: Labels) -> Labels:
        """A label of each class that stands for all of it, `[n]`."""
        return np.array([self._root(label) for label in labels.tolist()], np.int64)

    def reason(self, label: int) -> str | None:
        """Why the class of a label is pinned; None if it is not."""
        return self._reasons.get(self._root(label))

    def _root(self, label: int) -> int:
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label
