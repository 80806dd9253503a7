"""Arrays in `.npy` files of one directory, `x.npy` and `y.npy`."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import BinaryIO

from fedprune.data.npz import MAX_BYTES
from fedprune.data.tables.rows import files_in
from fedprune.errors import DataError
from fedprune.system.paths import path_text

_SUFFIX = ".npy"


def packed(directory: Path) -> BinaryIO:
    """All `.npy` files of a directory as the `.npz` that would hold them, in memory: so the same checks are for both.

    Raises `DataError` where there is none, or they are too large.
    """
    files = files_in(directory, (_SUFFIX,))
    if not files:
        raise DataError(
            f"{path_text(directory)}: no {_SUFFIX} file is in it; name an .npz file, or put x.npy and y.npy there"
        )
    blob = io.BytesIO()
    try:
        if sum(file.stat().st_size for file in files) > MAX_BYTES:
            raise DataError(f"{path_text(directory)}: more than {MAX_BYTES >> 20} MiB; split the data")
        with zipfile.ZipFile(blob, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
            for file in files:
                archive.write(file, file.name)
    except OSError as error:
        raise DataError(f"{path_text(directory)}: {error.strerror}; make its files readable") from error
    except ValueError as error:  # names that are no text
        raise DataError(f"{path_text(directory)}: {error}; rename its files") from error
    except MemoryError as error:
        raise DataError(f"{path_text(directory)}: more than this machine's memory; save one .npz, or less") from error
    return blob
