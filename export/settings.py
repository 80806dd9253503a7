"""task.toml: what a federation learns."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from fedprune.task.bundle import Pruning, Training

_Size = Annotated[int, msgspec.Meta(ge=1, le=2**16)]


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[model]`` table: a built-in model, or a ``.keras`` or ``.h5`` file that tf_keras saved.

    `input_shape` (without the batch) and `outputs` make a built-in model; a file's are only compared with them.
    Initial weights are drawn from `seed`, or are the file's own, which is a file's default.
    """

    builtin: Literal["cnn-108k"] | None = None
    file: str | None = None
    input_shape: tuple[_Size, ...] | None = None
    outputs: _Size | None = None
    initial: Literal["seed", "file"] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0

    def __post_init__(self) -> None:
        if (self.builtin is None) == (self.file is None):
            raise ValueError('give either builtin = "cnn-108k" or file = "model.keras"')
        if self.builtin is not None and self.initial == "file":
            raise ValueError('a built-in model has no weights of its own: initial = "seed"')

    @property
    def keeps_weights(self) -> bool:
        """True if the file's weights are the initial ones."""
        return self.file is not None and self.initial != "seed"


class TaskSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. Paths are relative to it."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    model: ModelSettings
    training: Training
    pruning: Pruning
