"""The forms of a model's inputs and outputs: what data files hold for it.

The array of the only input is called ``x``, that of the only output ``y``; where there are several, ``x_NAME`` and
``y_NAME``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fedprune.model.losses import Objective
from fedprune.model.metrics import Metric, metric_name

MAX_ENDS = 16
"""Inputs of a model, and outputs of one."""
MAX_NAME = 64
"""Letters in the name of an input or output."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*\Z"
"""The names of inputs and outputs: they are parts of names in data files, settings and TFLite signatures."""


@dataclass(frozen=True)
class InputForm:
    """What a data file's `array` of an input holds: examples of `shape`, ids below `vocabulary` or else numbers."""

    array: str
    shape: tuple[int, ...]
    vocabulary: int | None = None


@dataclass(frozen=True)
class OutputForm:
    """What a data file's `array` of an output holds: labels for `shape`, `[*places, outputs]`, as `objective` takes
    them. `metrics` judge the output too; the `name` of the only one is empty. `unit`, one number or one for each
    output, is what 1 is in the user's units, where labels are normalised: metrics are in these, the loss is not."""

    array: str
    shape: tuple[int, ...]
    objective: Objective
    name: str = ""
    metrics: tuple[Metric, ...] = ()
    unit: tuple[float, ...] = (1.0,)

    @property
    def named_metrics(self) -> dict[str, Metric]:
        """The metrics by the names that evaluations have for them."""
        return {metric_name(metric, self.name): metric for metric in self.metrics}


def is_name(text: str) -> bool:
    """True if an input or output may be called so."""
    return len(text) <= MAX_NAME and re.match(NAME_PATTERN, text) is not None


def array_names(letter: str, names: Sequence[str]) -> tuple[str, ...]:
    """The arrays of several inputs or outputs, which have `names`; or of the only one, which has none.

    Example:
        >>> array_names("y", ["kind", "box"]), array_names("y", [])
        (('y_kind', 'y_box'), ('y',))
    """
    return tuple(f"{letter}_{name}" for name in names) or (letter,)
