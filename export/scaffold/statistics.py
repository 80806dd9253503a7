"""What the data themselves tell: how many examples there are, on which scale, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.scaffold.data_look import DataLook, FoldersLook
from export.scaffold.describing import Described
from export.scaffold.model_look import ModelLook
from fedprune.data.audio.front_end import features
from fedprune.data.audio.wav import read_wav
from fedprune.data.dataset import Dataset
from fedprune.data.description import MAX_COLUMNS, Data, Images, MinMax, Normalization, Recordings, Standard, Text
from fedprune.data.folders import place_of
from fedprune.data.loading import read_examples
from fedprune.data.skipped import Skipped, Unusable
from fedprune.data.task_toml import with_words
from fedprune.errors import DataError
from fedprune.model.tensors import Inputs
from fedprune.system.paths import path_text

_FILES = 500
"""Files that are read, of all classes together."""
_PART = 2**14
"""Examples that are added up together."""
_LARGEST_PIXEL_SCALE = 0.02
"""Of a Rescaling layer which expects pixels from 0 to 255."""
_TAME_MEAN, _TAME_STD = 1.0, (0.3, 3.0)
"""Numbers so near to mean 0 and deviation 1 need no normalisation."""


@dataclass(frozen=True)
class Statistics:
    """`examples` is an estimate where they are files in folders, of which a part is read. `notes` are for people.
    `targets` is what suits labels if they are numbers."""

    examples: int
    normalize: Normalization | None
    notes: tuple[str, ...]
    dataset: Dataset | None = None
    targets: Normalization | None = None


def look_closely(path: Path, look: DataLook, described: Described, model: ModelLook) -> Statistics:
    """Read the data, or of folders a part. Raises `DataError` where nothing can be used."""
    data = described.data
    if isinstance(look, FoldersLook):
        return _of_folders(path, look, data, model)
    dataset = read_examples(path, with_words(data, Path()))
    if isinstance(data, Text) or "x" not in dataset.inputs or dataset.x.dtype == np.int32:
        return Statistics(len(dataset), None, (), dataset, _for_targets(dataset, model))
    return replace(_of_examples(dataset, model), targets=_for_targets(dataset, model))


def _of_folders(path: Path, look: FoldersLook, data: Data, model: ModelLook) -> Statistics:
    skipped = Skipped(path_text(path))
    each = max(1, _FILES // len(look.folders))
    read = [example for files in look.folders.values() for example in _read(files[:each], data, skipped)]
    if not read:
        raise DataError(f"{path_text(path)}: no file could be read; {'; '.join(skipped.told())}")
    statistics = _of_examples(Dataset(np.stack(read), np.zeros(len(read), np.int64)), model)
    files = sum(map(len, look.folders.values()))
    looked_at = len(read) + skipped.count
    notes = [f"of {looked_at} files that were looked at, {told}" for told in skipped.told()]
    return Statistics(
        round(files * len(read) / looked_at), statistics.normalize, (*look.notes, *notes, *statistics.notes)
    )


def _read(files: list[Path], data: Data, skipped: Skipped) -> Iterator[NDArray[np.float32]]:
    if isinstance(data, Recordings):
        return _recordings(files, data, skipped)
    assert isinstance(data, Images)  # there are no other files in folders
    return _pictures(files, data, skipped)


def _recordings(files: list[Path], data: Recordings, skipped: Skipped) -> Iterator[NDArray[np.float32]]:
    for file in files:
        try:
            sound = read_wav(file, data.rate_hz, data.samples)
        except Unusable as unusable:
            skipped.add(place_of(file), unusable)
        else:
            yield features(sound, data.rate_hz, data.front_end)


def _pictures(files: list[Path], data: Images, skipped: Skipped) -> Iterator[NDArray[np.float32]]:
    from fedprune.data.images import picture_reader

    decode = picture_reader(data)
    for file in files:
        try:
            yield np.divide(decode(file), 255, dtype=np.float32)
        except Unusable as unusable:
            skipped.add(place_of(file), unusable)


def _of_examples(dataset: Dataset, model: ModelLook) -> Statistics:
    """Of inputs that are numbers."""
    x = dataset.x
    low, high = float(x.min()), float(x.max())
    notes: list[str] = []
    if model.pixel_scale is not None:
        if low >= 0 and high <= 1 and model.pixel_scale <= _LARGEST_PIXEL_SCALE:
            notes.append("the model rescales pixels of 0 to 255, which are 0 to 1 here: they are made 0 to 255 again")
            return Statistics(len(dataset), MinMax((0.0,), (1 / 255,)), tuple(notes), dataset)
        return Statistics(len(dataset), None, tuple(notes), dataset)
    if model.normalizes or (low >= 0 and high <= 1) or _is_own_target(dataset):
        return Statistics(len(dataset), None, tuple(notes), dataset)
    mean, std = _moments(x.reshape(-1, _columns(x, model)))
    if _is_tame(mean, std):
        return Statistics(len(dataset), None, tuple(notes), dataset)
    if constant := int(np.count_nonzero(std == 0)):
        notes.append(f"{constant} of {len(std)} columns are constant: they are 0 for the model, and may be left out")
    std = np.where(std == 0, 1.0, std)
    return Statistics(len(dataset), Standard(_rounded(mean), _rounded(std)), tuple(notes), dataset)


def _columns(x: Inputs, model: ModelLook) -> int:
    """The columns or channels that have statistics of their own, the last axis of x. 1 for all numbers together: where
    the model takes a single number for each place, as of grey pictures, and where there are too many."""
    takes = model.inputs[0]
    is_single = len(takes) > 1 and takes[-1] == 1
    return 1 if x.ndim == 1 or is_single or x.shape[-1] > MAX_COLUMNS else x.shape[-1]


def _moments(rows: Inputs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of each column of `rows`, `[rows, columns]`."""
    parts = range(0, len(rows), _PART)
    mean = sum(rows[start : start + _PART].sum(axis=0, dtype=np.float64) for start in parts) / len(rows)
    squares = sum(np.square(rows[start : start + _PART] - mean).sum(axis=0) for start in parts)
    return np.asarray(mean), np.sqrt(np.asarray(squares) / len(rows))


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    """To digits that a person can read."""
    return tuple(float(f"{value:.5g}") for value in values)


def _is_own_target(dataset: Dataset) -> bool:
    """True for an autoencoder's data, whose targets would stay on the scale that they have."""
    y = dataset.labels.get("y")
    x = dataset.inputs.get("x")
    return x is not None and y is not None and y.size == x.size and bool(np.array_equal(y.reshape(x.shape), x))


def _for_targets(dataset: Dataset, model: ModelLook) -> Normalization | None:
    """None for targets that a network learns as they are: of an autoencoder, those on a small scale, and those to whose
    scale the model's last layer brings its answers."""
    y = dataset.labels.get("y")
    if y is None or any(output.rescales for output in model.outputs) or _is_own_target(dataset):
        return None
    mean, std = _moments(y.reshape(-1, 1).astype(np.float32))
    return None if _is_tame(mean, std) else Standard(statistics="federated")


def _is_tame(mean: NDArray[np.float64], std: NDArray[np.float64]) -> bool:
    return bool(all(abs(mean) <= _TAME_MEAN) and all((std >= _TAME_STD[0]) & (std <= _TAME_STD[1])))
