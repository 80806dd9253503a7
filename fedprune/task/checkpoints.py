"""Checkpoints: a version of the global model, as a safetensors file that other tools can read.

Version v is the model that round v trains: 0 is the initial one, the last one is the result. A file holds the model
under its tensor names, as float16 where that is exact, the masks under ``mask/NAME``, the gateway's unrounded weights
under ``exact/NAME`` (where those that the mask does not keep are 0, the others alone, in one dimension), the state of
its server optimizer, if it has one, under ``server/PART/NAME``, the units that are left of the network under
``form/units``, if it can lose some, and what the last deltas to it sent, as bytes, under ``deltas/sent``, if its codec
goes by that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.errors import StorageError
from fedprune.model.tensor_files import Makes, view_tensors, write_tensors
from fedprune.model.tensors import Array, Mask, Weights
from fedprune.pruning.sparse_weights import SparseWeights
from fedprune.system.disk import Directory, Disk
from fedprune.task.run_directory import CHECKPOINTS

_SUFFIX = ".safetensors"
_PIECE = 2**16
"""Numbers that are compared at once."""

_SERVER = "server/"
_UNITS = "form/units"
_SENT = "deltas/sent"
_WAYS_OUT = "restore it, go back to another with `fedprune rollback`, or start a new run in an empty directory"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """`weights` is the global model: what agents decode. `exact` is the gateway's own, before the downlink codec.
    `optimizer_state` is that of the server optimizer, by `part/tensor`. `units` name the form of the task that all of
    it is in; None where the network keeps its shape. `sent` is what the last deltas to it sent, as
    `fedprune.codecs.model_history` writes it; empty if nothing is known of that."""

    run: str
    version: int
    weights: Weights
    exact: Weights
    mask: Mask
    optimizer_state: Weights = field(default_factory=dict)
    units: NDArray[np.bool_] | None = None
    sent: bytes = b""


def save_checkpoint(disk: Disk, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all. Raises `StorageError`."""
    weights, mask, state = checkpoint.weights, checkpoint.mask, checkpoint.optimizer_state
    made: dict[str, Makes] = {name: partial(_narrow, weights, name) for name in weights}
    made |= {f"exact/{name}": partial(_kept, checkpoint.exact, name, mask.get(name)) for name in checkpoint.exact}
    made |= {f"mask/{name}": partial(mask.__getitem__, name) for name in mask}
    made |= {f"{_SERVER}{key}": partial(_kept, state, key, mask.get(_tensor_in(key))) for key in state}
    made |= {_SENT: partial(np.frombuffer, checkpoint.sent, np.uint8)} if checkpoint.sent else {}
    made |= {} if checkpoint.units is None else {_UNITS: partial(np.asarray, checkpoint.units)}
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
        parts = {
            key.removeprefix(_SERVER): key for key in sorted(tensors) if key.startswith(_SERVER) and key not in names
        }
        return Checkpoint(
            run=metadata["run"],
            version=version,
            weights=take(_Stored({name: partial(_widened, tensors[name]) for name in names}), mask),
            exact=take(_Stored({name: partial(_whole, tensors, f"exact/{name}", name) for name in names}), mask),
            mask=mask,
            optimizer_state=take(
                _Stored({part: partial(_whole, tensors, key, _tensor_in(part)) for part, key in parts.items()}),
                {part: mask[_tensor_in(part)] for part in parts if _tensor_in(part) in mask},
            ),
            units=tensors[_UNITS].astype(np.bool_) if _UNITS in tensors and _UNITS not in names else None,
            sent=tensors[_SENT].tobytes() if _SENT in tensors and _SENT not in names else b"",
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


class _Stored(Mapping[str, Array]):
    """Tensors of a file, each made when it is asked for."""

    def __init__(self, made: Mapping[str, Callable[[], Array]]) -> None:
        self._made = made

    def __getitem__(self, name: str) -> Array:
        return self._made[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


def _narrow(weights: Weights, name: str) -> NDArray[Any]:
    """The same numbers in half the bytes, if they are float32 and were rounded to float16."""
    array = weights[name]
    if array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float16)
    return narrow if _are_same(narrow.reshape(-1), array.reshape(-1)) else array


def _are_same(narrow: NDArray[np.float16], array: NDArray[np.float32]) -> bool:
    """Equal to the bit, piece by piece: float32 of the whole of `narrow` would take the array's memory once more."""
    pieces = (slice(start, start + _PIECE) for start in range(0, array.size, _PIECE))
    return all(
        np.array_equal(narrow[piece].astype(np.float32).view(np.uint32), array[piece].view(np.uint32))
        for piece in pieces
    )


def _widened(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _kept(tensors: Mapping[str, NDArray[Any]], name: str, mask: NDArray[np.bool_] | None) -> NDArray[Any]:
    """What the mask keeps, if there is nothing else: not even a negative zero."""
    array = tensors[name]
    if mask is None:
        return array
    kept, bits = array[mask], array.view(f"u{array.dtype.itemsize}")
    return kept if np.count_nonzero(bits) == np.count_nonzero(bits[mask]) else array


def _tensor_in(key: str) -> str:
    """The tensor that a part of the server optimizer's state, `part/tensor`, belongs to."""
    return key.partition("/")[2]


def _whole(tensors: Mapping[str, NDArray[Any]], key: str, name: str) -> NDArray[Any]:
    """What is stored under `key`, in the shape of the tensor `name`."""
    array = tensors[key]
    if f"mask/{name}" not in tensors or array.shape == tensors[name].shape:
        return array
    whole = np.zeros(tensors[name].shape, array.dtype)
    whole[tensors[f"mask/{name}"].astype(np.bool_)] = array
    return whole


def _metadata(blob: bytes) -> dict[str, str]:
    """The header's string map; the safetensors library returns it for files only."""
    length = int.from_bytes(blob[:8], "little")
    metadata: dict[str, str] = json.loads(blob[8 : 8 + length])["__metadata__"]
    return metadata
