"""Named arrays as the bytes of a safetensors file, which other tools can read.

The library is imported where it is used: an agent that only waits has nothing to pack.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def pack_tensors(tensors: Mapping[str, NDArray[np.generic]], metadata: dict[str, str] | None = None) -> bytes:
    """The file's bytes; `metadata` goes into its header."""
    import safetensors.numpy

    arrays = {name: np.asarray(array) for name, array in tensors.items()}  # sums of arrays without axes are scalars
    return safetensors.numpy.save(arrays, metadata)


def unpack_tensors(blob: bytes) -> dict[str, NDArray[np.float32]]:
    """The arrays by name. Raises `ValueError` for what is no safetensors file, or a damaged one."""
    import safetensors.numpy

    try:
        return safetensors.numpy.load(blob)
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(str(error)) from error
