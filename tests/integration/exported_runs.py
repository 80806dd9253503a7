"""A run to export, as an aggregator leaves it, and an export without a process of its own for the converter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from keras_bundles import (
    bundle_of,
    learnable,
    seeded,
    weights_of,
)

from export import exporting
from export.converter import Job
from export.exporting import export_model
from export.report import DENSE_FORMATS
from export.workbench import Workbench
from fedprune.data import save_npz
from fedprune.keras.stack import keras
from fedprune.model.tensors import TensorClass
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle
from fedprune.task.checkpoints import Checkpoint, save_checkpoint
from fedprune.task.run_directory import CHECKPOINTS

ALL = DENSE_FORMATS
SPARSITY = 0.6
SCHEDULE = ConstantSparsity(begin_step=1, frequency=2, target_sparsity=SPARSITY)
DATA = learnable(200)


def here(workbench: type[Workbench]) -> Callable[[Job], AbstractContextManager[Workbench]]:
    """A converter in this process."""
    return lambda job: nullcontext(workbench(job))


export_here = partial(export_model, open_converter=here(Workbench))
"""As `export_model`, without a process of its own for the converter, which takes seconds to start."""


@dataclass(frozen=True)
class Run:
    """A run as an aggregator leaves it, and the Keras model of its newest checkpoint."""

    path: Path
    bundle: Bundle
    checkpoint: Checkpoint
    model: Any


def run_of(model: Any, path: Path) -> Run:
    """A model that learned a little, pruned by magnitude to `SPARSITY` in each kernel."""
    bundle = bundle_of(seeded(model), SCHEDULE, mask=MaskPolicy.SHARED)
    keras.utils.set_random_seed(1)
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(DATA.x, DATA.y, epochs=25, verbose=0)
    weights = weights_of(model)
    for spec in bundle.task.table.of(TensorClass.PRUNABLE):
        sizes = np.abs(weights[spec.name])
        weights[spec.name] *= sizes > np.quantile(sizes, SPARSITY)
    model.set_weights(list(weights.values()))
    checkpoint = Checkpoint(run="a-run", version=3, weights=weights, exact=weights, mask={})
    former = replace(checkpoint, version=2, weights={name: 0 * array for name, array in weights.items()})
    for each in (former, checkpoint):
        save_checkpoint(Directory(path / CHECKPOINTS), each)
    (path / exporting.TASK).write_bytes(bundle.blob)
    save_npz(path / exporting.HELD_OUT, DATA)
    return Run(path, bundle, checkpoint, model)


def files_in(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())
