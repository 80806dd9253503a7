"""The `.npz` loader and writer: examples `x`, labels `y`, and perhaps a `weight` of each example.

Where numbers of `x` are missing they are NaN, and `missing` says how many; without it NaN is a fault.

Models of several inputs or outputs have an array for each: `x_NAME`, `y_NAME`. Nothing is unpickled, and headers are
checked before data are read.

Data are read in parts, so that nothing is ever held twice.
"""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedprune.data.dataset import Dataset
from fedprune.errors import DataError
from fedprune.model.forms import MAX_ENDS, is_name
from fedprune.model.losses import Labels
from fedprune.model.tensors import Array, Inputs
from fedprune.system.disk import Directory, why_unreadable

MAX_BYTES = 2**31
"""Bytes that all examples or all labels may take in memory, as stored and as loaded."""

MAX_CLASSES = 2**16

_LARGEST_ID = 2**31 - 1

_WEIGHT = "weight"
_MISSING = "missing"

_HOW = "write it with numpy.savez(file, x=examples, y=labels)"
_MAX_HEADER = 2**14
_PART = 2**14
_EPOCH = (1980, 1, 1, 0, 0, 0)
# What zipfile, zlib and numpy's header parser (it reads a Python literal) raise for damaged or hostile bytes.
_DAMAGED_ARCHIVE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, OverflowError, RuntimeError)
_DAMAGED_HEADER = (ValueError, TypeError, SyntaxError, tokenize.TokenError)


@dataclass(frozen=True)
class _Member:
    """An array in the archive, as its header announces it; `offset` is where its data begin."""

    name: str
    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran_order: bool
    offset: int


@dataclass(frozen=True)
class _Archive:
    """A file and what it announces. `weight` is None where it has none; of the inputs' numbers `missing` are NaN."""

    zip: zipfile.ZipFile
    inputs: tuple[_Member, ...]
    labels: tuple[_Member, ...]
    weight: _Member | None
    missing: int


def load_npz(file: Path | BinaryIO, origin: str = "") -> Dataset:
    """Load `x` `[examples, ...]` and `y` `[examples, ...]`, or `x_NAME` and `y_NAME` for each input and output.

    Messages call the file `origin`, or else by its path.

    x: uint8 is divided by 255, as image models expect; floats are kept, as float32; larger integers are token ids,
    kept as int32. y: integers become int64, floats float32. One integer for each example is its class number, from 0;
    what several are (classes of places, one-hot rows, numbers) depends on the task. `weight` `[examples]`, if it is
    there, is how much each example counts in training, a number that is not negative.

    Raises `DataError` for a file that is missing or no .npz, lacks x or y, or holds arrays that cannot be examples
    and labels: wrong shapes or dtypes, different lengths, NaN or infinity, negative class numbers, nothing at all, or
    more than `MAX_BYTES`. Whether labels suit a task is for `fit_to` to say.
    """
    origin = origin or str(file)
    with _opened(file, origin) as archive:
        inputs = _inputs(archive)
        return Dataset(
            inputs,
            {member.name: _label(archive.zip, member) for member in archive.labels},
            origin,
            None
            if archive.weight is None
            else _joined(archive.weight, _weights(archive.zip, archive.weight), np.float32),
        )


def load_inputs(file: Path | BinaryIO, origin: str = "") -> dict[str, Inputs]:
    """The inputs that `load_npz` would load, by their names; of labels nothing is read, and there need be none."""
    with _opened(file, origin or str(file), has_labels=False) as archive:
        return _inputs(archive)


def count_examples(file: Path | BinaryIO, origin: str = "") -> int:
    """Count the examples that `load_npz` would load. Raises for the same files, but holds no more than a part of an
    array."""
    with _opened(file, origin or str(file)) as archive:
        missing = 0
        for member in archive.inputs:
            for _, part in _ids(archive.zip, member) if _are_ids(member) else _numbers(archive, member):
                missing += int(np.count_nonzero(np.isnan(part)))
        _check_missing(missing, archive)
        for member in archive.labels:
            for _ in _floats(archive.zip, member) if member.dtype.kind == "f" else _integers(archive.zip, member):
                pass
        if archive.weight is not None:
            for _ in _weights(archive.zip, archive.weight):
                pass
        return archive.labels[0].shape[0]


def save_npz(path: Path, dataset: Dataset) -> None:
    """Write what `load_npz` reads, whole or not at all. Equal data make equal bytes.

    Raises `StorageError` where the operating system refuses, for example when the disk is full.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        weight = {} if dataset.weight is None else {_WEIGHT: dataset.weight}
        count = _count_missing(dataset.inputs.values())
        missing = {_MISSING: np.array(count)} if count else {}
        for name, array in (*dataset.inputs.items(), *dataset.labels.items(), *weight.items(), *missing.items()):
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as member:
                npy.write_array(member, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    Directory(path.parent).write(path.name, buffer.getvalue())


@contextmanager
def _opened(file: Path | BinaryIO, origin: str, *, has_labels: bool = True) -> Iterator[_Archive]:
    """The archive and what it announces, labels if it `has_labels`. Whatever is wrong with it becomes a `DataError`."""
    if isinstance(file, Path) and (why := why_unreadable(file)):
        raise DataError(f"{origin}: {why}; name an .npz file with arrays x and y")
    try:
        with zipfile.ZipFile(file) as archive:
            inputs = tuple(_member(archive, name) for name in _names(archive, "x"))
            labels = tuple(_member(archive, name) for name in _names(archive, "y")) if has_labels else ()
            has_weight = has_labels and f"{_WEIGHT}.npy" in archive.namelist()
            weight = _member(archive, _WEIGHT) if has_weight else None
            _check_inputs(inputs)
            _check_labels(labels)
            _check_lengths(inputs, labels, weight)
            yield _Archive(archive, inputs, labels, weight, _missing(archive))
    except DataError as error:
        raise DataError(f"{origin}: {error}") from None
    except MemoryError as error:
        raise DataError(f"{origin}: its arrays do not fit into this machine's memory; split the file") from error
    except (*_DAMAGED_ARCHIVE, *_DAMAGED_HEADER) as error:
        raise DataError(f"{origin}: not a readable .npz ({_brief(error)}); {_HOW}") from error


def _names(archive: zipfile.ZipFile, letter: str) -> list[str]:
    """The arrays of all inputs, or outputs: the one that is called by the letter alone, or else those with a name
    after it."""
    found = dict.fromkeys(entry.removesuffix(".npy") for entry in archive.namelist() if entry.endswith(".npy"))
    several = [name for name in found if name.startswith(f"{letter}_") and is_name(name[2:])]
    if letter in found or not several:
        return [letter]
    if len(several) > MAX_ENDS:
        raise DataError(f"it has {len(several)} arrays {letter}_NAME; a model has at most {MAX_ENDS}")
    return several


def _member(archive: zipfile.ZipFile, name: str) -> _Member:
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        found = ", ".join(repr(other)[1:-1].removesuffix(".npy") for other in archive.namelist()[:5])
        raise DataError(f"it has no array {name!r} (it holds: {found[:80] or 'nothing'}); {_HOW}") from None
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{name} is compressed in a way that numpy never does; {_HOW}")
    with archive.open(info) as stream:
        head = io.BytesIO(stream.read(_MAX_HEADER))
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(head)
    if version not in readers:
        raise DataError(f"{name} is in .npy format {version[0]}.{version[1]}, which is for named fields; {_HOW}")
    shape, fortran_order, dtype = readers[version](head)
    return _Member(name, info, shape, dtype, fortran_order, head.tell())


def _missing(archive: zipfile.ZipFile) -> int:
    """The number of missing values that the file announces."""
    if f"{_MISSING}.npy" not in archive.namelist():
        return 0
    member = _member(archive, _MISSING)
    if math.prod(member.shape) != 1 or member.dtype.kind not in "iu":
        raise DataError(f"{_MISSING} is {_brief(member.dtype)} of shape {_brief(member.shape)}; it must be one integer")
    ((_, value),) = _parts(archive, member)
    return int(cast(NDArray[np.integer[Any]], value)[0])


def _count_missing(inputs: Iterable[Inputs]) -> int:
    numbers = (x.reshape(-1) for x in inputs if x.dtype == np.float32)
    return sum(
        int(np.count_nonzero(np.isnan(flat[start : start + _PART])))
        for flat in numbers
        for start in range(0, len(flat), _PART)
    )


def _check_missing(found: int, archive: _Archive) -> None:
    if found != archive.missing:
        raise DataError(
            f"{found} numbers of x are missing (NaN), and {_MISSING} says {archive.missing}; correct one of them"
        )


def _check_inputs(inputs: Sequence[_Member]) -> None:
    for x in inputs:
        if x.dtype.kind not in "iuf":
            raise DataError(
                f"{x.name} is {_brief(x.dtype)}; save it as uint8 (pixels, 0 to 255), as float32, or token ids as int32"
            )
        if len(x.shape) < 2:
            raise DataError(
                f"{x.name} has shape {_brief(x.shape)}; it must be [examples, ...], at least 2-D: reshape it"
            )


def _check_labels(labels: Sequence[_Member]) -> None:
    for y in labels:
        if y.dtype.kind not in "biuf":
            raise DataError(
                f"{y.name} is {_brief(y.dtype)}; save class numbers as int64, what else a model learns as float32"
            )
        if not y.shape:
            raise DataError(f"{y.name} has shape (); it must be [examples, ...], a label for each example: reshape it")


def _check_lengths(inputs: Sequence[_Member], labels: Sequence[_Member], weight: _Member | None) -> None:
    first = inputs[0]
    for x in inputs[1:]:
        if x.shape[0] != first.shape[0]:
            raise DataError(
                f"{first.name} has {first.shape[0]} examples and {x.name} has {x.shape[0]}; they must match one to "
                "one: save as many, or for a model of one input a single array x"
            )
    for y in labels:
        if y.shape[0] != first.shape[0]:
            raise DataError(
                f"{first.name} has {first.shape[0]} examples and {y.name} has {y.shape[0]} labels; they must match one "
                "to one"
            )
    for members, least_bytes in ((inputs, 4), (labels, 8)):
        for member in members:
            if min(member.shape) < 1:
                raise DataError(
                    f"it is empty: {member.name} has shape {_brief(member.shape)}; save at least one example"
                )
        if sum(math.prod(member.shape) * max(least_bytes, member.dtype.itemsize) for member in members) > MAX_BYTES:
            shapes = " and ".join(f"{member.name} has shape {_brief(member.shape)}" for member in members)
            raise DataError(f"{shapes}, more than {MAX_BYTES >> 20} MiB in memory; split the file")
    if weight is not None and (weight.shape != first.shape[:1] or weight.dtype.kind not in "iuf"):
        raise DataError(
            f"{_WEIGHT} is {_brief(weight.dtype)} of shape {_brief(weight.shape)}; it must be a number for each of the "
            f"{first.shape[0]} examples"
        )


def _inputs(archive: _Archive) -> dict[str, Inputs]:
    inputs = {member.name: _input(archive, member) for member in archive.inputs}
    _check_missing(_count_missing(inputs.values()), archive)
    return inputs


def _input(archive: _Archive, x: _Member) -> Inputs:
    return _joined(x, _ids(archive.zip, x), np.int32) if _are_ids(x) else _joined(x, _numbers(archive, x), np.float32)


def _label(archive: zipfile.ZipFile, y: _Member) -> Labels:
    if y.dtype.kind == "f":
        return _joined(y, _floats(archive, y), np.float32)
    return _joined(y, _integers(archive, y), np.int64)


def _numbers(archive: _Archive, x: _Member) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """x as a model takes it, part by part as `_floats` gives them."""
    for start, values in _floats(archive.zip, x, may_lack=archive.missing > 0):
        if x.dtype == np.uint8:
            values /= np.float32(255)
        yield start, values


def _ids(archive: zipfile.ZipFile, x: _Member) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Token ids, part by part. Whether a model knows them is for `fit_to` to say."""
    for start, part in _parts(archive, x):
        part = cast(NDArray[np.integer[Any]], part)
        wrong = np.flatnonzero((part < 0) | (part > _LARGEST_ID))
        if len(wrong):
            raise DataError(
                f"{x.name} holds the integer {part[wrong[0]]}; token ids are from 0 to {_LARGEST_ID}: save other "
                "numbers as float32"
            )
        yield start, part.astype(np.int32)


def _weights(archive: zipfile.ZipFile, weight: _Member) -> Iterator[tuple[int, Array]]:
    """Sample weights, part by part."""
    for start, values in _floats(archive, weight):
        if (values < 0).any():
            first = int((values < 0).argmax())
            raise DataError(
                f"{_WEIGHT} is negative for example {start + first}; give it 0 if it is not to count, or leave it out"
            )
        yield start, values


def _floats(
    archive: zipfile.ZipFile, member: _Member, *, may_lack: bool = False
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Float32, part by part in the file's order, each with its position. Raises `DataError` after the last one."""
    count, scalars = member.shape[0], math.prod(member.shape)
    spoilt = np.zeros(count, np.bool_)
    for start, part in _parts(archive, member):
        with np.errstate(over="ignore"):
            values = part.astype(np.float32)
        wrong = start + np.flatnonzero(np.isinf(values) if may_lack else ~np.isfinite(values))
        spoilt[wrong % count if member.fortran_order else wrong // (scalars // count)] = True
        yield start, values
    if spoilt.any():
        raise DataError(
            f"{np.count_nonzero(spoilt)} examples of {member.name} hold NaN, infinity or more than float32 can, the "
            f"first is example {spoilt.argmax()}; correct or remove them"
        )


_Scalar = TypeVar("_Scalar", np.float32, np.int32, np.int64)


def _joined(member: _Member, parts: Iterator[tuple[int, NDArray[_Scalar]]], dtype: type[_Scalar]) -> NDArray[_Scalar]:
    flat = np.empty(math.prod(member.shape), dtype)
    for start, part in parts:
        flat[start : start + len(part)] = part
    return np.ascontiguousarray(flat.reshape(member.shape, order="F" if member.fortran_order else "C"))


def _are_ids(x: _Member) -> bool:
    return x.dtype.kind in "iu" and x.dtype != np.uint8


def _integers(archive: zipfile.ZipFile, y: _Member) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Labels that are integers, part by part. Raises `DataError` after the last one."""
    single = math.prod(y.shape) == y.shape[0]
    lowest, highest = (0, MAX_CLASSES - 1) if single else (-_LARGEST_ID, _LARGEST_ID)
    smallest = largest = 0
    for start, part in _parts(archive, y):
        smallest, largest = min(smallest, int(part.min())), max(largest, int(part.max()))
        yield start, part.astype(np.int64)
    if smallest < lowest or largest > highest:
        wrong = smallest if smallest < lowest else largest
        raise DataError(
            f"label {wrong} in {y.name} is out of range; "
            + (f"classes are numbered from 0 to at most {highest}" if single else f"integers are {highest} at most")
            + ": save numbers that are no classes as float32"
        )


def _parts(archive: zipfile.ZipFile, member: _Member) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """An array's scalars in the file's order, at most `_PART` at a time, each time with the first one's position."""
    scalars, width = math.prod(member.shape), member.dtype.itemsize
    size = member.offset + scalars * width
    if member.info.file_size != size:
        raise EOFError(f"{member.info.filename} has {member.info.file_size} bytes, its header says {size}")
    with archive.open(member.info) as stream:
        stream.read(member.offset)
        for start in range(0, scalars, _PART):
            wanted = min(_PART, scalars - start) * width
            blob = stream.read(wanted)
            if len(blob) != wanted:
                raise EOFError(f"{member.info.filename} is cut off")
            yield start, np.frombuffer(blob, member.dtype)


def _brief(thing: object) -> str:
    """One short line, also where the file's author chose the text."""
    return repr(str(thing))[1:-1][:80]
