"""Examples that somebody has made already: arrays x and y of an `.npz`, of a pair of `.npy`, or of a function.

They are what a form would have made, before normalisation; so they may stand in for files of any form.
"""

from __future__ import annotations

import msgspec

from fedprune.data.normalization import Normalization


class Arrays(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="form", tag="arrays"):
    """Arrays alone. x of uint8 is divided by 255."""

    normalize: Normalization | None = None

    @property
    def example_shape(self) -> None:
        """Any: only the arrays tell."""
        return
