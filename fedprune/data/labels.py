"""Labels as people write them, names of classes or numbers, and what a model learns."""

from __future__ import annotations

from collections.abc import Sequence

from fedprune.data.skipped import Fault, Unusable, brief
from fedprune.data.tables.numbers import number

_SHOWN = 8
"""Known labels that a message names."""


class ClassNames:
    """Class numbers by the names that a task gives them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._numbers = {name: index for index, name in enumerate(names)}
        self._shown = brief(", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else ""))

    def number(self, name: str, fault: Fault) -> int:
        """Raise `Unusable`, which is counted as `fault`, for a name that the task does not know."""
        try:
            return self._numbers[name]
        except KeyError:
            raise Unusable(
                fault,
                f"label '{brief(name)}' is none of the task's ({self._shown}); correct it, or build the task with it "
                "in data.labels",
            ) from None


class LabelColumn:
    """The reader of a column of labels: names of classes where the task has names, else numbers."""

    def __init__(self, column: str, names: Sequence[str]) -> None:
        self._column = column
        self._classes = ClassNames(names) if names else None

    @property
    def of_classes(self) -> bool:
        return self._classes is not None

    def read(self, cell: str) -> float:
        """A class number or a number. Raises `Unusable`."""
        if self._classes is None:
            return number(cell, self._column)
        return self._classes.number(cell.strip(), Fault.LABEL)
