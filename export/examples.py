"""The examples of an export: some give int8 its scales, others tell how good the files are.

Scales that come from the examples that are verified look right on them, however wrong they are elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedprune.data import Dataset
from fedprune.model.randomness import Keyed

MOST_VERIFIED = 10_000
"""More would take long and tell little more."""
MOST_CALIBRATED = 200
"""TFLite's guide to post-training quantisation takes some hundred."""
FEWEST = 100
"""With fewer different ones, scales and accuracies are a matter of chance."""


@dataclass(frozen=True)
class Examples:
    """`calibration` gives int8 its scales, without labels; on `verification` every file is tried."""

    calibration: Dataset
    verification: Dataset


def choose_examples(held_out: Dataset, calibration: Dataset | None) -> Examples:
    """Samples of both, drawn alike everywhere, since files are often sorted by label.

    Without a `calibration` of its own, at most half of `held_out` is set aside for it. Of a single example that cannot
    be: it is used for both.
    """
    if calibration is not None:
        return Examples(_sample(calibration, MOST_CALIBRATED), _sample(held_out, MOST_VERIFIED))
    if len(held_out) == 1:
        return Examples(held_out, held_out)
    aside = min(MOST_CALIBRATED, len(held_out) // 2)
    order = _order(held_out, aside)
    return Examples(
        held_out.take(np.sort(order[:aside])), _sample(held_out.take(np.sort(order[aside:])), MOST_VERIFIED)
    )


def complaints_of(examples: Examples, *, calibrates: bool) -> list[str]:
    """A line for each thing that makes the examples say little; of the calibration only if something `calibrates`."""
    roles = [("verified", examples.verification), *([("int8 calibrated", examples.calibration)] if calibrates else [])]
    return [line for role, data in roles for line in _complaints(role, data)]


def _complaints(role: str, data: Dataset) -> list[str]:
    sample = _sample(data, MOST_CALIBRATED)
    flat = np.concatenate([x.reshape(len(x), -1) for x in sample.inputs.values()], axis=1)
    lines = []
    differing = len(np.unique(flat, axis=0))
    if differing < FEWEST:
        among = "all" if len(data) == len(flat) else f"the {len(flat)} that were looked at"
        lines.append(f"{role} on {len(data)} examples, among {among} {differing} different ones: {FEWEST} are needed")
    constant = int(np.count_nonzero(flat.min(axis=1) == flat.max(axis=1))) if flat.shape[1] > 1 else 0
    if 2 * constant > len(flat):
        lines.append(
            f"{role} on examples of which {constant} in {len(flat)} are one number throughout; is x what it should be?"
        )
    return lines


def _sample(data: Dataset, size: int) -> Dataset:
    return data if len(data) <= size else data.take(np.sort(_order(data, size)[:size]))


def _order(data: Dataset, size: int) -> NDArray[np.int64]:
    return Keyed(0, "export", size).permutation(len(data))
