"""Arrays in files, as their headers announce them: those of an `.npz`, or the `.npy` files of a directory.

Nothing is unpickled, and headers are checked before data are read, in parts.
"""

from __future__ import annotations

import io
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedprune.data.room import OpenFile, WorkingFile
from fedprune.data.stored_rows import Change, StoredRows
from fedprune.errors import DataError
from fedprune.system.disk import why_unreadable
from fedprune.system.paths import path_text

HOW = "write it with numpy.savez(file, x=examples, y=labels)"

_SUFFIX = ".npy"
_MAX_HEADER = 2**14
_PART = 2**14
_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Of a zip file's member: the signature, and the lengths of name and extra field, after which its bytes begin."""
_SIGNATURE = b"PK\x03\x04"
# What zipfile, zlib and numpy's header parser (it reads a Python literal) raise for damaged or hostile bytes.
_DAMAGED_ARCHIVE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, OverflowError, RuntimeError)
_DAMAGED_HEADER = (ValueError, TypeError, SyntaxError, tokenize.TokenError)


@dataclass(frozen=True, eq=False)
class ArrayFile:
    """An array as its header announces it. `open` gives its bytes, `size` of them, where its data begin at `offset`.

    `on_disk` opens the file in which these bytes stand as they are, and tells the place of the first one of its data;
    None where they are compressed, or in memory.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran_order: bool
    offset: int
    size: int
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    on_disk: Callable[[], tuple[OpenFile, int]] | None
    copy: WorkingFile | None = None
    """Gets the data of each part that is read."""

    @property
    def scalars(self) -> int:
        return math.prod(self.shape)

    def parts(self) -> Iterator[tuple[int, NDArray[np.generic]]]:
        """The scalars in the file's order, at most `_PART` at a time, each time with the first one's position."""
        width = self.dtype.itemsize
        size = self.offset + self.scalars * width
        if self.size != size:
            raise EOFError(f"{self.name}{_SUFFIX} has {self.size} bytes, its header says {size}")
        with self.open() as stream:
            stream.read(self.offset)
            for start in range(0, self.scalars, _PART):
                wanted = min(_PART, self.scalars - start) * width
                blob = stream.read(wanted)
                if len(blob) != wanted:
                    raise EOFError(f"{self.name}{_SUFFIX} is cut off")
                if self.copy is not None:
                    self.copy.append(memoryview(blob))
                yield start, np.frombuffer(blob, self.dtype)

    def stored_rows(self, change: Change, dtype: type[Any]) -> StoredRows:
        """Its rows as `change` gives them, read from the disk, or from the copy that was made of all parts."""
        if self.copy is not None:
            file, place = self.copy.finish(), 0
        else:
            assert self.on_disk is not None
            file, place = self.on_disk()
        row_shape = self.shape[1:]
        return StoredRows(file, place, self.shape[0], row_shape, self.dtype, row_shape, np.dtype(dtype), (change,))


@dataclass(frozen=True)
class ArrayFiles:
    """All arrays of a file or a directory by their names, of which each has its header read when it is asked for.
    `found` are the names of whatever is there."""

    found: Sequence[str]
    headers: Mapping[str, Callable[[], ArrayFile]]

    def array(self, name: str) -> ArrayFile:
        """Raises `DataError` where there is none of this name."""
        if name not in self.headers:
            shown = ", ".join(repr(other)[1:-1].removesuffix(_SUFFIX) for other in self.found[:5])
            raise DataError(f"it has no array {name!r} (it holds: {shown[:80] or 'nothing'}); {HOW}")
        return self.headers[name]()


@contextmanager
def array_files(file: Path | BinaryIO, origin: str) -> Iterator[ArrayFiles]:
    """The arrays of an `.npz`, or of a directory. Whatever is wrong with them becomes a `DataError`."""
    try:
        if isinstance(file, Path) and file.is_dir():
            yield _in_directory(file)
            return
        if isinstance(file, Path) and (why := why_unreadable(file)):
            raise DataError(f"{why}; name an .npz file with arrays x and y")
        with zipfile.ZipFile(file) as archive:
            infos = {info.filename.removesuffix(_SUFFIX): info for info in archive.infolist() if _is_array(info)}
            path = file if isinstance(file, Path) else None
            headers = {name: partial(_member, archive, info, name, path) for name, info in infos.items()}
            yield ArrayFiles(archive.namelist(), headers)
    except DataError as error:
        raise DataError(f"{origin}: {error}") from None
    except MemoryError as error:
        raise DataError(f"{origin}: its arrays do not fit into this machine's memory; split the file") from error
    except (*_DAMAGED_ARCHIVE, *_DAMAGED_HEADER) as error:
        raise DataError(f"{origin}: not a readable .npz ({brief(error)}); {HOW}") from error


def brief(thing: object) -> str:
    """One short line, also where the file's author chose the text."""
    return repr(str(thing))[1:-1][:80]


def _in_directory(directory: Path) -> ArrayFiles:
    files = sorted(file for file in directory.iterdir() if file.suffix.lower() == _SUFFIX and file.is_file())
    if not files:
        raise DataError(f"no {_SUFFIX} file is in it; name an .npz file, or put x.npy and y.npy there")
    return ArrayFiles([file.name for file in files], {file.stem: partial(_npy_file, file) for file in files})


def _npy_file(path: Path) -> ArrayFile:
    name = path_text(path.stem)
    with path.open("rb") as stream:
        shape, fortran_order, dtype, offset = _header(stream, name)

    def stream_of() -> IO[bytes]:
        return path.open("rb")

    size = path.stat().st_size
    return ArrayFile(name, shape, dtype, fortran_order, offset, size, stream_of, lambda: (_opened(path), offset))


def _is_array(info: zipfile.ZipInfo) -> bool:
    return info.filename.endswith(_SUFFIX)


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, path: Path | None) -> ArrayFile:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{name} is compressed in a way that numpy never does; {HOW}")
    with archive.open(info) as stream:
        shape, fortran_order, dtype, offset = _header(stream, name)

    def on_disk() -> tuple[OpenFile, int]:
        assert path is not None
        file, local = _opened(path), bytearray(_LOCAL_HEADER.size)
        file.read_into(memoryview(local), info.header_offset)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(local)
        if signature != _SIGNATURE:
            raise zipfile.BadZipFile("bad magic number for file header")
        return file, info.header_offset + _LOCAL_HEADER.size + name_length + extra_length + offset

    readable = path is not None and info.compress_type == zipfile.ZIP_STORED
    stream_of = partial(archive.open, info)
    return ArrayFile(
        name, shape, dtype, fortran_order, offset, info.file_size, stream_of, on_disk if readable else None
    )


def _opened(path: Path) -> OpenFile:
    return OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path_text(path))


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether it is in Fortran's order, dtype, and where the data begin."""
    head = io.BytesIO(stream.read(_MAX_HEADER))
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(head)
    if version not in readers:
        raise DataError(f"{name} is in .npy format {version[0]}.{version[1]}, which is for named fields; {HOW}")
    shape, fortran_order, dtype = readers[version](head)
    return shape, fortran_order, dtype, head.tell()
