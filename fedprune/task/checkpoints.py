"""Checkpoints: a version of the global model, as a safetensors file that other tools can read.

Version v is the model that round v trains: 0 is the initial one, the last one is the result. A file holds the
model under its tensor names, the masks under ``mask/NAME``, the gateway's unrounded weights under ``exact/NAME``,
the state of its server optimizer, if it has one, under ``server/PART/NAME``, and the units that are left of the network
under ``form/units``, if it can lose some.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.errors import StorageError
from fedprune.model.tensor_files import Makes, view_tensors, write_tensors
from fedprune.model.tensors import Mask, Weights
from fedprune.pruning.sparse_weights import SparseWeights
from fedprune.system.disk import Directory, Disk
from fedprune.task.run_directory import CHECKPOINTS

_SUFFIX = ".safetensors"
_SERVER = "server/"
_UNITS = "form/units"
_WAYS_OUT = "restore it, go back to another with `fedprune rollback`, or start a new run in an empty directory"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """`weights` is the global model: what agents decode. `exact` is the gateway's own, before the downlink codec.
    `optimizer_state` is that of the server optimizer, by `part/tensor`. `units` name the form of the task that all of
    it is in; None where the network keeps its shape."""

    run: str
    version: int
    weights: Weights
    exact: Weights
    mask: Mask
    optimizer_state: Weights = field(default_factory=dict)
    units: NDArray[np.bool_] | None = None


def save_checkpoint(disk: Disk, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all. Raises `StorageError`."""
    made = {
        **_makes("", checkpoint.weights),
        **_makes("exact/", checkpoint.exact),
        **_makes("mask/", checkpoint.mask),
        **_makes(_SERVER, checkpoint.optimizer_state),
        **({} if checkpoint.units is None else _makes("", {_UNITS: checkpoint.units})),
    }
    metadata = {"run": checkpoint.run, "version": str(checkpoint.version), "tensors": json.dumps([*checkpoint.weights])}
    disk.write_through(_name(checkpoint.version), lambda file: write_tensors(file, made, metadata))


def load_checkpoint(disk: Disk, version: int) -> Checkpoint:
    """Raises `StorageError` if there is no such version or its file is damaged."""
    return _load(disk, version, lambda weights, _: {name: array.copy() for name, array in weights.items()})


def load_sparse_checkpoint(disk: Disk, version: int) -> Checkpoint:
    """`load_checkpoint` for who has no room for whole models beside the file: what the mask keeps is held."""
    return _load(disk, version, SparseWeights.copied)


def _load(disk: Disk, version: int, take: Callable[[Weights, Mask], Weights]) -> Checkpoint:
    name = _name(version)
    blob = disk.read(name)
    if blob is None:
        raise StorageError(f"checkpoint {name} is missing; {_WAYS_OUT}")
    try:
        tensors: dict[str, NDArray[Any]] = view_tensors(blob)
        metadata = _metadata(blob)
        names: list[str] = json.loads(metadata["tensors"])
        mask = {name: tensors[f"mask/{name}"].astype(np.bool_) for name in names if f"mask/{name}" in tensors}
        return Checkpoint(
            run=metadata["run"],
            version=version,
            weights=take({name: tensors[name] for name in names}, mask),
            exact=take({name: tensors[f"exact/{name}"] for name in names}, mask),
            mask=mask,
            optimizer_state={
                key.removeprefix(_SERVER): array.copy()
                for key, array in sorted(tensors.items())
                if key.startswith(_SERVER) and key not in names
            },
            units=tensors[_UNITS].astype(np.bool_) if _UNITS in tensors and _UNITS not in names else None,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise StorageError(f"checkpoint {name} is damaged ({error}); {_WAYS_OUT}") from error


def forget_checkpoints(disk: Disk, keep: int, best: int | None) -> None:
    """Delete all but the last `keep` checkpoints (1 or more) and the best one. Raises `StorageError`."""
    for version in checkpoint_versions(disk)[:-keep]:
        if version != best:
            disk.delete(_name(version))


def forget_newer(disk: Disk, version: int) -> None:
    """Delete the checkpoints after `version`, the newest first. Raises `StorageError`."""
    for newer in reversed(checkpoint_versions(disk)):
        if newer > version:
            disk.delete(_name(newer))


def load_latest(run: Path) -> Checkpoint:
    """The newest checkpoint of a run's directory. Raises `StorageError` if it holds none, or it is damaged."""
    directory = run / CHECKPOINTS
    if not run.is_dir():
        what = "is not a directory" if run.exists() else "there is no such directory"
        raise StorageError(f"{run}: {what}; name the state directory of an aggregator")
    if not directory.is_dir():
        raise StorageError(f"{run}: no {CHECKPOINTS}/ in it; name the state directory of an aggregator")
    disk = Directory(directory)
    versions = checkpoint_versions(disk)
    if not versions:
        raise StorageError(f"{directory}: no checkpoint yet; let the aggregator finish a round")
    return load_checkpoint(disk, max(versions))


def checkpoint_versions(disk: Disk) -> list[int]:
    """The versions that are there, rising."""
    stems = (name.removesuffix(_SUFFIX) for name in disk.names())
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def _name(version: int) -> str:
    return f"{version:06d}{_SUFFIX}"


def _makes(prefix: str, tensors: Mapping[str, NDArray[Any]]) -> dict[str, Makes]:
    return {prefix + name: partial(tensors.__getitem__, name) for name in tensors}


def _metadata(blob: bytes) -> dict[str, str]:
    """The header's string map; the safetensors library returns it for files only."""
    length = int.from_bytes(blob[:8], "little")
    metadata: dict[str, str] = json.loads(blob[8 : 8 + length])["__metadata__"]
    return metadata
